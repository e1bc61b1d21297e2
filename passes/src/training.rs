//! From a forward graph with a loss to the two graphs of a training module.
//!
//! `micro_batch` is forward and backward of one micro-batch; gradients, divided by the number of micro-batches of a step, are
//! added onto accumulators. `update` runs once after them: it takes the norm of the accumulated gradient, clips, applies the
//! optimiser, and zeroes the accumulators. The two meet in state alone, and all of it is ordinary ops.

mod micro_batch;
mod numerics;
mod optimiser;
#[cfg(test)]
mod tests;
mod update;

use std::collections::BTreeSet;

use superstep_ir::graph::{Graph, Module, Place};
use superstep_ir::op::StateKind;
use superstep_ir::op::infer::TypeError;
use superstep_ir::types::TensorType;
use thiserror::Error;

use crate::differentiate::DifferentiateError;
pub use numerics::Numerics;

/// The rule by which weights follow their gradients, and its constants. The learning rate is no constant: it is streamed in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimiser {
    /// Adam with decoupled weight decay: `p -= lr·decay·p` before the step of [`Moments`].
    AdamW { moments: Moments, weight_decay: f64 },
    /// Adam with `decay·p` added to the gradient.
    Adam { moments: Moments, weight_decay: f64 },
    /// `b = momentum·b + g + decay·p`, `p -= lr·b`; without momentum there is no `b`.
    Sgd { momentum: f64, weight_decay: f64 },
}

/// Constants of Adam's step at update `t = 1, 2, …`: `m = β₁m + (1−β₁)g`, `v = β₂v + (1−β₂)g²`,
/// `p -= lr · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Divide by `1−βᵗ`; without, the moments are taken as they are.
    pub bias_correction: bool,
}

/// What a training module is made with.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingOptions {
    pub optimiser: Optimiser,
    /// Micro-batches of a step, at least 1.
    pub gradient_accumulation_steps: u32,
    /// Clip the accumulated gradient to this L2 norm over all weights: times `min(1, max / (norm + 1e-6))`.
    pub max_grad_norm: Option<f64>,
    /// Weights that decay, by state name; [`matrices`] is the usual choice.
    pub decayed: BTreeSet<String>,
    pub numerics: Numerics,
}

/// Why there is no training module for a graph and these options.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum TrainingError {
    #[error("the graph has no output \"loss\" to train on")]
    NoLoss,
    #[error("the loss is {ty}, expected a scalar f32[]")]
    LossType { ty: TensorType },
    #[error("the loss depends on no weight: there is nothing to train")]
    NothingToTrain,
    #[error("{setting} is {value}, expected {expected}")]
    Setting {
        setting: &'static str,
        value: f64,
        expected: &'static str,
    },
    #[error("\"{state}\" is to decay, but the graph has no such weight")]
    UnknownDecayed { state: String },
    #[error(transparent)]
    Differentiate(#[from] DifferentiateError),
    #[error(transparent)]
    Type(#[from] TypeError),
}

/// The stream that both graphs read the loss scale from.
const LOSS_SCALE: &str = "loss_scale";

/// A weight that gets a gradient.
struct Trained {
    state: String,
    ty: TensorType,
    /// Place of the op that reads it forward.
    place: Place,
}

/// Name of the gradient accumulator of a weight.
pub fn accumulator(weight: &str) -> String {
    format!("accum.{weight}")
}

/// State names of the weights with two or more axes: embeddings and the matrices of linear layers, not biases and norms.
pub fn matrices(forward: &Graph) -> BTreeSet<String> {
    let matrix =
        |kind: StateKind, ty: &TensorType| kind == StateKind::Weight && ty.shape.rank() >= 2;
    let weights = forward
        .parameters()
        .filter(|(_, _, kind, ty)| matrix(*kind, ty));
    weights.map(|(_, state, _, _)| state.to_string()).collect()
}

/// The training module of a forward graph with a scalar output `loss`.
///
/// Streams and state of `forward` stay as they are. New state: `accum.<weight>`, `exp_avg.<weight>` and `exp_avg_sq.<weight>`
/// (Adam) or `momentum.<weight>` (SGD with momentum), in the weight's shape and the types that [`Numerics`] says, and the counter `step`
/// (and `micro_batches`, for running means). New streams: `learning_rate` into `update`, `grad_norm` (before clipping) out of it,
/// `loss_scale` into both graphs. A weight that the loss does not depend on is not trained and has none of these.
///
/// # Errors
/// No usable loss, an option out of its range, or an op of the forward graph without a gradient.
pub fn training_module(
    forward: &Graph,
    options: &TrainingOptions,
) -> Result<Module, TrainingError> {
    check(forward, options)?;
    let (micro_batch, trained) = micro_batch::build(forward, options)?;
    let update = update::build(&trained, options)?;
    Ok(Module {
        graphs: vec![micro_batch, update],
    })
}

fn check(forward: &Graph, options: &TrainingOptions) -> Result<(), TrainingError> {
    let need = |setting, value: f64, expected, holds: bool| match holds {
        true => Ok(()),
        false => Err(TrainingError::Setting {
            setting,
            value,
            expected,
        }),
    };
    let not_negative = |setting, value: f64| {
        let holds = value.is_finite() && value >= 0.0;
        need(setting, value, "a number of 0 or more", holds)
    };
    let fraction = |setting, value: f64| {
        let holds = (0.0..1.0).contains(&value);
        need(setting, value, "a number from 0 to less than 1", holds)
    };
    let steps = options.gradient_accumulation_steps;
    need(
        "gradient_accumulation_steps",
        steps.into(),
        "1 or more",
        steps > 0,
    )?;
    if let Some(max) = options.max_grad_norm {
        let holds = max.is_finite() && max > 0.0;
        need("max_grad_norm", max, "a number above 0", holds)?;
    }
    match options.optimiser {
        Optimiser::AdamW {
            moments,
            weight_decay,
        }
        | Optimiser::Adam {
            moments,
            weight_decay,
        } => {
            fraction("beta1", moments.beta1)?;
            fraction("beta2", moments.beta2)?;
            not_negative("epsilon", moments.epsilon)?;
            not_negative("weight_decay", weight_decay)?;
        }
        Optimiser::Sgd {
            momentum,
            weight_decay,
        } => {
            fraction("momentum", momentum)?;
            not_negative("weight_decay", weight_decay)?;
        }
    }
    let is_weight = |state: &str| {
        let mut parameters = forward.parameters();
        parameters.any(|(_, s, kind, _)| s == state && kind == StateKind::Weight)
    };
    match options.decayed.iter().find(|s| !is_weight(s)) {
        Some(state) => Err(TrainingError::UnknownDecayed {
            state: state.clone(),
        }),
        None => Ok(()),
    }
}
