//! Runs that are killed at any moment (while they start, tokenise, compile, train, evaluate, save, write results), and runs for which the disk is full.
//! Whatever has its final name at any time is whole, and the run that goes on ends in the bits of one that had no accident.
//!
//! ```sh
//! cargo test --release --test accidents -- --ignored --nocapture       # a hundred kills and more, with a count of what they hit
//! ```

mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::{fixture, tiny_with_tokenizer, words};
use serde_json::Value;
use superstep::train::checkpoint::Checkpoint;
use superstep_ir::executable::Executable;
use superstep_ir::random::Stream;

/// Six steps, evaluated and saved twice, from text, with all that a run keeps in folders of its own.
const RUN: &str = "train --model_name_or_path {} --train_file {} --validation_file {} --do_eval --max_eval_samples 3 --eval_steps 3 --save_steps 2 \
                   --save_total_limit 2 --max_steps 6 --block_size 48 --per_device_train_batch_size 2 --gradient_accumulation_steps 2 \
                   --learning_rate 0.003 --warmup_steps 2 --weight_decay 0.01 --logging_steps 1 --machine ipu --threads 1 \
                   --config_overrides resid_pdrop=0.1,attn_pdrop=0.1";
/// What the names of unfinished files start with.
const UNFINISHED: &str = ".superstep-";
/// Fields that are measured with a clock.
const TIMES: [&str; 4] = [
    "_runtime",
    "_per_second",
    "step_seconds",
    "tokens_per_second",
];

/// The inputs of all runs.
struct Setup {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Setup {
    fn new() -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny_with_tokenizer(folder.path());
        let text = std::fs::read_to_string(fixture("text/austen.txt")).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for (name, part) in [
            ("train.txt", &lines[..3000]),
            ("held_out.txt", &lines[3000..3100]),
        ] {
            std::fs::write(folder.path().join(name), part.concat()).unwrap();
        }
        Setup { folder, model }
    }

    /// The folder of a run that has not begun.
    fn place(&self, name: &str) -> Place {
        let root = self.folder.path().join(name);
        for folder in ["out", "tokens", "executables", "plans"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        Place { root }
    }

    fn arguments(&self, place: &Place) -> Vec<String> {
        let file = |name: &str| self.folder.path().join(name);
        let mut arguments = words(
            RUN,
            &[&self.model, &file("train.txt"), &file("held_out.txt")],
        );
        for (option, folder) in [
            ("--output_dir", "out"),
            ("--cache_dir", "tokens"),
            ("--executable_cache_dir", "executables"),
            ("--plan_cache_dir", "plans"),
        ] {
            arguments.extend([
                option.to_owned(),
                place.root.join(folder).display().to_string(),
            ]);
        }
        arguments
    }

    fn start(&self, place: &Place) -> Child {
        Command::new(env!("CARGO_BIN_EXE_superstep"))
            .args(self.arguments(place))
            .env("HF_HUB_CACHE", "/nonexistent")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    }
}

/// Everything a run writes.
struct Place {
    root: PathBuf,
}

impl Place {
    fn out(&self) -> PathBuf {
        self.root.join("out")
    }

    /// All files and folders, the unfinished ones apart.
    fn listed(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut finished, mut unfinished, mut folders) = (vec![], vec![], vec![self.root.clone()]);
        while let Some(folder) = folders.pop() {
            // Folders come and go while the run goes on.
            let Ok(entries) = std::fs::read_dir(folder) else {
                continue;
            };
            for path in entries.flatten().map(|entry| entry.path()) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if name.starts_with(UNFINISHED) {
                    let inside = std::fs::read_dir(&path).into_iter().flatten().flatten();
                    unfinished.extend(inside.map(|entry| entry.path()));
                    unfinished.push(path);
                    continue;
                }
                if path.is_dir() {
                    folders.push(path.clone());
                }
                finished.push(path);
            }
        }
        (finished, unfinished)
    }
}

/// Looks at what has a final name, once for each file of that name.
#[derive(Default)]
struct Watcher {
    seen: BTreeSet<(PathBuf, u64, i64)>,
    looks: usize,
}

impl Watcher {
    fn look(&mut self, place: &Place) {
        for path in place.listed().0 {
            // Gone again: an old checkpoint, a replaced file.
            let Ok(known) = std::fs::metadata(&path) else {
                continue;
            };
            let version = (path.clone(), known.ino(), known.mtime_nsec());
            if self.seen.contains(&version) {
                continue;
            }
            if let Err(reason) = is_whole(&path) {
                let is_same = std::fs::metadata(&path).is_ok_and(|now| now.ino() == known.ino());
                assert!(!is_same, "{} is not whole: {reason}", path.display());
            }
            self.looks += 1;
            self.seen.insert(version);
        }
    }
}

