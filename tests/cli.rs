//! The command line as a user meets it: every subcommand on small models, and what it leaves behind.

mod program;

use std::path::Path;

use program::{file, fixture, superstep, tiny_with_tokenizer, words};
use serde_json::Value;

/// Options of the tiny reference run.
const TINY: &str = "--block_size 48 --per_device_train_batch_size 2 --gradient_accumulation_steps 4 --weight_decay 0.01 --machine ipu";

fn metrics(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn numbers(lines: &[Value], field: &str) -> Vec<f64> {
    lines
        .iter()
        .map(|line| {
            line[field]
                .as_f64()
                .unwrap_or_else(|| panic!("{field} in {line}"))
        })
        .collect()
}

#[test]
fn help_and_version_are_at_hand() {
    assert!(superstep(&["--help"]).ok().out.contains("train"));
    assert!(
        superstep(&["train", "--help"])
            .ok()
            .out
            .contains("--per_device_train_batch_size")
    );
    assert!(superstep(&["--version"]).ok().out.starts_with("superstep "));
}

#[test]
fn plans_are_kept_where_the_user_says() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, plans) = (fixture("tiny"), folder.path().join("made/plans"));
    let compile = |name: &str, cache: &Path| {
        let out = folder.path().join(name);
        let line =
            format!("compile --model_name_or_path {{}} {TINY} --plan_cache_dir {{}} -o {{}}");
        superstep(&words(&line, &[&tiny, cache, &out])).ok();
        let compiled = superstep::compile::open(&out).unwrap();
        (compiled.program, compiled.manifest.products)
    };
    let without = compile("none.superstep", Path::new("none"));
    let files = || {
        std::fs::read_dir(&plans)
            .unwrap()
            .map(|e| e.unwrap().path())
    };
    assert_eq!(compile("cold.superstep", &plans), without);
    let kept: Vec<_> = files().collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(compile("warm.superstep", &plans), without);
    std::fs::write(&kept[0], "superstep plans 1").unwrap();
    assert_eq!(compile("damaged.superstep", &plans), without);
    assert!(files().eq(kept));
    assert!(!Path::new("none").exists());
}

