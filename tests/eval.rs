//! Evaluation at the command line: the same loss wherever the model lies and however many batches a call takes.

mod program;

use std::path::{Path, PathBuf};

use program::{fixture, superstep, words};
use serde_json::Value;

/// Samples of 16 tokens, as a file.
fn tokens(folder: &Path, samples: usize) -> PathBuf {
    let path = folder.join("tokens.json");
    let row = |row: usize| (0..16).map(move |i| (row * 7 + i * 3) % 50).collect();
    let rows: Vec<Vec<usize>> = (0..samples).map(row).collect();
    std::fs::write(&path, serde_json::to_string(&rows).unwrap()).unwrap();
    path
}

/// Loss and samples of `eval_results.json`.
fn results(folder: &Path) -> (f64, u64) {
    let text = std::fs::read(folder.join("eval_results.json")).unwrap();
    let found: Value = serde_json::from_slice(&text).unwrap();
    let loss = found["eval_loss"].as_f64().unwrap();
    (loss, found["eval_samples"].as_u64().unwrap())
}

/// `superstep eval` of a model with more options: loss, samples and what it prints.
fn evaluated(model: &Path, tokens: &Path, more: &str) -> (f64, u64, String) {
    let folder = tempfile::tempdir().unwrap();
    let line = "eval --model_name_or_path {} --validation_file {} --output_dir {} ";
    let line = format!("{line}{more}");
    let run = superstep(&words(&line, &[model, tokens, folder.path()])).ok();
    let (loss, samples) = results(folder.path());
    (loss, samples, run.out + &run.err)
}

#[test]
fn pipelines_replicas_and_calls_that_are_not_full_change_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    // Eleven samples fill neither calls of five nor batches of two.
    let (tiny, tokens) = (fixture("tiny"), tokens(folder.path(), 11));
    for batch in [1, 2] {
        let of = |more: &str| {
            let more = format!("--per_device_eval_batch_size {batch} --machine pod4 {more}");
            evaluated(&tiny, &tokens, &more)
        };
        let (loss, samples, _) = of("");
        assert_eq!(samples, 11);
        for (more, says) in [
            (
                "--layers_per_ipu [0,1,1] --pipeline true --inference_device_iterations 5",
                "3 IPUs, 4 stages: 5 micro-batches a call in 8 pipeline cycles",
            ),
            (
                "--layers_per_ipu [1,1] --pipeline true --inference_device_iterations 4 --threads 1",
                "2 IPUs, 3 stages: 4 micro-batches a call in 6 pipeline cycles",
            ),
            (
                "--layers_per_ipu [0,1,1] --pipeline true",
                "4 stages, and inference_device_iterations is 1",
            ),
            (
                "--layers_per_ipu [1,1] --pipeline true --inference_device_iterations 3 --inference_replication_factor 2",
                "2 replicas of 2 IPUs, 3 stages",
            ),
            (
                "--layers_per_ipu [1,1] --inference_device_iterations 3",
                "2 IPUs, one after the other: 3 micro-batches a call",
            ),
            ("--inference_device_iterations 2", "1 IPU: 2 micro-batches"),
        ] {
            let found = of(more);
            assert_eq!((found.0, found.1), (loss, 11), "{more}");
            assert!(found.2.contains(says), "{more}: {}", found.2);
            assert!(found.2.contains("predicted: "), "{}", found.2);
        }
        // Of divided layers sums have another order.
        let divided = "--layers_per_ipu [0,2] --pipeline true --tensor_parallel 2 --inference_device_iterations 3";
        let found = of(divided);
        assert!(
            (found.0 / loss - 1.0).abs() < 1e-6,
            "{}, not {loss}",
            found.0
        );
        assert!(
            found.1 == 11 && found.2.contains("4 IPUs, 3 stages"),
            "{}",
            found.2
        );
    }
}

