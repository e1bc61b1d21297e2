//! Logs that can no longer be written, such as on a full disk, end a run; what was done so far is kept.
#![cfg(unix)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use superstep::train::checkpoint::Checkpoint;

use super::program::{file, superstep, words};
use super::{json, losses, weights};

/// A run whose log of steps grows larger than its checkpoints.
fn arguments(folder: &Path, out: &Path, more: &str) -> Vec<String> {
    let config = r#"{"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 64}"#;
    let rows: Vec<Vec<u32>> = (0..40).map(|row| (row..row + 16).collect()).collect();
    let shape = folder.join("shape");
    std::fs::create_dir_all(&shape).unwrap();
    file(&shape, "config.json", config.as_bytes());
    let rows = serde_json::to_string(&rows).unwrap();
    let tokens = file(folder, "tokens.json", rows.as_bytes());
    let line = format!(
        "train --config_name {{}} --train_tokens {{}} --max_steps 150 --save_steps 70 --learning_rate 0.003 --logging_steps 5 \
         --machine ipu --threads 1 --plan_cache_dir none --output_dir {{}} {more}"
    );
    words(&line, &[&shape, &tokens, out])
}

/// Runs a line of the shell, in which `"$@"` is superstep with its arguments. What it says, which must be an error.
fn shell(line: &str, arguments: &[String]) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", line, "sh", env!("CARGO_BIN_EXE_superstep")]);
    let output = command.args(arguments).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    err
}

/// The checkpoint that the error names.
fn named(err: &str) -> PathBuf {
    let (_, path) = err.rsplit_once(" is in ").expect(err);
    PathBuf::from(path.lines().next().unwrap())
}

#[test]
fn steps_that_cannot_be_logged_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    superstep(&arguments(folder.path(), &whole, "")).ok();
    let line = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let err = shell(line, &arguments(folder.path(), &out, ""));
    assert!(
        err.contains("error: cannot write") && err.contains("metrics.jsonl"),
        "{err}"
    );
    assert!(err.contains("hint: make room"), "{err}");
    let saved = Checkpoint::open(&named(&err)).unwrap();
    let step = saved.content.global_step;
    assert!((71..140).contains(&step), "{err}");
    superstep(&arguments(folder.path(), &out, "")).ok();
    assert!(weights(&whole) == weights(&out));
    // One line there was no room for.
    let mut expected = losses(&whole);
    expected.remove(step as usize - 1);
    assert_eq!(expected, losses(&out));
}

#[test]
fn events_that_nobody_takes_any_more_end_the_run_with_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    superstep(&arguments(folder.path(), &whole, "")).ok();
    let (runs, pipe) = (folder.path().join("runs"), folder.path().join("pipe"));
    std::fs::create_dir(&runs).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        // As much as the head of the file and some events.
        move || {
            std::fs::File::open(pipe)
                .unwrap()
                .read_exact(&mut [0; 1000])
                .unwrap()
        }
    });
    // The name of the file has the second and the process.
    let line = format!(
        "now=$(date +%s); for i in $(seq 0 60); do ln -s {} {}/events.out.tfevents.$((now + i)).superstep.$$.0; done; exec \"$@\"",
        pipe.display(),
        runs.display()
    );
    let more = format!("--logging_dir {}", runs.display());
    let err = shell(&line, &arguments(folder.path(), &out, &more));
    reader.join().unwrap();
    assert!(
        err.contains("error: cannot write") && err.contains("events.out.tfevents"),
        "{err}"
    );
    Checkpoint::open(&named(&err)).unwrap();
    superstep(&arguments(folder.path(), &out, "")).ok();
    assert!(weights(&whole) == weights(&out));
    assert_eq!(losses(&whole), losses(&out));
}

#[test]
fn the_first_step_is_logged_if_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let logged = |more: &str| -> Vec<u64> {
        superstep(&arguments(folder.path(), &out, more)).ok();
        let state = json(&out.join("trainer_state.json"));
        let history = state["log_history"].as_array().unwrap();
        let losses = history.iter().filter(|entry| entry.get("loss").is_some());
        losses
            .map(|entry| entry["step"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(logged("")[..2], [5, 10]);
    assert_eq!(
        logged("--overwrite_output_dir --logging_first_step")[..3],
        [1, 5, 10]
    );
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_nobody_can_keep_are_an_error_after_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let err = shell(
        "exec \"$@\" > /dev/full",
        &arguments(folder.path(), &out, ""),
    );
    assert!(err.contains("error: cannot write to stdout"), "{err}");
    assert!(out.join("model.safetensors").exists());
    // A reader that had enough is none.
    let line = "{ \"$@\"; echo $? >&2; } | true; exit 1";
    let more = "--overwrite_output_dir";
    let err = shell(line, &arguments(folder.path(), &out, more));
    assert!(err.trim() == "0", "{err}");
}
