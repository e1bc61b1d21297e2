//! `superstep tune` as a user meets it: a table of plans, reasons why others lost, and a winner that trains like the reference.

mod program;

use std::path::{Path, PathBuf};

use program::{fixture, superstep, words};
use serde_json::Value;

/// Four IPUs so small that a layer of tiny is something.
fn machine(folder: &Path) -> PathBuf {
    let file = folder.join("small.toml");
    let text = "base = \"pod4\"\nname = \"small\"\ntiles_per_ipu = 16\n";
    std::fs::write(&file, text).unwrap();
    file
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn losses(dir: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["loss"].as_f64().unwrap()
    };
    text.lines().map(loss).collect()
}

const TINY: &str = "--model_name_or_path {} --block_size 48 --weight_decay 0.01";
const REFERENCE: &str = "--layers_per_ipu [1,1] --pipeline true --recompute all --replication_factor 2 --replicated_tensor_sharding true \
                         --per_device_train_batch_size 1 --gradient_accumulation_steps 8";

#[test]
fn the_winner_is_compiled_beats_the_reference_and_trains_to_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, small) = (fixture("tiny"), machine(folder.path()));
    let (best, found) = (
        folder.path().join("best.superstep"),
        folder.path().join("found.json"),
    );
    let line = format!(
        "tune {TINY} --machine {{}} {REFERENCE} --global_batch 16 --time_limit 60 -o {{}} --json {{}}"
    );
    let out = superstep(&words(&line, &[&tiny, &small, &best, &found]))
        .ok()
        .out;
    for text in [
        "where the gain is",
        "why not",
        "best: ",
        "samples/s",
        "if all IPUs worked",
    ] {
        assert!(out.contains(text), "no {text:?} in\n{out}");
    }

    let found = json(&found);
    let outcomes = found["outcomes"].as_array().unwrap();
    assert!(outcomes.len() > 1 && !found["rejected"].as_object().unwrap().is_empty());
    let rate = |outcome: &Value| outcome["samples_per_second"].as_f64().unwrap();
    assert!(
        outcomes
            .windows(2)
            .all(|pair| rate(&pair[0]) >= rate(&pair[1]))
    );
    assert!(rate(&outcomes[0]) > rate(&found["reference"]));
    assert!(rate(&outcomes[0]) < rate(&found["ceiling"]));
    for outcome in outcomes {
        let plan = &outcome["plan"];
        let product = ["replicas", "batch_size", "accumulation"]
            .iter()
            .map(|field| plan[field].as_u64().unwrap())
            .product::<u64>();
        assert_eq!(product, 16, "{plan}");
        // The rate is the product of what it is said to come from.
        let factor = |name: &str| outcome["factors"][name].as_f64().unwrap();
        let clock = 1.325e9;
        let explained =
            factor("ipus") * clock / factor("work") * factor("balance") * factor("steady");
        assert!((explained / rate(outcome) - 1.0).abs() < 1e-9, "{outcome}");
    }

    // What was promised is what the executable is.
    let report = superstep(&words("report {} --json -", &[&best])).ok().out;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        report["pod"]["rates"]["samples_per_second"],
        outcomes[0]["samples_per_second"]
    );

    // It trains as one IPU does with the same samples an update.
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let data =
        "--train_tokens {} --shuffle false --max_steps 4 --learning_rate 0.003 --output_dir {}";
    let tokens = tiny.join("tokens.json");
    let line = format!("train --executable {{}} --model_name_or_path {{}} {data}");
    superstep(&words(&line, &[&best, &tiny, &tokens, &a])).ok();
    let line = format!(
        "train {TINY} --machine ipu --per_device_train_batch_size 2 --gradient_accumulation_steps 8 {data}"
    );
    superstep(&words(&line, &[&tiny, &tokens, &b])).ok();
    for (a, b) in losses(&a).into_iter().zip(losses(&b)) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn the_winner_as_a_configuration_is_taken_by_compile() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, small) = (fixture("tiny"), machine(folder.path()));
    let (config, file) = (
        folder.path().join("ipu_config.json"),
        folder.path().join("x.superstep"),
    );
    let line = format!("tune {TINY} --machine {{}} --global_batch 16 --time_limit 30 -o {{}}");
    superstep(&words(&line, &[&tiny, &small, &config])).ok();
    let written = json(&config);
    let line =
        format!("compile {TINY} --machine {{}} --ipu_config_name {{}} --precision f32 -o {{}}");
    superstep(&words(&line, &[&tiny, &small, &config, &file])).ok();
    let report = superstep(&words("report {} --json -", &[&file])).ok().out;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["pod"]["replicas"], written["replication_factor"]);
    assert_eq!(
        report["pod"]["ipus_per_replica"],
        written["ipus_per_replica"]
    );
}

