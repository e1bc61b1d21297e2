//! IPU configurations as a user meets them: read, overridden, carried out and kept.

mod program;

use program::{fixture, superstep, words};
use serde_json::Value;

#[test]
fn ipu_config_is_read_and_its_idle_fields_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("ipu_config.json");
    let text = r#"{"layers_per_ipu": [1, 1], "ipus_per_replica": 2, "gradient_accumulation_steps": {"pod4": 6, "pod16": 9},
        "matmul_proportion": 0.2, "explicit_ir_inference": true, "flux": 1}"#;
    std::fs::write(&config, text).unwrap();
    let file = folder.path().join("tiny.superstep");
    let line = "compile --model_name_or_path {} --block_size 8 --ipu_config_name {} -o {}";
    let run = superstep(&words(line, &[&fixture("tiny"), folder.path(), &file])).ok();
    assert!(
        run.err.contains("`explicit_ir_inference` has no effect"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("unknown fields, kept: flux"),
        "{}",
        run.err
    );
    let few = format!("{line} --gradient_accumulation_steps 4");
    let few = superstep(&words(&few, &[&fixture("tiny"), folder.path(), &file]));
    assert!(few.err.contains("a pipeline of 5 stages"), "{}", few.err);
    let report = superstep(&words("report {} --json -", &[&file])).ok().out;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["pod"]["ipus_per_replica"], 2);
    assert_eq!(report["pod"]["stages"][1]["layers"], serde_json::json!([1]));
    assert_eq!(report["model"]["gradient_accumulation_steps"], 6);
    let precision = |more: &str| {
        let line = format!("{line} {more}");
        superstep(&words(&line, &[&fixture("tiny"), folder.path(), &file])).ok();
        let report = superstep(&words("report {} --json -", &[&file])).ok().out;
        serde_json::from_str::<Value>(&report).unwrap()["model"].clone()
    };
    let pod16 = precision("--pod_type pod16 --fp32");
    assert_eq!(pod16["gradient_accumulation_steps"], 9);
    let overrides = "--ipu_config_overrides layers_per_ipu=[2],ipus_per_replica=1";
    precision(overrides);
    for (more, says) in [
        ("--ipu_config_overrides colour=1", "no field"),
        ("--ipu_config_overrides layers_per_ipu=[1]", "names 1 IPUs"),
        ("--pod_type pod64", "no value for pod64"),
        ("--fp32 --precision f16.16", "contradicts"),
    ] {
        let line = format!("{line} {more}");
        let run = superstep(&words(&line, &[&fixture("tiny"), folder.path(), &file]));
        assert!(run.err.contains(says), "{more}: {}", run.err);
    }
}

#[test]
fn the_published_command_line_trains() {
    let folder = tempfile::tempdir().unwrap();
    let (config, out) = (folder.path().join("ipu.json"), folder.path().join("out"));
    let text = r#"{"layers_per_ipu": [0, 2], "ipus_per_replica": 2, "replication_factor": {"pod4": 2, "pod16": 8}, "device_iterations": 2,
        "replicated_tensor_sharding": true, "optimizer_state_offchip": true, "recompute_checkpoint_every_layer": true, "enable_half_first_order_momentum": true,
        "output_mode": "final", "inference_device_iterations": 2, "inference_replication_factor": 2, "executable_cache_dir": ""}"#;
    std::fs::write(&config, text).unwrap();
    let line = "train --model_name_or_path {} --ipu_config_name {} --train_tokens {} --validation_file {} --do_train --do_eval \
        --dataloader_num_workers 64 --per_device_train_batch_size 1 --per_device_eval_batch_size 1 --gradient_accumulation_steps 6 \
        --output_dir {} --logging_steps 1 --learning_rate 1e-5 --lr_scheduler_type linear --loss_scaling 16384 --weight_decay 0.01 \
        --warmup_ratio 0.1 --ipu_config_overrides gradient_accumulation_steps=8,inference_device_iterations=5 --dataloader_drop_last \
        --pod_type pod4 --max_steps 3 --block_size 48";
    let tiny = fixture("tiny");
    let tokens = tiny.join("tokens.json");
    let run = superstep(&words(line, &[&tiny, &config, &tokens, &tokens, &out])).ok();
    for says in [
        "Position Embedding  --> IPU 1",
        "Layer 1             --> IPU 1",
        "Device Iterations = 2",
        "Replication Factor = 2",
        "Total train batch size (w. parallel, distributed & accumulation) = 24",
        "Total optimization steps = 3",
    ] {
        assert!(run.out.contains(says), "{says}: {}", run.out);
    }
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap()
    };
    let kept = read("ipu_config.json");
    assert_eq!(kept["gradient_accumulation_steps"], 6);
    assert_eq!(kept["inference_device_iterations"], 5);
    assert_eq!(kept["replication_factor"], 2);
    assert!(kept.get("projection_serialization_factor").is_none());
    let state = read("trainer_state.json");
    let log = state["log_history"].as_array().unwrap();
    // Logged is the rate of the next step.
    let rates: Vec<f64> = log
        .iter()
        .filter_map(|entry| entry["learning_rate"].as_f64())
        .collect();
    assert_eq!(rates, [1e-5, 5e-6, 0.0]);
    let lines = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 6);
    let eval = read("eval_results.json");
    assert_eq!(eval["eval_samples"].as_u64().unwrap() % 10, 0);
    // Moments in parts and in streaming memory come back from a checkpoint.
    let (half, whole) = (folder.path().join("half"), folder.path().join("whole"));
    let saving = format!("{line} --save_steps 2");
    superstep(&words(&saving, &[&tiny, &config, &tokens, &tokens, &whole])).ok();
    std::fs::create_dir(&half).unwrap();
    std::fs::rename(whole.join("checkpoint-2"), half.join("checkpoint-2")).unwrap();
    let resumed = superstep(&words(&saving, &[&tiny, &config, &tokens, &tokens, &half])).ok();
    assert!(resumed.out.contains("checkpoint-2") || resumed.err.contains("checkpoint-2"));
    let model = |dir: &std::path::Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert!(model(&half) == model(&whole));
    let configuration = |dir: &std::path::Path| std::fs::read(dir.join("ipu_config.json")).unwrap();
    assert!(configuration(&whole) == configuration(&half.join("checkpoint-2")));
}

