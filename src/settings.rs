//! What a user decides about a training program before it is compiled: sizes, optimiser, placement. Evaluation programs have less to decide.
//!
//! All of it is written into the executable, so that a report can say what was compiled and a run cannot contradict it.

use serde::{Deserialize, Serialize};
use superstep_ir::machine::Machine;
use superstep_ir::types::Real;
use superstep_passes::place::Recompute;
use superstep_passes::plan::matmul::PlanStyle;
use superstep_passes::serialise::Serialise;

use crate::frontend::VocabularySlices;
use crate::precision::PrecisionSettings;

mod evaluation;

pub use evaluation::EvaluationSettings;

/// Which update rule is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum OptimiserKind {
    /// Adam with decoupled weight decay.
    #[value(alias = "adamw_torch", alias = "adamw_hf")]
    Adamw,
    /// Adam with the decay added to the gradient.
    Adam,
    /// Plain gradient descent.
    Sgd,
}

impl OptimiserKind {
    pub const fn name(self) -> &'static str {
        match self {
            OptimiserKind::Adamw => "adamw",
            OptimiserKind::Adam => "adam",
            OptimiserKind::Sgd => "sgd",
        }
    }
}

/// The update rule and its constants, which become part of the program. The learning rate does not: it is streamed in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimiserSettings {
    pub kind: OptimiserKind,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Divide Adam's moments by `1 − βᵗ`.
    pub bias_correction: bool,
    /// Clip the accumulated gradient to this L2 norm; absent: no clipping.
    pub max_grad_norm: Option<f64>,
}

impl OptimiserSettings {
    /// The defaults of Hugging Face's trainer, but without clipping.
    pub const fn hugging_face() -> OptimiserSettings {
        OptimiserSettings {
            kind: OptimiserKind::Adamw,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            bias_correction: true,
            max_grad_norm: None,
        }
    }
}

/// Shares of tile memory for another number of IPUs than they were given for: where each has its own, the smallest for all.
pub fn fitting(shares: &[Real], ipus: usize) -> Vec<Real> {
    if shares.len() <= 1 || shares.len() == ipus {
        return shares.to_vec();
    }
    let smallest = shares.iter().min_by(|a, b| a.0.total_cmp(&b.0));
    smallest.into_iter().copied().collect()
}

/// A training program to compile.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSettings {
    pub machine: Machine,
    /// Tokens of a sample.
    pub block_size: usize,
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of an optimiser step.
    pub accumulation: u32,
    pub optimiser: OptimiserSettings,
    pub precision: PrecisionSettings,
    /// Decoder layers on each IPU, or on each group of them; absent: found by the compiler.
    pub layers_per_ipu: Option<Vec<u32>>,
    /// IPUs of a group, over which a layer is divided; 1: layers are whole.
    pub tensor_parallel: u32,
    /// IPUs work at the same time, each on another micro-batch.
    pub pipelined: bool,
    pub recompute: Recompute,
    /// Copies of the model, each with its own micro-batches.
    pub replicas: u32,
    /// Optimiser state of large weights is shared out over the replicas.
    pub sharded: bool,
    /// Optimiser state lies in streaming memory and visits the tiles for the update.
    pub offchip: bool,
    /// IPUs that a replica has, where `layers_per_ipu` is left to the compiler.
    pub ipus_per_replica: Option<u32>,
    /// Share of tile memory that an op may use for its temporaries: none given, one for all IPUs, or one each.
    pub matmul_proportion: Vec<Real>,
    /// Slices of the vocabulary in which the output head is computed, one after the other.
    pub head_slices: usize,
    /// Products to make in slices, one after the other.
    pub serialise: Vec<Serialise>,
    /// Styles of execution that products may choose from.
    pub matmul_plan: PlanStyle,
    /// Row blocks of the output head; absent: found by the compiler.
    pub loss_chunks: Option<usize>,
    /// `all` or the name of a pass: print the graph after it.
    pub print_ir_after: Option<String>,
}

impl TrainingSettings {
    /// Steps of one micro-batch with Hugging Face's optimiser in f32: nothing asked for, nothing divided.
    pub fn plain(machine: Machine, block_size: usize, batch_size: usize) -> TrainingSettings {
        TrainingSettings {
            machine,
            block_size,
            batch_size,
            accumulation: 1,
            optimiser: OptimiserSettings::hugging_face(),
            precision: PrecisionSettings::default(),
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

    /// How a vocabulary is cut for these settings: where optimiser state is shared out, every replica gets as much of each slice.
    pub fn vocabulary(&self, entries: usize) -> VocabularySlices {
        let replicas = if self.sharded {
            self.replicas.max(1)
        } else {
            1
        };
        VocabularySlices::new(entries, self.head_slices, replicas as usize)
    }
}
