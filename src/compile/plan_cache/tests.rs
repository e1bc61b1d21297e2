use serde_json::{Value, json};
use superstep_passes::plan::matmul::PlanStyle;

use super::*;
use crate::compile::loss_chunks::fit;
use crate::compile::{Compiled, NoGraphs, compile_training, testing};
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::precision::{Precision, PrecisionSettings};
use crate::settings::TrainingSettings;

fn config() -> Gpt2Config {
    testing::config(3, 97)
}

/// So small that all layers on one IPU is the second thing that fits; one layer on each of three is what is tried when that does not.
fn machine() -> Machine {
    Machine {
        tiles_per_ipu: 16,
        tile_memory: 128 << 10,
        ..Machine::preset("pod4").unwrap()
    }
}

fn settings() -> TrainingSettings {
    TrainingSettings {
        accumulation: 12,
        pipelined: true,
        ..TrainingSettings::plain(machine(), 16, 2)
    }
}

/// Compiles with what `folder` keeps.
fn compiled(folder: &Path, settings: &TrainingSettings) -> Result<Compiled, Error> {
    let plans = PlanCache::at(folder.to_path_buf()).unwrap();
    let compiled = compile_training("small", &config(), settings, &plans, &mut NoGraphs);
    compiled.map(without_times)
}

/// A compilation from scratch.
fn cold(settings: &TrainingSettings) -> Compiled {
    let plans = PlanCache::none();
    let compiled = compile_training("small", &config(), settings, &plans, &mut NoGraphs);
    without_times(compiled.unwrap())
}

fn without_times(mut compiled: Compiled) -> Compiled {
    compiled.manifest.passes.clear();
    compiled
}

/// The bytes of the executable, but for the times of its compilation.
fn bytes(compiled: &Compiled) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.superstep");
    crate::compile::save(compiled, &file).unwrap();
    fs::read(file).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn only_file(folder: &Path) -> PathBuf {
    let files = files(folder);
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

/// Changes what the only file of `folder` says, and keeps it a whole file.
fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let file = only_file(folder);
    let text = fs::read_to_string(&file).unwrap();
    let mut book: Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
    change(&mut book);
    let book = serde_json::to_vec(&book).unwrap();
    fs::write(&file, [heading(&book).as_bytes(), &book].concat()).unwrap();
}

#[test]
fn a_warm_compilation_gives_the_same_bytes_and_learns_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spread = TrainingSettings {
        layers_per_ipu: Some(vec![0, 1, 2]),
        ..settings()
    };
    let half = TrainingSettings {
        precision: PrecisionSettings::of(Precision::Recipe),
        matmul_plan: PlanStyle::Gather,
        ..settings()
    };
    for settings in [settings(), spread, half] {
        let cold = bytes(&cold(&settings));
        assert_eq!(bytes(&compiled(folder.path(), &settings).unwrap()), cold);
        let kept = fs::read(only_file(folder.path())).unwrap();
        for _ in 0..2 {
            assert_eq!(bytes(&compiled(folder.path(), &settings).unwrap()), cold);
        }
        assert_eq!(fs::read(only_file(folder.path())).unwrap(), kept);
    }
}

#[test]
fn another_number_of_micro_batches_needs_no_other_plans() {
    let folder = tempfile::tempdir().unwrap();
    compiled(folder.path(), &settings()).unwrap();
    let plans = PlanCache::at(folder.path().to_path_buf()).unwrap();
    let known = |what: &str| {
        let book = serde_json::to_value(plans.open(&machine())).unwrap();
        book[what].as_array().unwrap().len()
    };
    let (fronts, choices) = (known("fronts"), known("choices"));
    assert!(fronts > 5 && choices == 1, "{fronts} {choices}");
    let other = TrainingSettings {
        accumulation: 20,
        ..settings()
    };
    assert_eq!(
        compiled(folder.path(), &other).unwrap().program,
        cold(&other).program
    );
    assert_eq!((known("fronts"), known("choices")), (fronts, 2));
}

#[test]
fn a_choice_is_where_the_search_starts() {
    let folder = tempfile::tempdir().unwrap();
    let cold = cold(&settings());
    compiled(folder.path(), &settings()).unwrap();
    let choose = |layers: &[u32], budget: u64| {
        edit(folder.path(), |book| {
            book["choices"][0][1] =
                json!({"layers_per_ipu": layers, "grants": vec![budget; layers.len()]});
        });
    };
    assert_eq!(cold.manifest.layers_per_ipu, [3]);
    choose(&[1, 1, 1], 2);
    let chosen = compiled(folder.path(), &settings()).unwrap();
    assert_eq!(chosen.manifest.layers_per_ipu, [1, 1, 1]);
    // What cannot be is not believed.
    for (layers, budget) in [(&[7][..], 0), (&[], 0), (&[0, 0, 0, 0, 3], 0)] {
        choose(layers, budget);
        let found = compiled(folder.path(), &settings()).unwrap();
        assert_eq!(found.program, cold.program, "{layers:?} {budget}");
    }
    choose(&[3], 99);
    assert_eq!(
        compiled(folder.path(), &settings())
            .unwrap()
            .manifest
            .layers_per_ipu,
        [3]
    );
}

