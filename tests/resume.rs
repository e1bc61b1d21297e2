//! Checkpoints, and what becomes of a run that is interrupted, goes wrong, or is asked to go on as another one. `accidents.rs` has those that are
//! killed or short of disk space.

#[path = "resume/interrupted.rs"]
mod interrupted;
#[path = "resume/logs.rs"]
mod logs;
mod program;
#[path = "resume/slices.rs"]
mod slices;

use std::path::{Path, PathBuf};

use program::{fixture, superstep, words};
use serde_json::Value;

const RUN: &str = "train --model_name_or_path {} --train_tokens {} --block_size 48 --per_device_train_batch_size 2 \
                   --gradient_accumulation_steps 2 --learning_rate 0.003 --warmup_steps 2 --weight_decay 0.01 \
                   --logging_steps 1 --machine ipu --threads 1 --config_overrides resid_pdrop=0.1,attn_pdrop=0.1 --output_dir {}";

/// Six steps with a checkpoint after every second.
fn arguments(out: &Path, more: &str) -> Vec<String> {
    longer(out, 6, 2, more)
}

fn longer(out: &Path, max_steps: u32, save_steps: u32, more: &str) -> Vec<String> {
    let tiny = fixture("tiny");
    let line = format!("{RUN} --max_steps {max_steps} --save_steps {save_steps} {more}");
    words(&line, &[&tiny, &tiny.join("tokens.json"), out])
}

fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).unwrap()
}

fn losses(dir: &Path) -> Vec<(u64, f64, f64)> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .map(|v: Value| {
            let number = |name: &str| v[name].as_f64().unwrap();
            (
                v["step"].as_u64().unwrap(),
                number("loss"),
                number("grad_norm"),
            )
        })
        .collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_run_goes_on_bit_for_bit_from_any_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    superstep(&arguments(&whole, "")).ok();
    for step in [2, 4, 6] {
        let dir = whole.join(format!("checkpoint-{step}"));
        for file in [
            "config.json",
            "model.safetensors",
            "optimizer.safetensors",
            "trainer_state.json",
        ] {
            assert!(dir.join(file).is_file(), "{file}");
        }
        assert_eq!(json(&dir.join("trainer_state.json"))["global_step"], step);
    }
    assert!(weights(&whole) == weights(&whole.join("checkpoint-6")));
    let first = whole.join("checkpoint-2");
    let out = folder.path().join("again");
    let more = format!("--resume_from_checkpoint {}", first.display());
    superstep(&arguments(&out, &more)).ok();
    // It has no metrics of the steps before it.
    assert_eq!(losses(&whole)[2..], losses(&out));
    assert!(weights(&whole) == weights(&out));
    let history = |dir: &Path| json(&dir.join("trainer_state.json"))["log_history"][5].clone();
    assert_eq!(history(&whole), history(&out));
}

#[test]
fn old_checkpoints_go_and_damaged_ones_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    superstep(&arguments(&out, "--save_total_limit 2")).ok();
    assert!(!out.join("checkpoint-2").exists());
    assert!(out.join("checkpoint-4").exists() && out.join("checkpoint-6").exists());
    let whole = (weights(&out), losses(&out));
    let damaged = out.join("checkpoint-6/optimizer.safetensors");
    let mut bytes = std::fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let more = format!(
        "--resume_from_checkpoint {}",
        out.join("checkpoint-6").display()
    );
    superstep(&arguments(&out, &more)).fails(1, "optimizer.safetensors is not what was written");
    let run = superstep(&arguments(&out, "--resume_from_checkpoint latest")).ok();
    assert!(run.err.contains("looking for an older one"), "{}", run.err);
    assert!(
        run.err.contains("checkpoint-4 after 4 steps"),
        "{}",
        run.err
    );
    assert!(whole == (weights(&out), losses(&out)));
}

