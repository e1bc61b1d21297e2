//! What an executable says about itself besides its program: the model, what was decided, and how the compiler got there.

use serde::{Deserialize, Serialize};

use superstep_passes::place::Recompute;
use superstep_passes::plan::matmul::PlannedProduct;

use crate::frontend::{FrontendError, Gpt2Config, VocabularySlices};
use crate::precision::PrecisionSettings;
use crate::settings::OptimiserSettings;

/// The manifest section of a training executable, readable JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `training`: the only kind that is written to files.
    pub kind: String,
    /// As the user called the model.
    pub model: String,
    /// The model's `config.json`.
    pub config: serde_json::Value,
    pub block_size: usize,
    pub per_device_train_batch_size: usize,
    pub gradient_accumulation_steps: u32,
    pub optimiser: OptimiserSettings,
    pub precision: PrecisionSettings,
    pub layers_per_ipu: Vec<u32>,
    /// IPUs of each group that `layers_per_ipu` names.
    pub tensor_parallel: u32,
    pub pipelined: bool,
    pub recompute: Recompute,
    pub replicas: u32,
    pub sharded: bool,
    pub loss_chunks: usize,
    /// Slices of the vocabulary in which the head works.
    pub embedding_serialization_factor: usize,
    pub passes: Vec<PassTime>,
    /// How every product is executed.
    pub products: Vec<PlannedProduct>,
}

/// One pass or step of placement, over all graphs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassTime {
    pub name: String,
    pub seconds: f64,
}

impl Manifest {
    pub const TRAINING: &str = "training";

    /// The model's configuration, checked like one from a file.
    pub fn model_config(&self) -> Result<Gpt2Config, FrontendError> {
        Gpt2Config::from_json(
            self.config.to_string().as_bytes(),
            "the manifest's config".as_ref(),
        )
    }

    /// How the program cuts a vocabulary.
    pub fn vocabulary(&self, entries: usize) -> VocabularySlices {
        let replicas = if self.sharded {
            self.replicas.max(1)
        } else {
            1
        };
        let slices = self.embedding_serialization_factor;
        VocabularySlices::new(entries, slices, replicas as usize)
    }

    /// IPUs of a replica: those of all groups.
    pub fn ipus_per_replica(&self) -> u32 {
        self.layers_per_ipu.len() as u32 * self.tensor_parallel
    }

    /// Tokens of one optimiser step.
    pub fn tokens_per_step(&self) -> usize {
        self.samples_per_step() * self.block_size
    }

    /// Samples of one optimiser step.
    pub fn samples_per_step(&self) -> usize {
        self.per_device_train_batch_size
            * self.gradient_accumulation_steps as usize
            * self.replicas as usize
    }
}