/// Where a layer does not fit an IPU beside what else there is, the best plan divides layers; on larger IPUs it is said why none does.
#[test]
fn layers_are_divided_where_that_is_best() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = fixture("tiny");
    let [config, file, found] =
        ["ipu_config.json", "x.superstep", "found.json"].map(|name| folder.path().join(name));
    let tune = |tile_memory: u32| {
        let machine = folder.path().join(format!("{tile_memory}.toml"));
        let text = format!(
            "base = \"pod4\"\nname = \"small\"\ntiles_per_ipu = 16\ntile_memory = {tile_memory}\n"
        );
        std::fs::write(&machine, text).unwrap();
        let line = format!(
            "tune {TINY} --machine {{}} --global_batch 16 --time_limit 30 -o {{}} --json {{}}"
        );
        let out = superstep(&words(&line, &[&tiny, &machine, &config, &found]));
        (out.ok().out, machine)
    };
    let (out, machine) = tune(64 << 10);
    assert!(
        out.contains("[0, 2] × 2") && out.contains("--tensor_parallel 2"),
        "{out}"
    );
    let best = &json(&found)["outcomes"][0]["plan"];
    assert_eq!(
        (&best["tensor_parallel"], &best["replicas"]),
        (&2.into(), &1.into())
    );
    let written = json(&config);
    assert_eq!(
        (&written["tensor_parallel"], &written["ipus_per_replica"]),
        (&2.into(), &4.into())
    );
    let line =
        format!("compile {TINY} --machine {{}} --ipu_config_name {{}} --precision f32 -o {{}}");
    superstep(&words(&line, &[&tiny, &machine, &config, &file])).ok();

    let (out, _) = tune(624 << 10);
    let best = &json(&found)["outcomes"][0]["plan"];
    assert_eq!(best["tensor_parallel"], 1, "{best}");
    let rejected = json(&found);
    let rejected = rejected["rejected"].as_object().unwrap();
    let of_groups = rejected
        .iter()
        .filter(|(kind, _)| kind.contains("in groups of 2"));
    let reasons: Vec<&str> = of_groups.map(|(_, why)| why.as_str().unwrap()).collect();
    assert!(
        reasons
            .iter()
            .any(|why| why.contains("2 IPUs take") && why.contains("for their links")),
        "{reasons:?} in\n{out}"
    );
}

#[test]
fn what_cannot_be_searched_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = fixture("tiny");
    let small = machine(folder.path());
    let line = format!("tune {TINY} --machine {{}} {REFERENCE} --global_batch 7");
    superstep(&words(&line, &[&tiny, &small])).fails(2, "--global_batch 7");
    let line = format!("tune {TINY} --machine {{}} --print_ir_after all");
    superstep(&words(&line, &[&tiny, &small])).fails(2, "--print_ir_after");
    let nothing = folder.path().join("no.toml");
    let text = "base = \"pod4\"\nname = \"no\"\ntiles_per_ipu = 2\ntile_memory = 65536\n";
    std::fs::write(&nothing, text).unwrap();
    let line = format!("tune {TINY} --machine {{}} --global_batch 8");
    superstep(&words(&line, &[&tiny, &nothing])).fails(1, "no plan fits");
}