#[test]
fn another_run_is_refused_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    superstep(&arguments(&out, "--resume_from_checkpoint")).fails(1, "no checkpoint in");
    superstep(&arguments(&out, "")).ok();
    let run = superstep(&arguments(&out, "--seed 7 --shuffle false"))
        .fails(1, "seed is 7 here and 42 in the checkpoint");
    assert!(
        run.err.contains("shuffle is false here and true"),
        "{}",
        run.err
    );
    superstep(&arguments(&out, "--optim sgd")).fails(1, "optim is sgd here and adamw");
    let fourth = out.join("checkpoint-4");
    let more = format!(
        "--allow_resume_mismatch --seed 7 --resume_from_checkpoint {}",
        fourth.display()
    );
    let run = superstep(&arguments(&out, &more)).ok();
    assert!(
        run.err.contains("going on although seed is 7"),
        "{}",
        run.err
    );
    // What it is asked to do now is in its state.
    let more = format!(
        "--allow_resume_mismatch --resume_from_checkpoint {}",
        fourth.display()
    );
    superstep(&longer(&out, 8, 3, &more)).ok();
    let state = json(&out.join("trainer_state.json"));
    for (field, value) in [("max_steps", 8), ("global_step", 8), ("save_steps", 3)] {
        assert_eq!(state[field], value, "{field}");
    }
    superstep(&longer(&out, 6, 6, "--overwrite_output_dir")).ok();
    assert!(!fourth.exists() && out.join("checkpoint-6").exists());
}

#[test]
fn evaluations_logs_and_results_are_those_of_hugging_face() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let held_out = folder.path().join("held_out.json");
    let rows: Vec<Vec<u32>> = (0..3).map(|row| (row..row + 48).collect()).collect();
    std::fs::write(&held_out, serde_json::to_string(&rows).unwrap()).unwrap();
    let more = format!(
        "--do_eval --validation_file {} --eval_steps 3 --device_iterations 2 --save_dtype float16",
        held_out.display()
    );
    superstep(&arguments(&out, &more)).ok();
    // A step is two weight updates at one learning rate.
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let rates: Vec<f64> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["learning_rate"].as_f64())
        .map(Option::unwrap)
        .collect();
    assert_eq!(rates.len(), 12);
    assert!(rates.chunks(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(rates[..4], [0.0, 0.0, 0.0015, 0.0015]);
    let state = json(&out.join("trainer_state.json"));
    let history = state["log_history"].as_array().unwrap();
    let with = |field: &str| -> Vec<u64> {
        let entries = history.iter().filter(|entry| entry.get(field).is_some());
        entries
            .map(|entry| entry["step"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(with("loss"), [1, 2, 3, 4, 5, 6]);
    // Two on the way, and the one at the end, which is the last entry.
    assert_eq!(with("eval_loss"), [3, 6, 6]);
    assert!(history[history.len() - 1].get("eval_loss").is_some());
    assert_eq!(with("train_loss"), [6]);
    // The logged rate is the next step's.
    assert_eq!(history[0]["learning_rate"], 0.0015);
    assert_eq!(
        (&state["global_step"], &state["max_steps"]),
        (&6.into(), &6.into())
    );
    let all = json(&out.join("all_results.json"));
    for field in [
        "train_loss",
        "train_runtime",
        "train_samples_per_second",
        "total_flos",
    ] {
        assert_eq!(
            all[field],
            json(&out.join("train_results.json"))[field],
            "{field}"
        );
    }
    let loss = all["eval_loss"].as_f64().unwrap();
    assert!((all["perplexity"].as_f64().unwrap() - loss.exp()).abs() < 1e-9);
    assert_eq!(all["eval_samples"], 3);
    assert_eq!(std::fs::read_dir(out.join("runs")).unwrap().count(), 1);
    let half = json(&out.join("config.json"));
    assert!(
        half["torch_dtype"] == "float16" || half["dtype"] == "float16",
        "{half}"
    );
}

#[test]
fn a_run_that_gains_no_more_ends_and_a_broken_one_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let held_out = folder.path().join("held_out.json");
    std::fs::write(&held_out, "[[1, 2, 3, 4, 5, 6, 7, 8]]").unwrap();
    let tiny = fixture("tiny");
    let line = "train --model_name_or_path {} --train_tokens {} --output_dir {} --machine ipu";
    let start = words(line, &[&tiny, &held_out, &out]);
    // At learning rate 0 nothing is gained.
    let more = "--do_eval --validation_file {} --max_steps 9 --learning_rate 0 --eval_steps 1 --early_stopping_patience 2";
    let run = superstep(&[start.clone(), words(more, &[&held_out])].concat()).ok();
    assert!(run.err.contains("stopped after step 3"), "{}", run.err);
    let more = "--max_steps 9 --learning_rate 1e30 --lr_scheduler_type constant --save_steps 1 --overwrite_output_dir";
    superstep(&[start, words(more, &[])].concat()).fails(1, "at step 1");
    superstep::train::checkpoint::Checkpoint::open(&out.join("checkpoint-1")).unwrap();
    assert!(!out.join("checkpoint-2").exists());
}

#[test]
fn a_second_run_finds_its_programs_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let kept = folder.path().join("kept");
    let held_out = folder.path().join("held_out.json");
    std::fs::write(&held_out, "[[1, 2, 3, 4, 5, 6, 7, 8]]").unwrap();
    let tiny = fixture("tiny");
    let run = |out: &Path, more: &str| {
        let line = format!(
            "train --model_name_or_path {{}} --train_tokens {{}} --do_eval --validation_file {{}} --max_steps 1 --machine ipu \
             --executable_cache_dir {{}} --output_dir {{}} --overwrite_output_dir {more}"
        );
        superstep(&words(&line, &[&tiny, &held_out, &held_out, &kept, out])).ok()
    };
    let files = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&kept).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    assert!(run(&a, "").out.contains("compiled in"));
    assert_eq!(files().len(), 2);
    assert!(run(&b, "").out.contains("compiled before"));
    assert!(weights(&a) == weights(&b));
    assert!(run(&b, "--weight_decay 0.1").out.contains("compiled in"));
    assert_eq!(files().len(), 3);
    for file in files() {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    let again = run(&b, "");
    assert!(again.out.contains("compiled anew"), "{}", again.out);
    assert!(again.err.contains("corrupted"), "{}", again.err);
    for file in files() {
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    }
    let again = run(&b, "");
    assert!(again.out.contains("compiled anew"), "{}", again.out);
    assert!(again.err.contains("truncated"), "{}", again.err);
    assert!(weights(&a) == weights(&b));
    assert!(run(&b, "").out.contains("compiled before"));
}

#[test]
fn half_precision_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, again) = (folder.path().join("whole"), folder.path().join("again"));
    let precision = "--precision recipe --auto_loss_scaling --loss_scaling_growth_interval 3";
    superstep(&arguments(&whole, precision)).ok();
    let first = whole.join("checkpoint-2");
    let resume = format!("{precision} --resume_from_checkpoint {}", first.display());
    superstep(&arguments(&again, &resume)).ok();
    assert_eq!(losses(&whole)[2..], losses(&again));
    assert!(weights(&whole) == weights(&again));
    let scales = |dir: &Path| -> Vec<f64> {
        let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
        let lines = text
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines.map(|v| v["loss_scale"].as_f64().unwrap()).collect()
    };
    assert_eq!(
        scales(&whole),
        [16384.0, 16384.0, 16384.0, 32768.0, 32768.0, 32768.0]
    );
    assert_eq!(scales(&whole)[2..], scales(&again));
    assert_eq!(json(&whole.join("config.json"))["dtype"], "float16");
    let other = format!(
        "--precision f16.16 --resume_from_checkpoint {}",
        first.display()
    );
    superstep(&arguments(&again, &other)).fails(1, "precision is f16.16 here and recipe");
}