fn is_whole(path: &Path) -> Result<(), String> {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    if path.is_dir() {
        return match name.starts_with("checkpoint-") {
            true => Checkpoint::open(path)
                .map(drop)
                .map_err(|error| error.to_string()),
            false => Ok(()),
        };
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let json = |bytes: &[u8]| {
        serde_json::from_slice::<Value>(bytes)
            .map(drop)
            .map_err(|e| e.to_string())
    };
    match ending {
        "json" => json(&bytes),
        // A log grows by lines; only its last may be missing its end.
        "jsonl" => {
            let end = bytes
                .iter()
                .rposition(|&b| b == b'\n')
                .map_or(0, |at| at + 1);
            bytes[..end]
                .split_inclusive(|&b| b == b'\n')
                .try_for_each(json)
        }
        "safetensors" => safetensors::SafeTensors::deserialize(&bytes)
            .map(drop)
            .map_err(|e| e.to_string()),
        "superstep" => Executable::from_bytes(&bytes)
            .map(drop)
            .map_err(|e| e.to_string()),
        "tokens" => bytes
            .ends_with(b"ssTOKENS")
            .then_some(())
            .ok_or_else(|| "no end".into()),
        "plans" => {
            let (head, book) =
                bytes.split_at(bytes.iter().position(|&b| b == b'\n').ok_or("no line")? + 1);
            let digest = blake3::hash(book).to_hex();
            head.ends_with(format!("{digest}\n").as_bytes())
                .then_some(())
                .ok_or_else(|| "another digest".into())
        }
        // The byte tokenizer's merges, and TensorBoard's logs, which its readers take with a cut end.
        _ if ending == "txt" || name.starts_with("events.out.tfevents") => Ok(()),
        _ => Err("nobody said what it is".into()),
    }
}

/// When to kill a run.
enum Moment {
    After(Duration),
    /// So long after the n-th unfinished file came up.
    Writing(usize, Duration),
}

/// Runs until it ends or its moment comes. Whether it was killed.
fn run(setup: &Setup, place: &Place, moment: Option<Moment>, watcher: &mut Watcher) -> bool {
    let mut child = setup.start(place);
    let (start, mut written) = (Instant::now(), BTreeSet::new());
    let mut due = match moment {
        Some(Moment::After(time)) => Some(start + time),
        _ => None,
    };
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let mut err = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut err).unwrap();
            assert!(status.success(), "{err}");
            watcher.look(place);
            return false;
        }
        if due.is_some_and(|due| Instant::now() >= due) {
            child.kill().unwrap();
            child.wait().unwrap();
            watcher.look(place);
            return true;
        }
        if let (Some(Moment::Writing(nth, delay)), None) = (&moment, due) {
            written.extend(place.listed().1);
            due = (written.len() >= *nth).then(|| Instant::now() + *delay);
        } else if due.is_none_or(|due| due > Instant::now() + Duration::from_millis(20)) {
            watcher.look(place);
        }
        assert!(start.elapsed() < Duration::from_secs(120), "it hangs");
    }
}

/// Everything that a finished run says, but for what a clock said; paths begin where the run's folder does.
fn outcome(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let mut outcome = BTreeMap::new();
    for path in place.listed().0.into_iter().filter(|path| path.is_file()) {
        let name = path
            .strip_prefix(&place.root)
            .unwrap()
            .display()
            .to_string();
        let bytes = std::fs::read(&path).unwrap();
        let timeless = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            let text = text.replace(&place.root.display().to_string(), "");
            let mut value: Value = serde_json::from_str(&text).unwrap();
            without_times(&mut value);
            value.to_string().into_bytes()
        };
        let kept = match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
            "jsonl" => bytes
                .split_inclusive(|&b| b == b'\n')
                .flat_map(timeless)
                .collect(),
            // The seal has the digests of files with times in them, and the program that was compiled then has passes' times.
            "json" if name.ends_with("superstep_checkpoint.json") => continue,
            "json" => timeless(&bytes),
            "safetensors" | "tokens" | "txt" => bytes,
            _ => continue,
        };
        outcome.insert(name, kept);
    }
    outcome
}

fn without_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !TIMES.iter().any(|time| name.ends_with(time)));
            fields.values_mut().for_each(without_times);
        }
        Value::Array(values) => values.iter_mut().for_each(without_times),
        _ => {}
    }
}