/// An IPU configuration with more fields.
fn config(folder: &Path, more: &str) -> PathBuf {
    let path = folder.join("ipu.json");
    let text = r#"{"layers_per_ipu": [0, 2], "ipus_per_replica": 2, "enable_half_partials": false"#;
    std::fs::write(&path, format!("{text}{more}}}")).unwrap();
    path
}

#[test]
fn ipu_configurations_say_how_evaluation_lies() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, tokens) = (fixture("tiny"), tokens(folder.path(), 12));
    let wanted = evaluated(&tiny, &tokens, "--machine ipu --precision f16.32").0;
    for (fields, says) in [
        (
            r#", "inference_device_iterations": 5"#,
            "2 IPUs, 3 stages: 5 micro-batches a call in 7 pipeline cycles",
        ),
        (
            r#", "inference_device_iterations": 5, "inference_layers_per_ipu": [0, 1, -1], "inference_matmul_proportion": [0.2, 0.3, 0.1]"#,
            "3 IPUs, 4 stages: 5 micro-batches a call in 8 pipeline cycles",
        ),
        (
            r#", "inference_device_iterations": 4, "inference_replication_factor": {"pod4": 2}"#,
            "2 replicas of 2 IPUs, 3 stages: 4 micro-batches a call in 6 pipeline cycles",
        ),
        (
            r#", "inference_device_iterations": 4, "sharded_execution_for_inference": true"#,
            "2 IPUs, one after the other: 4 micro-batches a call",
        ),
        (
            r#", "inference_device_iterations": 4, "inference_ipus_per_replica": 1"#,
            "1 IPU: 4 micro-batches a call",
        ),
        (
            // 512 entries in slices of 171, the last filled up; the embedding is another name of the same weight.
            r#", "inference_device_iterations": 5, "inference_projection_serialization_factor": 3"#,
            "2 IPUs, 3 stages: 5 micro-batches a call in 7 pipeline cycles",
        ),
        (
            r#", "inference_embedding_serialization_factor": 4, "matmul_proportion": [0.2, 0.1], "inference_ipus_per_replica": 3"#,
            "3 IPUs, 4 stages",
        ),
    ] {
        let config = config(folder.path(), fields);
        let more = format!("--ipu_config_name {} --pod_type pod4", config.display());
        let (loss, _, out) = evaluated(&tiny, &tokens, &more);
        assert!(
            (loss / wanted - 1.0).abs() < 1e-5,
            "{fields}: {loss}, not {wanted}"
        );
        assert!(out.contains(says), "{fields}: {out}");
    }
    let config = config(
        folder.path(),
        r#", "inference_layers_per_ipu": [1, 1], "inference_ipus_per_replica": 4"#,
    );
    let line = "eval --model_name_or_path {} --validation_file {} --ipu_config_name {}";
    let run = superstep(&words(line, &[&tiny, &tokens, &config]));
    assert!(
        run.err.contains("`inference_layers_per_ipu` names 2 IPUs"),
        "{}",
        run.err
    );
}

/// Cycles are those of a head in slices, and a machine on which the whole head does not fit takes one in slices.
#[test]
fn the_head_of_an_evaluation_is_in_as_many_slices_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, tokens) = (fixture("tiny"), tokens(folder.path(), 12));
    let of = |slices: &str| {
        let fields = format!(r#", "inference_embedding_serialization_factor": {slices}"#);
        let config = config(folder.path(), &fields);
        let more = format!("--ipu_config_name {} --machine pod4", config.display());
        let line = format!("eval --model_name_or_path {{}} --validation_file {{}} {more}");
        superstep(&words(&line, &[&tiny, &tokens]))
    };
    let pace = |slices: &str| {
        let out = of(slices).ok().out;
        let line = out.lines().find(|line| line.contains("predicted: "));
        line.unwrap_or_else(|| panic!("{out}")).to_owned()
    };
    assert!(pace("1") == pace("null") && pace("1") != pace("4"));
    of("513").fails(1, "513 slices of a vocabulary of 512");
}

