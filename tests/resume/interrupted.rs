//! Runs that the user ends with Ctrl-C, wherever they are.
#![cfg(unix)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use superstep::train::checkpoint::Checkpoint;

use super::{json, longer, program, superstep, weights};

fn spawn(arguments: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_superstep"))
        .args(arguments)
        .env("HF_HUB_CACHE", "/nonexistent")
        .env("SUPERSTEP_CACHE_DIR", env!("CARGO_TARGET_TMPDIR"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.unwrap().success());
}

#[test]
fn ctrl_c_leaves_a_checkpoint_to_go_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let child = spawn(&longer(&out, 400, 1000, ""));
    let steps = || match std::fs::read_to_string(out.join("metrics.jsonl")) {
        Ok(text) => text.lines().count(),
        Err(_) => 0,
    };
    while steps() < 3 {
        std::thread::sleep(Duration::from_millis(20));
    }
    // As `timeout` sends it: to the program, and to its process group.
    signal(&child, "TERM");
    std::thread::sleep(Duration::from_millis(20));
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let step = steps();
    assert!((3..400).contains(&step));
    let checkpoint = out.join(format!("checkpoint-{step}"));
    let found = Checkpoint::open(&checkpoint).unwrap();
    assert_eq!(found.content.global_step, step as u64);
}

#[test]
fn ctrl_c_ends_the_last_evaluation_and_the_model_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let rows = vec![vec![7; 48]; 20_000];
    let held_out = program::file(
        folder.path(),
        "held_out.json",
        serde_json::to_string(&rows).unwrap().as_bytes(),
    );
    let more = format!("--do_eval --validation_file {}", held_out.display());
    let child = spawn(&longer(&out, 1, 1000, &more));
    while !out.join("train_results.json").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&child, "INT");
    let status = child.wait_with_output().unwrap().status;
    assert_eq!(status.code(), Some(130));
    assert!(out.join("model.safetensors").exists() && !out.join("eval_results.json").exists());
}

/// Log entries without what a clock said.
fn history(dir: &Path) -> Vec<Value> {
    let state = json(&dir.join("trainer_state.json"));
    let mut entries = state["log_history"].as_array().unwrap().clone();
    for entry in &mut entries {
        let fields = entry.as_object_mut().unwrap();
        fields.retain(|name, _| !name.ends_with("_runtime") && !name.ends_with("_per_second"));
    }
    entries
}

#[test]
fn ctrl_c_ends_an_evaluation_which_takes_place_when_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Vec<u32>> = (0..120).map(|row| (row..row + 48).collect()).collect();
    let rows = serde_json::to_string(&rows).unwrap();
    let held_out = program::file(folder.path(), "held_out.json", rows.as_bytes());
    // At step 2 a checkpoint is due as well, at step 3 none is.
    for every in [2, 3] {
        let (whole, out) = (
            folder.path().join(format!("whole-{every}")),
            folder.path().join(format!("out-{every}")),
        );
        let more = format!(
            "--do_eval --validation_file {} --eval_steps {every}",
            held_out.display()
        );
        let arguments = |out: &Path| longer(out, 4, 2, &more);
        superstep(&arguments(&whole)).ok();
        for starts in 1..=2 {
            let child = spawn(&arguments(&out));
            // Events are the last file that a run opens.
            let opened = || std::fs::read_dir(out.join("runs")).map_or(0, |files| files.count());
            let log = out.join("metrics.jsonl");
            let logged = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
            while opened() < starts || logged() < every {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(100));
            signal(&child, "INT");
            let asked = Instant::now();
            let status = child.wait_with_output().unwrap().status;
            assert_eq!(status.code(), Some(130));
            let took = asked.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?}");
            let checkpoint = Checkpoint::open(&out.join(format!("checkpoint-{every}"))).unwrap();
            assert!(checkpoint.content.evaluation_is_due);
            assert!(
                history(&checkpoint.dir)
                    .iter()
                    .all(|entry| entry.get("eval_loss").is_none())
            );
        }
        superstep(&arguments(&out)).ok();
        assert!(weights(&whole) == weights(&out));
        assert_eq!(history(&whole), history(&out));
        let best = |out: &Path| json(&out.join("trainer_state.json"))["best_metric"].clone();
        assert!(best(&whole).is_f64() && best(&whole) == best(&out));
        let again = Checkpoint::open(&out.join("checkpoint-4")).unwrap();
        assert!(!again.content.evaluation_is_due);
        if every == 2 {
            let second = |out: &Path| history(&out.join("checkpoint-2"));
            assert_eq!(second(&whole), second(&out));
        }
    }
}

#[test]
fn a_run_that_gained_no_more_stays_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let rows = serde_json::to_string(&[vec![7; 48]]).unwrap();
    let held_out = program::file(folder.path(), "held_out.json", rows.as_bytes());
    let more = format!(
        "--do_eval --validation_file {} --eval_steps 1 --early_stopping_patience 2 --early_stopping_threshold 100",
        held_out.display()
    );
    let first = superstep(&longer(&out, 9, 1, &more)).ok();
    assert!(first.err.contains("stopped after step 3"), "{}", first.err);
    let ended = weights(&out);
    assert!(ended == weights(&out.join("checkpoint-3")));
    std::fs::remove_file(out.join("model.safetensors")).unwrap();
    let again = superstep(&longer(&out, 9, 1, &more)).ok();
    assert!(again.err.contains("stopped after step 3"), "{}", again.err);
    assert!(ended == weights(&out));
}
