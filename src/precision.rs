//! In which precision a model is kept and computed, as a user names it.

use serde::{Deserialize, Serialize};
use superstep_ir::graph::Graph;
use superstep_ir::types::DType;
use superstep_passes::mixed_precision::MixedPrecision;
use superstep_passes::pass::{Pass, PassContext};
use superstep_passes::training::Numerics;

use crate::error::Error;

/// A combination of element types. The second number is that of partial sums of products, as PopLibs names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Precision {
    /// Everything in f32.
    #[default]
    #[value(name = "f32", alias = "fp32", alias = "float32")]
    #[serde(rename = "f32")]
    F32,
    /// Weights, activations, gradients and partial sums in f16; statistics, accumulators, moments and scalars in f32.
    #[value(name = "f16.16", alias = "f16", alias = "fp16", alias = "half")]
    #[serde(rename = "f16.16")]
    F16Partials16,
    /// The same with partial sums in f32, at half the rate of the matrix unit.
    #[value(name = "f16.32")]
    #[serde(rename = "f16.32")]
    F16Partials32,
    /// f16.16, with accumulators (running means) and first moments in f16, and weights updated in f16: Graphcore's recipe for GPT-2.
    #[value(name = "recipe")]
    #[serde(rename = "recipe")]
    Recipe,
}

impl Precision {
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16Partials16 => "f16.16",
            Precision::F16Partials32 => "f16.32",
            Precision::Recipe => "recipe",
        }
    }

    pub const fn is_half(self) -> bool {
        !matches!(self, Precision::F32)
    }

    /// Element type of weights and activations.
    pub const fn elements(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            _ => DType::F16,
        }
    }

    /// Whether partial sums of products are f16.
    pub const fn has_half_partials(self) -> bool {
        matches!(self, Precision::F16Partials16 | Precision::Recipe)
    }

    /// The loss scale that a run starts with when none is given: gradients of logits are far below the smallest half without one.
    pub const fn default_loss_scale(self) -> f64 {
        match self {
            Precision::F32 => 1.0,
            _ => 16384.0,
        }
    }

    /// The fields of an `ipu_config.json` that give it; f32 is none of those that they can give.
    pub const fn ipu_config_fields(self) -> [(&'static str, bool); 2] {
        let recipe = matches!(self, Precision::Recipe);
        [
            ("enable_half_partials", self.has_half_partials()),
            ("enable_half_first_order_momentum", recipe),
        ]
    }

    /// Rewrites an f32 forward graph.
    pub fn apply(self, forward: &mut Graph, master_weights: bool) -> Result<(), Error> {
        if !self.is_half() {
            return Ok(());
        }
        let pass = MixedPrecision { master_weights };
        pass.run(forward, &mut PassContext::new())
            .map_err(|error| Error::failed(error.to_string()))
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What is compiled into a training program to do with precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrecisionSettings {
    pub precision: Precision,
    /// Weights are kept in f32 and rounded to f16 where they are read.
    pub master_weights: bool,
    /// Stores to f16 round up or down at random, in proportion to what is nearer.
    pub stochastic_rounding: bool,
    /// The gradient of the loss is multiplied by a factor that the host gives.
    pub loss_scaling: bool,
    /// An update whose gradient is not finite changes nothing, so that the loss scale can be halved.
    pub auto_loss_scaling: bool,
}

impl PrecisionSettings {
    /// What a precision means when nothing else is said.
    pub const fn of(precision: Precision) -> PrecisionSettings {
        PrecisionSettings {
            precision,
            master_weights: false,
            stochastic_rounding: precision.is_half(),
            loss_scaling: precision.is_half(),
            auto_loss_scaling: false,
        }
    }

    /// What it means for the training graphs.
    pub const fn numerics(&self) -> Numerics {
        Numerics {
            half_moments: matches!(self.precision, Precision::Recipe),
            loss_scale: self.loss_scaling,
            skip_overflow: self.auto_loss_scaling,
        }
    }
}