/// The options of a run on a pod, in place of those for one IPU.
fn on_a_pod(out: &Path, options: &str) -> Vec<String> {
    let line = arguments(out, options);
    let machine = line.iter().position(|a| a == "--machine").unwrap();
    [&line[..machine], &line[machine + 2..]].concat()
}

#[test]
fn divided_layers_go_on_bit_for_bit_and_are_whole_outside() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, again) = (folder.path().join("whole"), folder.path().join("again"));
    let alone = folder.path().join("alone");
    let pod = "--machine pod4 --replication_factor 2 --replicated_tensor_sharding true";
    // Parts of attention would drop by numbers of their own.
    let on_a_pod = |out: &Path, options: &str| -> Vec<String> {
        let line = on_a_pod(out, options).into_iter();
        line.map(|a| a.replace("attn_pdrop=0.1", "attn_pdrop=0"))
            .collect()
    };
    let divided = format!("{pod} --tensor_parallel 2 --layers_per_ipu [2] --pipeline true");
    superstep(&on_a_pod(&whole, &divided)).ok();
    let first = whole.join("checkpoint-2");
    let resume = format!("{divided} --resume_from_checkpoint {}", first.display());
    superstep(&on_a_pod(&again, &resume)).ok();
    assert_eq!(losses(&whole)[2..], losses(&again));
    assert!(weights(&whole) == weights(&again));
    // The same training with whole layers, up to the order of sums.
    superstep(&on_a_pod(&alone, pod)).ok();
    for (a, b) in losses(&whole).into_iter().zip(losses(&alone)) {
        assert!((a.1 - b.1).abs() < 1e-4, "{a:?} {b:?}");
    }
    let names = |dir: &Path| {
        let file = weights(dir);
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let mut shapes: Vec<(String, Vec<usize>)> = tensors
            .iter()
            .map(|(name, view)| (name.to_owned(), view.shape().to_vec()))
            .collect();
        shapes.sort();
        shapes
    };
    assert_eq!(names(&whole), names(&alone));
}