#[test]
fn so_is_a_number_of_loss_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let cold = cold(&settings());
    compiled(folder.path(), &settings()).unwrap();
    for (chunks, expected) in [(4, 4), (0, 1), (2, 2), (1000, 1)] {
        edit(folder.path(), |book| {
            book["chunks"][0][1] = json!(chunks);
        });
        let found = compiled(folder.path(), &settings()).unwrap();
        assert_eq!(found.manifest.loss_chunks, expected);
        assert_eq!(found.program == cold.program, expected == 1);
    }
}

#[test]
fn what_is_not_what_was_written_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cold = cold(&settings());
    compiled(folder.path(), &settings()).unwrap();
    let file = only_file(folder.path());
    let good = fs::read(&file).unwrap();
    let plans = PlanCache::at(folder.path().to_path_buf()).unwrap();
    assert_ne!(plans.open(&machine()), PlanBook::new(&machine()));
    let changed = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    let middle = good.len() / 2;
    let damaged = [
        vec![],
        b"superstep plans".to_vec(),
        b"superstep plans 1 00\n{}".to_vec(),
        [heading(b"{}").as_bytes(), b"{}"].concat(),
        vec![0; 5000],
        good[..good.len() - 1].to_vec(),
        changed(0, b'S'),
        changed(middle, good[middle] ^ 1),
    ];
    for bad in damaged {
        fs::write(&file, &bad).unwrap();
        assert_eq!(plans.open(&machine()), PlanBook::new(&machine()));
        let again = compiled(folder.path(), &settings()).unwrap();
        assert_eq!(again.program, cold.program);
        assert_eq!(fs::read(&file).unwrap(), good);
    }
    // Whole, but of no use.
    edit(folder.path(), |book| book["fronts"][0][1] = json!([]));
    assert_eq!(plans.open(&machine()), PlanBook::new(&machine()));
    edit(folder.path(), |book| {
        book["machine"]["sync_cycles"] = json!(1)
    });
    assert_eq!(plans.open(&machine()), PlanBook::new(&machine()));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(
        compiled(folder.path(), &settings()).unwrap().program,
        cold.program
    );
}

#[test]
fn machines_have_books_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut faster = settings();
    faster.machine.exchange_bytes_per_cycle *= 4.0;
    compiled(folder.path(), &settings()).unwrap();
    assert_eq!(
        compiled(folder.path(), &faster).unwrap().program,
        cold(&faster).program
    );
    assert_eq!(files(folder.path()).len(), 2);
    // A book is never used for another machine, wherever it comes from.
    let plans = PlanCache::at(folder.path().to_path_buf()).unwrap();
    let mut book = plans.open(&machine());
    let (placed, _) = fit(&config(), &faster, &mut book, &mut NoGraphs).unwrap();
    assert_eq!(placed.program, cold(&faster).program);
    assert_eq!(book.machine(), &faster.machine);
}

#[test]
fn books_that_were_written_at_the_same_time_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let plans = PlanCache::at(folder.path().to_path_buf()).unwrap();
    let books = [12, 24].map(|accumulation| {
        let settings = TrainingSettings {
            accumulation,
            ..settings()
        };
        let mut book = plans.open(&machine());
        fit(&config(), &settings, &mut book, &mut NoGraphs).unwrap();
        book
    });
    for book in books {
        plans.keep(book);
    }
    let mut book = plans.open(&machine());
    let all = serde_json::to_value(&book).unwrap();
    assert_eq!(all["choices"].as_array().unwrap().len(), 2);
    // A book that is too large forgets what it learnt first.
    let last = all["choices"][1].clone();
    assert!(book.forget_half());
    let rest = serde_json::to_value(&book).unwrap();
    assert_eq!(rest["choices"], json!([last]));
    while book.forget_half() {}
    assert_eq!(book, PlanBook::new(&machine()));
}

#[test]
fn files_that_were_not_used_for_longest_go() {
    let folder = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - std::time::Duration::from_secs(1000);
    for (i, name) in ["a.plans", "b.plans", "c.plans", "mine.txt"]
        .iter()
        .enumerate()
    {
        let path = folder.path().join(name);
        fs::write(&path, [0; 100]).unwrap();
        let time = old + std::time::Duration::from_secs(i as u64);
        File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
    let names = || -> Vec<String> {
        let names = files(folder.path()).into_iter();
        names
            .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let just_written = folder.path().join("a.plans");
    tidy(&just_written, 300).unwrap();
    assert_eq!(names().len(), 4);
    tidy(&just_written, 299).unwrap();
    assert_eq!(names(), ["a.plans", "c.plans", "mine.txt"]);
    tidy(&just_written, 0).unwrap();
    assert_eq!(names(), ["a.plans", "mine.txt"]);
}