/// Kills runs until there were so many kills, each run until it is done.
fn kill(kills: usize) {
    let setup = Setup::new();
    let mut watcher = Watcher::default();
    let whole = setup.place("whole");
    let start = Instant::now();
    assert!(!run(&setup, &whole, None, &mut watcher));
    let longest = start.elapsed();
    let expected = outcome(&whole);
    let names: Vec<&String> = expected.keys().collect();
    for name in [
        "out/model.safetensors",
        "out/metrics.jsonl",
        "out/trainer_state.json",
        "out/checkpoint-6/optimizer.safetensors",
    ] {
        assert!(expected.contains_key(name), "{names:?}");
    }
    let draws = Stream::named(7, "kill");
    let mut draw = (0..).map(|i| draws.uniform_f64(i));
    let mut next = move || draw.next().unwrap();
    let (mut done, mut round, mut hit) = (0, 0, BTreeMap::<String, usize>::new());
    while done < kills {
        let place = setup.place(&format!("killed-{round}"));
        round += 1;
        loop {
            // Half of them while something is being written: those windows are short.
            let moment = match next() < 0.5 {
                true => Moment::After(longest.mul_f64(next())),
                false => Moment::Writing(
                    1 + (next() * 8.0) as usize,
                    Duration::from_micros((next() * 3000.0) as u64),
                ),
            };
            if !run(&setup, &place, Some(moment), &mut watcher) {
                break;
            }
            done += 1;
            *hit.entry(what_was_hit(&place)).or_default() += 1;
        }
        let found = outcome(&place);
        assert_eq!(found.keys().collect::<Vec<_>>(), names);
        for (name, bytes) in &expected {
            assert!(found[name] == *bytes, "{name} is another in round {round}");
        }
        let (_, unfinished) = Place { root: place.out() }.listed();
        assert_eq!(unfinished, Vec::<PathBuf>::new(), "leftovers stay");
        std::fs::remove_dir_all(&place.root).unwrap();
    }
    println!(
        "{done} kills in {round} runs, {} files looked at; hit: {hit:?}",
        watcher.looks
    );
}

/// Where a killed run left something unfinished; else how far it had come.
fn what_was_hit(place: &Place) -> String {
    let (finished, unfinished) = place.listed();
    let under = |folder: &str| {
        unfinished
            .iter()
            .any(|path| path.starts_with(place.root.join(folder)))
    };
    let has = |folder: &str| {
        finished
            .iter()
            .any(|path| path.parent() == Some(&place.root.join(folder)))
    };
    let folders = unfinished
        .iter()
        .any(|path| path.starts_with(place.out()) && path.is_dir());
    let what = match () {
        () if folders => "writing a checkpoint",
        () if under("out") => "writing results",
        () if under("executables") => "writing an executable",
        () if under("plans") => "writing plans",
        () if under("tokens") => "writing tokens",
        () if has("out") => "running",
        () => "starting",
    };
    what.to_owned()
}

#[test]
fn a_killed_run_ends_in_the_same_bits() {
    kill(12);
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_killed_runs_end_in_the_same_bits() {
    kill(100);
}

/// What a run says that may write no file larger than so many blocks of 512 bytes.
fn limited(setup: &Setup, place: &Place, blocks: u32) -> String {
    let shell = format!(
        "trap '' XFSZ; ulimit -f {blocks}; exec {} {}",
        env!("CARGO_BIN_EXE_superstep"),
        setup.arguments(place).join(" ")
    );
    let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("hint: make room"), "{err}");
    err
}

#[test]
fn a_full_disk_is_an_error_and_what_was_written_stays() {
    let setup = Setup::new();
    let mut watcher = Watcher::default();
    let place = setup.place("place");
    let says = |blocks, what: &str, watcher: &mut Watcher| {
        let err = limited(&setup, &place, blocks);
        let error = err
            .lines()
            .find(|line| line.starts_with("error: cannot write"));
        assert!(error.is_some_and(|error| error.contains(what)), "{err}");
        watcher.look(&place);
    };
    says(1, ".tokens", &mut watcher);
    assert!(!run(&setup, &place, None, &mut watcher));
    let expected = outcome(&place);
    let empty = |folder: &str| {
        std::fs::remove_dir_all(place.root.join(folder)).unwrap();
        std::fs::create_dir(place.root.join(folder)).unwrap();
    };
    // Half of the last checkpoint does not fit: the one before stays.
    std::fs::remove_dir_all(place.out().join("checkpoint-6")).unwrap();
    says(40, "checkpoint-6/model.safetensors", &mut watcher);
    says(400, "checkpoint-6/optimizer.safetensors", &mut watcher);
    Checkpoint::open(&place.out().join("checkpoint-4")).unwrap();
    assert!(!run(&setup, &place, None, &mut watcher));
    assert!(outcome(&place) == expected);
    // Others, from the start.
    empty("executables");
    empty("out");
    says(40, ".superstep", &mut watcher);
    assert!(!run(&setup, &place, None, &mut watcher));
    assert!(outcome(&place) == expected);
    empty("out");
    says(1, "metrics.jsonl", &mut watcher);
    assert!(!run(&setup, &place, None, &mut watcher));
    assert!(outcome(&place) == expected);
}