#[test]
fn a_kept_ipu_config_is_the_plan_that_was_carried_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (config, out, tiny) = (path("ipu.json"), path("out"), fixture("tiny"));
    let text = r#"{"layers_per_ipu": [2], "replicated_tensor_sharding": true, "matmul_proportion": 0.3, "colour": 1,
        "inference_embedding_serialization_factor": 2}"#;
    std::fs::write(&config, text).unwrap();
    let plan = "--layers_per_ipu [0,1,1] --replication_factor 2 --gradient_accumulation_steps 8 --optimizer_state_offchip true \
        --recompute all --replicated_tensor_sharding false --embedding_serialization_factor 3 --auto_loss_scaling";
    for precision in ["recipe", "f16.16", "f16.32"] {
        let plan = format!("--machine pod8 {plan} --precision {precision}");
        let line = format!(
            "train --model_name_or_path {{}} --ipu_config_name {{}} --train_tokens {{}} --output_dir {{}} --overwrite_output_dir \
             --max_steps 1 --block_size 48 {plan}"
        );
        let run = superstep(&words(
            &line,
            &[&tiny, &config, &tiny.join("tokens.json"), &out],
        ))
        .ok();
        assert!(!run.err.contains("give them again"), "{}", run.err);
        let program = |config: &std::path::Path, plan: &str| {
            let file = path("x.superstep");
            let line = format!(
                "compile --model_name_or_path {{}} --block_size 48 --ipu_config_name {{}} -o {{}} {plan}"
            );
            superstep(&words(&line, &[&tiny, config, &file])).ok();
            let report = superstep(&words("report {} --json -", &[&file])).ok().out;
            let report: Value = serde_json::from_str(&report).unwrap();
            ["pod", "time", "memory", "precision"].map(|part| report[part].clone())
        };
        let again = program(&out, "--machine pod8");
        assert!(!again[0].is_null() && !again[1].is_null());
        assert_eq!(again, program(&config, &plan));
        let whole: Value =
            serde_json::from_slice(&std::fs::read(out.join("ipu_config.json")).unwrap()).unwrap();
        assert_eq!(
            (&whole["colour"], &whole["matmul_proportion"]),
            (&1.into(), &0.3.into())
        );
        assert_eq!(whole["inference_embedding_serialization_factor"], 2);
    }
    let line = format!(
        "train --model_name_or_path {{}} --ipu_config_name {{}} --train_tokens {{}} --output_dir {{}} --overwrite_output_dir \
         --max_steps 1 --block_size 48 --machine pod8 {plan} --precision f32 --recompute [1]"
    )
    .replace("--recompute all ", "")
    .replace(" --auto_loss_scaling", "");
    let tokens = tiny.join("tokens.json");
    let run = superstep(&words(&line, &[&tiny, &config, &tokens, &out])).ok();
    let says = "give them again: --precision f32 --recompute \"[1]\"";
    assert!(run.err.contains(says), "{}", run.err);
}

#[test]
fn open_layers_go_over_as_many_ipus_as_the_configuration_has() {
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = (
        folder.path().join("ipu.json"),
        folder.path().join("x.superstep"),
    );
    for (fields, ipus) in [
        (r#""layers_per_ipu": [-1], "ipus_per_replica": 3"#, 3),
        (r#""ipus_per_replica": 2"#, 2),
        (r#""layers_per_ipu": [-1]"#, 1),
    ] {
        let text = format!("{{\"gradient_accumulation_steps\": 9, {fields}}}");
        std::fs::write(&config, text).unwrap();
        let line = "compile --model_name_or_path {} --block_size 48 --machine pod4 --ipu_config_name {} -o {}";
        superstep(&words(line, &[&fixture("tiny"), &config, &file])).ok();
        let report = superstep(&words("report {} --json -", &[&file])).ok().out;
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["pod"]["ipus_per_replica"], ipus, "{fields}");
    }
}

#[test]
fn streaming_memory_is_for_all_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let needed = |replicas: u32| {
        let line = format!(
            "compile --model_name_or_path {{}} --block_size 48 -o {{}} --machine pod4,streaming_bytes=1 \
             --optimizer_state_offchip true --replication_factor {replicas}"
        );
        let run = superstep(&words(
            &line,
            &[&fixture("tiny"), &folder.path().join("x.superstep")],
        ));
        let rest = run
            .err
            .split("off chip takes ")
            .nth(1)
            .unwrap_or_else(|| panic!("{}", run.err));
        rest.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(needed(4), 4 * needed(1));
}
