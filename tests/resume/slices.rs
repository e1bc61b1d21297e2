//! Checkpoints of programs that have the head in slices: tables are whole in them, and runs go on in the same bits.

use std::path::Path;

use super::{fixture, longer, losses, superstep, weights, words};

/// Five slices of 104 entries, 8 of them padding: nothing of them is in the files, and the run goes on in the same bits.
#[test]
fn a_head_in_slices_goes_on_bit_for_bit_and_leaves_whole_tables() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("whole");
    let sliced = "--embedding_serialization_factor 5";
    superstep(&longer(&out, 4, 2, sliced)).ok();
    let config = superstep::frontend::Gpt2Config::load(&fixture("tiny")).unwrap();
    for dir in [out.clone(), out.join("checkpoint-2")] {
        let loaded = superstep::frontend::load_weights(&dir, &config).unwrap();
        assert_eq!(loaded.weights.get("wte.weight").unwrap().shape, [512, 32]);
        assert!(loaded.warnings.is_empty());
    }
    let first = out.join("checkpoint-2");
    let bytes = std::fs::read(first.join("optimizer.safetensors")).unwrap();
    let states = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for state in ["exp_avg.wte.weight", "exp_avg_sq.wte.weight"] {
        assert_eq!(states.tensor(state).unwrap().shape(), [512, 32]);
    }
    assert!(!states.names().iter().any(|name| name.ends_with(".0")));
    let again = folder.path().join("again");
    let more = format!("{sliced} --resume_from_checkpoint {}", first.display());
    superstep(&longer(&again, 4, 2, &more)).ok();
    assert_eq!(losses(&out)[2..], losses(&again));
    assert!(weights(&out) == weights(&again));
    // What is in the files does not depend on the slices: another number of them can go on, though not in the same bits.
    let other = folder.path().join("other");
    let more = format!("--resume_from_checkpoint {}", first.display());
    superstep(&longer(&other, 4, 2, &more))
        .fails(1, "embedding_serialization_factor is 1 here and 5");
    let more = format!("{more} --allow_resume_mismatch");
    superstep(&longer(&other, 4, 2, &more)).ok();
    for (this, that) in losses(&other).iter().zip(&losses(&out)[2..]) {
        assert!((this.1 - that.1).abs() < 1e-4, "{this:?} {that:?}");
    }
}

/// Replicas that share the moments of every slice out: the checkpoint has them whole.
#[test]
fn shared_out_slices_go_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("whole");
    let more = "--machine pod4 --replication_factor 2 --layers_per_ipu [4] --replicated_tensor_sharding true \
                --optimizer_state_offchip true --config_overrides vocab_size=512 --embedding_serialization_factor 3";
    let run = |out: &Path, more: &str| {
        let tokens = fixture("tiny").join("tokens.json");
        let line = "train --model_name_or_path gpt2-tiny --train_tokens {} --block_size 48 --gradient_accumulation_steps 2 \
                    --max_steps 4 --save_steps 2 --threads 2 --output_dir {}";
        words(&format!("{line} {more}"), &[&tokens, out])
    };
    superstep(&run(&out, more)).ok();
    let first = out.join("checkpoint-2");
    let bytes = std::fs::read(first.join("optimizer.safetensors")).unwrap();
    let states = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(states.tensor("exp_avg.wte.weight").unwrap().shape()[0], 512);
    let again = folder.path().join("again");
    let more = format!("{more} --resume_from_checkpoint {}", first.display());
    superstep(&run(&again, &more)).ok();
    assert_eq!(losses(&out)[2..], losses(&again));
    assert!(weights(&out) == weights(&again));
}
