//! What a user decides about a program before it is compiled: sizes, optimiser, placement.
//!
//! All that belongs to training is written into the executable, so that a report can say what was compiled and a run cannot contradict it.

use serde::{Deserialize, Serialize};
use superstep_ir::machine::Machine;
use superstep_ir::types::Real;
use superstep_passes::place::Recompute;
use superstep_passes::plan::matmul::PlanStyle;
use superstep_passes::serialise::Serialise;

use crate::precision::{Precision, PrecisionSettings};

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
    /// Decoder layers on each IPU; absent: found by the compiler.
    pub layers_per_ipu: Option<Vec<u32>>,
    /// IPUs work at the same time, each on another micro-batch.
    pub pipelined: bool,
    pub recompute: Recompute,
    /// Copies of the model, each with its own micro-batches.
    pub replicas: u32,
    /// Optimiser state of large weights is shared out over the replicas.
    pub sharded: bool,
    /// Optimiser state lies in streaming memory and visits the tiles for the update.
    pub offchip: bool,
    /// Most IPUs that a replica may have, where `layers_per_ipu` is left to the compiler.
    pub ipus_per_replica: Option<u32>,
    /// Share of tile memory that an op may use for its temporaries: none given, one for all IPUs, or one each.
    pub matmul_proportion: Vec<Real>,
    /// Products to make in slices, one after the other.
    pub serialise: Vec<Serialise>,
    /// Least number of blocks in which the output head is computed, one after the other, where `loss_chunks` leaves it open.
    pub head_blocks: usize,
    /// Styles of execution that products may choose from.
    pub matmul_plan: PlanStyle,
    /// Row blocks of the output head; absent: as many as keep the logits a small part of an IPU's memory.
    pub loss_chunks: Option<usize>,
    /// `all` or the name of a pass: print the graph after it.
    pub print_ir_after: Option<String>,
}

/// An evaluation program to compile: forward passes with a loss.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationSettings {
    pub machine: Machine,
    pub precision: Precision,
    /// Tokens of a sample.
    pub block_size: usize,
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches that each replica takes in a call of the host.
    pub device_iterations: u32,
    /// Copies of the model, each with its own IPUs and micro-batches.
    pub replicas: u32,
    /// Decoder layers on each IPU; absent: found by the compiler.
    pub layers_per_ipu: Option<Vec<u32>>,
    /// Most IPUs that a replica may have, where `layers_per_ipu` is left to the compiler.
    pub ipus_per_replica: Option<u32>,
    /// Share of tile memory that an op may use for its temporaries: none given, one for all IPUs, or one each.
    pub matmul_proportion: Vec<Real>,
    /// IPUs work at the same time, each on another micro-batch.
    pub pipelined: bool,
}

impl EvaluationSettings {
    /// One batch a call, on as few IPUs as hold the model.
    pub const fn new(
        machine: Machine,
        precision: Precision,
        block_size: usize,
        batch_size: usize,
    ) -> EvaluationSettings {
        EvaluationSettings {
            machine,
            precision,
            block_size,
            batch_size,
            device_iterations: 1,
            replicas: 1,
            layers_per_ipu: None,
            ipus_per_replica: None,
            matmul_proportion: Vec::new(),
            pipelined: false,
        }
    }

    /// Micro-batches of a call of the host, of all replicas.
    pub fn micro_batches_per_call(&self) -> usize {
        self.device_iterations as usize * self.replicas as usize
    }

    /// Samples of a call of the host.
    pub fn samples_per_call(&self) -> usize {
        self.batch_size
            .saturating_mul(self.micro_batches_per_call())
    }

    /// Neither a larger batch nor more micro-batches a call than so many samples fill.
    pub fn at_most(mut self, samples: usize) -> EvaluationSettings {
        self.batch_size = self.batch_size.min(samples).max(1);
        let of_an_iteration = self.batch_size.saturating_mul(self.replicas as usize);
        let filled = samples.div_ceil(of_an_iteration).max(1);
        self.device_iterations = self.device_iterations.min(filled as u32);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_no_longer_than_the_samples_there_are() {
        let settings = EvaluationSettings {
            device_iterations: 5,
            replicas: 2,
            ..EvaluationSettings::new(Machine::mk2(), Precision::F32, 8, 2)
        };
        assert_eq!(settings.samples_per_call(), 20);
        for (samples, batch, iterations) in
            [(1, 1, 1), (4, 2, 1), (5, 2, 2), (19, 2, 5), (99, 2, 5)]
        {
            let fitted = settings.clone().at_most(samples);
            let found = (fitted.batch_size, fitted.device_iterations);
            assert_eq!(found, (batch, iterations), "{samples}");
        }
    }
}