#[test]
fn compile_then_report_then_train_the_executable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.superstep");
    let tiny = fixture("tiny");
    let line = format!("compile --model-name-or-path {{}} {TINY} -o {{}}");
    let out = superstep(&words(&line, &[&tiny, &file])).ok().out;
    assert!(
        out.contains("samples/s") && out.contains("fullest tile"),
        "{out}"
    );

    let out = superstep(&words("report {}", &[&file])).ok().out;
    assert!(
        out.contains("h.*.mlp.c_fc") && out.contains("exchange"),
        "{out}"
    );
    let out = superstep(&words("report {} --each --ops 1000", &[&file]))
        .ok()
        .out;
    assert!(out.contains("h.0.mlp.c_fc"), "{out}");

    let json = folder.path().join("report.json");
    superstep(&words("report {} --json {}", &[&file, &json])).ok();
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["model"]["parameters"], 43_904);
    assert_eq!(report["machine"]["tiles_per_ipu"], 1472);
    for pointer in [
        "/schema",
        "/machine/clock_hz",
        "/machine/tile_memory",
        "/pod/replicas",
        "/pod/ipus_per_replica",
        "/pod/stages/0/layers",
        "/memory/ipus/0/max_tile_bytes",
        "/memory/ipus/0/total_bytes",
        "/memory/ipus/0/by_category/weight",
        "/code/ipus/0/total/exchange_code",
        "/code/ipus/0/fullest_tile_bytes",
        "/code/ipus/0/average_tile/vertex_state",
        "/time/cycles_per_micro_batch",
        "/time/cycles_per_update",
        "/time/seconds_per_update",
        "/time/samples_per_second",
        "/time/compute_cycles",
        "/time/exchange_cycles",
        "/time/sync_cycles",
        "/ops/0/cycles",
        "/ops/0/flops",
        "/ops/0/bytes_exchanged",
        "/ops/0/tiles",
        "/passes/0/seconds",
        "/classes/0/executions",
        "/classes/0/roofline/bound",
        "/efficiency/ipus/0/waiting_cycles",
        "/efficiency/bounds/arithmetic",
        "/efficiency/parallel_efficiency",
    ] {
        assert!(report.pointer(pointer).is_some(), "{pointer} is missing");
    }

    let steps = folder.path().join("steps.csv");
    superstep(&words("report {} --steps {}", &[&file, &steps])).ok();
    let text = std::fs::read_to_string(&steps).unwrap();
    let mut cycles = 0;
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), 12, "{line}");
        let number = |i: usize| cells[i].parse::<u64>().unwrap();
        cycles += number(6) * number(7);
        let shares = cells[9..11].iter().filter(|cell| !cell.is_empty());
        assert!(
            shares.map(|s| s.parse::<f64>().unwrap()).all(|s| s <= 1.0),
            "{line}"
        );
    }
    assert_eq!(cycles, report["time"]["cycles_per_update"]);

    // The ledger explains every cycle, of the step, of its classes of ops and of its ops.
    let sum = |ledger: &Value| -> u64 {
        let causes = ledger.as_object().unwrap().values();
        causes.map(|cycles| cycles.as_u64().unwrap()).sum()
    };
    assert_eq!(
        sum(&report["efficiency"]["ledger"]),
        report["time"]["cycles_per_update"]
    );
    for table in ["classes", "ops"] {
        for row in report[table].as_array().unwrap() {
            assert_eq!(sum(&row["ledger"]), row["cycles"], "{row}");
        }
    }

    // The executable and the model give the run that the model alone gives.
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let data =
        "--train_tokens {} --shuffle false --max_steps 2 --learning_rate 0.003 --output_dir {}";
    let line = format!("train --executable {{}} --model_name_or_path {{}} {data}");
    superstep(&words(
        &line,
        &[&file, &tiny, &tiny.join("tokens.json"), &a],
    ))
    .ok();
    let line = format!("train --model_name_or_path {{}} {TINY} {data}");
    superstep(&words(&line, &[&tiny, &tiny.join("tokens.json"), &b])).ok();
    assert_eq!(numbers(&metrics(&a), "loss"), numbers(&metrics(&b), "loss"));
    assert_eq!(
        std::fs::read(a.join("model.safetensors")).unwrap(),
        std::fs::read(b.join("model.safetensors")).unwrap()
    );

    // What it was compiled with cannot be changed afterwards.
    let line = "train --executable {} --train_tokens {} --gradient_accumulation_steps 3";
    superstep(&words(line, &[&file, &tiny.join("tokens.json")]))
        .fails(1, "--gradient_accumulation_steps 3 contradicts");
}

/// Presets have dropout, whose seed every tile needs whole, however its rows are cut.
#[test]
fn a_preset_with_dropout_compiles_for_any_machine() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.superstep");
    for machine in ["mk2", "bow", "c600", "pod4"] {
        let line = "compile --model_name_or_path gpt2-tiny --block_size 64 --machine";
        let line = format!("{line} {machine} -o {{}}");
        let out = superstep(&words(&line, &[&file])).ok().out;
        assert!(out.contains(&format!("{machine}: ")), "{out}");
    }
}