#[test]
fn remote_state_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, again) = (folder.path().join("whole"), folder.path().join("again"));
    let remote = "--machine pod4 --replication_factor 2 --replicated_tensor_sharding true --optimizer_state_offchip true";
    let remote = |out: &Path, more: &str| on_a_pod(out, &format!("{remote} {more}"));
    superstep(&remote(&whole, "")).ok();
    let first = whole.join("checkpoint-2");
    let resume = format!("--resume_from_checkpoint {}", first.display());
    superstep(&remote(&again, &resume)).ok();
    assert_eq!(losses(&whole)[2..], losses(&again));
    assert!(weights(&whole) == weights(&again));
}

#[test]
fn an_overflow_is_skipped_and_halves_the_loss_scale() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let more = "--precision f16.16 --auto_loss_scaling --loss_scaling 262144";
    let run = superstep(&arguments(&out, more)).ok();
    assert!(run.out.contains("updates skipped"), "{}", run.out);
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines[0]["overflow"], true);
    assert!(lines[0]["grad_norm"].is_null());
    for pair in lines.windows(2) {
        let scale = |line: &Value| line["loss_scale"].as_f64().unwrap();
        let expected = match pair[0]["overflow"] == true {
            true => scale(&pair[0]) / 2.0,
            false => scale(&pair[0]),
        };
        assert_eq!(scale(&pair[1]), expected);
    }
    assert_eq!(lines[5]["overflow"], false);
    let fixed = "--precision f16.16 --loss_scaling 262144 --overwrite_output_dir";
    superstep(&arguments(&out, fixed)).fails(1, "--auto_loss_scaling");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_leaves_its_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let with_rate = |rate: &str, more: &str| -> Vec<String> {
        let line = longer(&out, 6, 1, more).into_iter();
        line.map(|word| if word == "0.003" { rate.into() } else { word })
            .collect()
    };
    let run = superstep(&with_rate("1e30", "")).fails(1, "at step 2");
    let last = out.join("checkpoint-2");
    assert!(
        run.err
            .contains(&format!("the last checkpoint is {}", last.display()))
    );
    assert!(last.join("model.safetensors").is_file());
    assert!(!out.join("checkpoint-3").exists());
    // Several updates a step have names of their own.
    let more = "--device_iterations 2 --overwrite_output_dir";
    superstep(&with_rate("1e30", more)).fails(1, "at step 1 (weight update 3)");
    // An update that leaves no numbers shows before the next loss: it takes the place of no checkpoint, nor of the model.
    let more = "--save_total_limit 1 --overwrite_output_dir";
    superstep(&with_rate("1e39", more)).fails(1, "no finite numbers after 2 steps");
    superstep::train::checkpoint::Checkpoint::open(&out.join("checkpoint-1")).unwrap();
    assert!(!out.join("checkpoint-2").exists() && !out.join("model.safetensors").exists());
    let last = "--max_steps 2 --save_strategy no --overwrite_output_dir";
    let line = with_rate("1e39", "").join(" ").replace("--max_steps 6", "");
    superstep(&words(&format!("{line} {last}"), &[])).fails(1, "no finite numbers after 2 steps");
    assert!(!out.join("model.safetensors").exists());
}

#[test]
fn a_model_is_not_replaced_unless_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    superstep(&longer(&out, 1, 1000, "")).ok();
    let first = weights(&out);
    superstep(&longer(&out, 2, 1000, "")).fails(1, "holds a model already");
    assert!(weights(&out) == first);
    superstep(&longer(&out, 2, 1000, "--overwrite_output_dir")).ok();
    assert!(weights(&out) != first);
    // The model that training starts from.
    let line = "train --model_name_or_path {} --train_tokens {} --max_steps 1 --machine ipu --output_dir {}";
    let tokens = fixture("tiny/tokens.json");
    superstep(&words(line, &[&out, &tokens, &out])).fails(1, "holds a model already");
}