#[test]
fn a_pipelined_training_is_evaluated_in_a_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, tokens) = (fixture("tiny"), tokens(folder.path(), 12));
    let train = |more: &str| {
        let out = folder.path().join("out");
        let line = "train --model_name_or_path {} --train_tokens {} --validation_file {} --do_train --do_eval --output_dir {} --overwrite_output_dir \
            --gradient_accumulation_steps 7 --max_steps 1 --learning_rate 1e-3 --layers_per_ipu [0,1,1] ";
        let machine = if more.contains("--machine") {
            ""
        } else {
            "--machine pod4 "
        };
        let line = format!("{line}{machine}{more}");
        let run = superstep(&words(&line, &[&tiny, &tokens, &tokens, &out])).ok();
        let alone = evaluated(&out, &tokens, "--machine ipu");
        let (loss, samples) = results(&out);
        (loss, alone.0, samples, run.out)
    };
    let in_pipeline = "--pipeline true --inference_device_iterations 5";
    let (loss, alone, samples, out) = train(in_pipeline);
    assert_eq!((loss, samples), (alone, 12));
    let says = "evaluation on 3 IPUs, 4 stages: 5 micro-batches a call in 8 pipeline cycles";
    assert!(out.contains(says), "{out}");
    // Layers divided over groups are so in the evaluation too.
    let divided = format!("{in_pipeline} --tensor_parallel 2 --machine pod8");
    let (loss, alone, _, out) = train(&divided);
    assert!((loss / alone - 1.0).abs() < 1e-5, "{loss}, not {alone}");
    let says = "evaluation on 6 IPUs, 4 stages: 5 micro-batches a call in 8 pipeline cycles";
    assert!(out.contains(says), "{out}");
    // Whole calls only.
    let (_, _, samples, _) = train(&format!("{in_pipeline} --dataloader_drop_last"));
    assert_eq!(samples, 10);
    let (_, _, _, out) = train("--pipeline false");
    assert!(
        out.contains("evaluation on 1 IPU: 1 micro-batch a call"),
        "{out}"
    );
}

#[test]
fn a_run_whose_evaluation_cannot_be_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, tokens) = (fixture("tiny"), tokens(folder.path(), 12));
    let out = folder.path().join("out");
    let line = "train --model_name_or_path {} --train_tokens {} --validation_file {} --do_train --do_eval --output_dir {} --max_steps 1 \
        --gradient_accumulation_steps 7 --layers_per_ipu [0,1,1] --machine pod4 --pipeline true --inference_replication_factor 2";
    let run = superstep(&words(line, &[&tiny, &tokens, &tokens, &out]));
    let says = "evaluation is to have 2 replicas of 3 IPUs, pod4 has 4";
    assert!(run.err.contains(says), "{}", run.err);
    let line = line.replace("factor 2", "factor 3");
    let run = superstep(&words(&line, &[&tiny, &tokens, &tokens, &out]));
    let says = "3 replicas of evaluation cannot share the 4 IPUs of pod4 evenly";
    assert!(run.err.contains(says), "{}", run.err);
    assert!(!out.join("metrics.jsonl").exists());
}

#[test]
fn a_run_that_only_evaluates_needs_no_training_data() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = tokens(folder.path(), 3);
    let out = folder.path().join("out");
    let line = "train --model_name_or_path {} --do_train false --do_eval --validation_file {} --machine ipu --output_dir {}";
    let tiny = fixture("tiny");
    superstep(&words(line, &[&tiny, &tokens, &out])).ok();
    assert_eq!(results(&out), (evaluated(&tiny, &tokens, "").0, 3));
    assert!(!out.join("model.safetensors").exists());
    let line = "train --model_name_or_path {} --do_train false --do_eval";
    superstep(&words(line, &[&tiny])).fails(2, "no data");
}