#[test]
fn training_follows_the_reference_and_leaves_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let tiny = fixture("tiny");
    let line = format!(
        "train --model_name_or_path {{}} {TINY} --train_tokens {{}} --shuffle false --max_steps 3 --learning_rate 0.003 \
         --warmup_steps 1 --output_dir {{}}"
    );
    superstep(&words(&line, &[&tiny, &tiny.join("tokens.json"), &out])).ok();
    let lines = metrics(&out);
    let expected: Value =
        serde_json::from_slice(&std::fs::read(tiny.join("expected.json")).unwrap()).unwrap();
    // The first two steps see the initial weights: a warm-up starts at 0.
    for (step, loss) in numbers(&lines, "loss").into_iter().enumerate().take(2) {
        let wanted = expected["train"]["loss"][step].as_f64().unwrap();
        assert!(
            (loss - wanted).abs() < 1e-5,
            "step {step}: {loss}, expected {wanted}"
        );
    }
    let norm = expected["train"]["grad_norm"][0].as_f64().unwrap();
    assert!((numbers(&lines, "grad_norm")[0] / norm - 1.0).abs() < 1e-5);
    assert_eq!(numbers(&lines, "step"), [0.0, 1.0, 2.0]);
    assert_eq!(numbers(&lines, "learning_rate"), [0.0, 0.003, 0.0015]);
    assert!(
        numbers(&lines, "simulated_seconds")
            .iter()
            .all(|&s| s > 0.0)
    );
    for file in ["config.json", "model.safetensors"] {
        assert!(out.join(file).is_file(), "{file}");
    }

    // The saved model is a model.
    let results = folder.path().join("results");
    let line = "eval --model_name_or_path {} --validation_file {} --output_dir {} --machine ipu";
    let tokens = folder.path().join("some.json");
    std::fs::write(&tokens, "[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]").unwrap();
    superstep(&words(line, &[&out, &tokens, &results])).ok();
    let text = std::fs::read(results.join("eval_results.json")).unwrap();
    let evaluation: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(evaluation["eval_samples"], 3);
    let (loss, perplexity) = (
        evaluation["eval_loss"].as_f64().unwrap(),
        evaluation["perplexity"].as_f64().unwrap(),
    );
    assert!((loss.exp() - perplexity).abs() < 1e-9);

    // A batch that is not full changes nothing.
    let line = format!("{line} --per_device_eval_batch_size 2");
    superstep(&words(&line, &[&out, &tokens, &results])).ok();
    let text = std::fs::read(results.join("eval_results.json")).unwrap();
    let again: Value = serde_json::from_slice(&text).unwrap();
    assert!((again["eval_loss"].as_f64().unwrap() - loss).abs() < 1e-5);
}

#[test]
fn training_on_text_and_writing() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_with_tokenizer(folder.path());
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "It is a truth universally acknowledged. ".repeat(9)).unwrap();
    let out = folder.path().join("out");
    let line = "train --model_name_or_path {} --train_file {} --block_size 16 --per_device_train_batch_size 4 --max_steps 2 \
                --do_eval --validation_file {} --output_dir {} --machine ipu";
    let run = superstep(&words(line, &[&model, &text, &text, &out])).ok();
    assert!(
        run.err.contains("2 of 22 samples are left out"),
        "{}",
        run.err
    );
    assert!(out.join("eval_results.json").is_file() && out.join("merges.txt").is_file());

    let line = "generate --model_name_or_path {} --prompt It --max_new_tokens 3 --machine ipu";
    let first = superstep(&words(line, &[&out])).ok().out;
    assert!(first.starts_with("It"), "{first}");
    assert_eq!(superstep(&words(line, &[&out])).ok().out, first);
    let drawn = format!("{line} --temperature 1.5 --top_k 7 --top_p 0.9 --seed 3");
    assert_eq!(
        superstep(&words(&drawn, &[&out])).ok().out,
        superstep(&words(&drawn, &[&out])).ok().out
    );
}

