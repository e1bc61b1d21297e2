//! A small model and its settings, for tests of the compiler.

use serde_json::{Value, json};
use superstep_ir::machine::Machine;
use superstep_passes::place::Recompute;
use superstep_passes::plan::matmul::PlanStyle;

use crate::frontend::Gpt2Config;
use crate::precision::{Precision, PrecisionSettings};
use crate::settings::{OptimiserSettings, TrainingSettings};

/// Two heads, width 32, up to 16 tokens.
pub(super) fn config(layers: usize, vocabulary: usize) -> Gpt2Config {
    let json = json!({
        "n_layer": layers, "n_head": 2, "n_embd": 32, "n_positions": 16, "vocab_size": vocabulary, "n_inner": Value::Null,
        "bos_token_id": vocabulary - 1, "eos_token_id": vocabulary - 1, "tie_word_embeddings": true,
    });
    Gpt2Config::from_json(json.to_string().as_bytes(), "config.json".as_ref()).unwrap()
}

/// One micro-batch of 16 samples of 16 tokens; everything else as plain as can be.
pub(super) fn settings(machine: Machine) -> TrainingSettings {
    TrainingSettings {
        machine,
        block_size: 16,
        batch_size: 16,
        accumulation: 1,
        optimiser: OptimiserSettings::hugging_face(),
        precision: PrecisionSettings::of(Precision::F32),
        layers_per_ipu: None,
        tensor_parallel: 1,
        pipelined: false,
        recompute: Recompute::Nothing,
        replicas: 1,
        sharded: false,
        offchip: false,
        ipus_per_replica: None,
        matmul_proportion: Vec::new(),
        head_slices: 1,
        serialise: Vec::new(),
        matmul_plan: PlanStyle::Auto,
        loss_chunks: None,
        print_ir_after: None,
    }
}