#[test]
fn several_prompts_are_generated_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_with_tokenizer(folder.path());
    let lines = file(
        folder.path(),
        "lines.txt",
        b"It is\n\nA truth universally\r\n",
    );
    let json = folder.path().join("out.json");
    let line = "generate --model_name_or_path {} --prompt_file {} --output_file {} --max_new_tokens 6 --machine ipu";
    let run = superstep(&words(line, &[&model, &lines, &json])).ok();
    assert!(
        run.out.starts_with("--- prompt 1 ---\nIt is"),
        "{}",
        run.out
    );
    assert!(run.out.contains("--- prompt 2 ---\nA truth universally"));
    for part in [
        "prefill of 2 × 19 tokens",
        "decode of 2 at once over 24 positions: 10 tokens",
    ] {
        assert!(run.err.contains(part), "{}", run.err);
    }
    let sequences = |text: &str| -> Vec<serde_json::Value> {
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let together = sequences(&std::fs::read_to_string(&json).unwrap());
    assert_eq!(together.len(), 2);
    for sequence in &together {
        assert_eq!(sequence["tokens"].as_array().unwrap().len(), 6);
        let prompt = sequence["prompt"].as_str().unwrap();
        let line = "generate --model_name_or_path {} --output_file {} --max_new_tokens 6 --machine ipu --prompt";
        let mut alone = words(line, &[&model, &json]);
        alone.push(prompt.into());
        let run = superstep(&alone).ok();
        let text = sequence["text"].as_str().unwrap();
        assert_eq!(run.out, format!("{prompt}{text}\n"));
        let alone = sequences(&std::fs::read_to_string(&json).unwrap());
        assert_eq!(alone, std::slice::from_ref(sequence));
    }
    let line = "generate --model_name_or_path {} --prompt A --prompt B --max_new_tokens 4 --machine ipu \
                --temperature 1.3 --num_return_sequences 2 --batch_size 3";
    let run = superstep(&words(line, &[&model])).ok();
    assert!(run.out.contains("--- prompt 2, continuation 2 ---\nB"));
    assert!(run.err.contains("decode of 3 at once"), "{}", run.err);
}

#[test]
fn generation_stays_within_the_positions_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_with_tokenizer(folder.path());
    let long = "x".repeat(60);
    let generate = |prompt: &str, more: &str| {
        let line = "generate --model_name_or_path {} --machine ipu";
        let mut words = words(&format!("{line} {more} --prompt"), &[&model]);
        words.push(prompt.into());
        superstep(&words)
    };
    // The last token is drawn from position 64 and needs none of its own.
    generate(&long, "--max_new_tokens 5").ok();
    generate(&long, "").ok();
    let run = generate(&long, "--max_new_tokens 6");
    assert!(
        run.err.contains("--max_new_tokens 5 or less"),
        "{}",
        run.err
    );
    run.fails(1, "n_positions are 64");
    generate(&"x".repeat(65), "").fails(1, "a shorter prompt");
    generate("xx", "--block_size 3 --max_new_tokens 3").fails(1, "--block_size is 3");
    generate("xx", "--block_size 4 --max_new_tokens 3").ok();
    generate("xx", "--block_size 65").fails(1, "n_positions");
    assert_eq!(generate("xx", "--max_new_tokens 0").ok().out, "xx\n");
    // Nothing to continue: the token that starts a text, which this tokenizer has no name for.
    generate("", "--max_new_tokens 2").ok();
    generate(
        "xx",
        "--num_return_sequences 18446744073709551615 --top_k 2",
    )
    .fails(1, "texts");
    let missing = folder.path().join("missing.txt");
    let empty = file(folder.path(), "empty.txt", b"\n \n");
    for (file, what) in [(missing, "missing.txt"), (empty, "no line")] {
        let line = "generate --model_name_or_path {} --prompt_file {}";
        superstep(&words(line, &[&model, &file])).fails(1, what);
    }
}

/// The flags of the published run, on a small model.
/// What the command line says beside the file is in the file that a run keeps, so that it alone gives the same program.
/// As the field says, not as few as the model needs.
/// Each replica has moments of its own there.
#[test]
fn printed_graphs_can_be_fed_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.superstep");
    let line = "compile --model_name_or_path {} --block_size 8 --machine ipu --print-ir-after dead_code -o {}";
    let out = superstep(&words(line, &[&fixture("tiny"), &file])).ok().out;
    let start = out.find("graph @").expect("a graph is printed");
    let end = out[start..].find("\n}").expect("it ends") + start + 2;
    let printed = folder.path().join("graph.ir");
    std::fs::write(&printed, &out[start..end]).unwrap();
    let again = superstep(&words("opt {} --passes dead_code", &[&printed]))
        .ok()
        .out;
    assert_eq!(again.trim(), &out[start..end]);
}
