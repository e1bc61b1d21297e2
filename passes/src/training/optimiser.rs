//! The optimisers as elementwise ops. What is the same for all weights is computed once, on scalars.

use superstep_ir::graph::Value;
use superstep_ir::graph::build::Builder;
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{BinaryOp, StateKind, UnaryOp};
use superstep_ir::types::{Shape, TensorType};

use super::{Moments, Optimiser};

type Built = Result<Value, TypeError>;

/// An optimiser with its scalars in a graph.
pub(super) enum Rule {
    Adam {
        scalars: AdamScalars,
        decay: Decay,
    },
    Sgd {
        learning_rate: Value,
        momentum: Option<Value>,
        decay: Decay,
    },
}

/// How a weight that decays does so.
pub(super) enum Decay {
    None,
    /// `p -= factor · p`, before the step and apart from the gradient.
    Decoupled(Value),
    /// `g += factor · p`
    IntoGradient(Value),
}

/// One weight to be moved: its value, in f32, and its gradient.
pub(super) struct Weight<'a> {
    pub(super) state: &'a str,
    pub(super) value: Value,
    pub(super) gradient: Value,
    pub(super) decayed: bool,
}

pub(super) struct AdamScalars {
    beta1: Value,
    one_minus_beta1: Value,
    beta2: Value,
    one_minus_beta2: Value,
    epsilon: Value,
    /// `lr / (1 − β₁ᵗ)`
    rate: Value,
    /// `1 / √(1 − β₂ᵗ)`
    spread: Value,
}

fn scalar(b: &mut Builder<'_>, name: &str, value: f64) -> Built {
    b.constant(name, value, TensorType::f32(Shape::scalar()))
}

impl Rule {
    /// Emits the scalars of `optimiser` for update number `step` (1 at the first).
    pub(super) fn new(
        b: &mut Builder<'_>,
        optimiser: &Optimiser,
        learning_rate: Value,
        step: Value,
    ) -> Result<Rule, TypeError> {
        b.scope("optimiser");
        let rule = match *optimiser {
            Optimiser::AdamW {
                moments,
                weight_decay,
            } => {
                let scalars = AdamScalars::new(b, moments, learning_rate, step)?;
                let decay = if weight_decay == 0.0 {
                    Decay::None
                } else {
                    Decay::Decoupled(b.scale("decay", learning_rate, weight_decay)?)
                };
                Rule::Adam { scalars, decay }
            }
            Optimiser::Adam {
                moments,
                weight_decay,
            } => Rule::Adam {
                scalars: AdamScalars::new(b, moments, learning_rate, step)?,
                decay: Decay::into_gradient(b, weight_decay)?,
            },
            Optimiser::Sgd {
                momentum,
                weight_decay,
            } => Rule::Sgd {
                learning_rate,
                momentum: match momentum {
                    0.0 => None,
                    _ => Some(scalar(b, "momentum", momentum)?),
                },
                decay: Decay::into_gradient(b, weight_decay)?,
            },
        };
        b.scope("");
        Ok(rule)
    }

    /// The value of `weight` after the step; assigns the optimiser's own state.
    pub(super) fn apply(&self, b: &mut Builder<'_>, weight: Weight<'_>) -> Built {
        let decay = match self {
            Rule::Adam { decay, .. } | Rule::Sgd { decay, .. } => decay,
        };
        let weight = decay.apply(b, weight)?;
        let change = match self {
            Rule::Adam { scalars, .. } => scalars.change(b, &weight)?,
            Rule::Sgd {
                learning_rate,
                momentum,
                ..
            } => {
                let direction = match momentum {
                    Some(momentum) => velocity(b, &weight, *momentum)?,
                    None => weight.gradient,
                };
                b.mul("change", direction, *learning_rate)?
            }
        };
        b.binary("moved", BinaryOp::Sub, weight.value, change)
    }
}

impl Decay {
    fn into_gradient(b: &mut Builder<'_>, weight_decay: f64) -> Result<Decay, TypeError> {
        if weight_decay == 0.0 {
            return Ok(Decay::None);
        }
        Ok(Decay::IntoGradient(scalar(b, "decay", weight_decay)?))
    }

    fn apply<'a>(&self, b: &mut Builder<'_>, weight: Weight<'a>) -> Result<Weight<'a>, TypeError> {
        match *self {
            _ if !weight.decayed => Ok(weight),
            Decay::None => Ok(weight),
            Decay::Decoupled(factor) => {
                let lost = b.mul("decay", weight.value, factor)?;
                let value = b.binary("decayed", BinaryOp::Sub, weight.value, lost)?;
                Ok(Weight { value, ..weight })
            }
            Decay::IntoGradient(factor) => {
                let pull = b.mul("decay", weight.value, factor)?;
                let gradient = b.add("decayed", weight.gradient, pull)?;
                Ok(Weight { gradient, ..weight })
            }
        }
    }
}

impl AdamScalars {
    fn new(
        b: &mut Builder<'_>,
        moments: Moments,
        learning_rate: Value,
        step: Value,
    ) -> Result<AdamScalars, TypeError> {
        let Moments {
            beta1,
            beta2,
            epsilon,
        } = moments;
        let correction1 = bias_correction(b, "bias_correction1", beta1, step)?;
        let correction2 = bias_correction(b, "bias_correction2", beta2, step)?;
        Ok(AdamScalars {
            beta1: scalar(b, "beta1", beta1)?,
            one_minus_beta1: scalar(b, "one_minus_beta1", 1.0 - beta1)?,
            beta2: scalar(b, "beta2", beta2)?,
            one_minus_beta2: scalar(b, "one_minus_beta2", 1.0 - beta2)?,
            epsilon: scalar(b, "epsilon", epsilon)?,
            rate: b.binary("rate", BinaryOp::Div, learning_rate, correction1)?,
            spread: b.unary("spread", UnaryOp::Rsqrt, correction2)?,
        })
    }

    /// `rate · m / (√v · spread + ε)` with the new moments, which are assigned.
    fn change(&self, b: &mut Builder<'_>, weight: &Weight<'_>) -> Built {
        let g = weight.gradient;
        let m = decaying_mean(b, weight, "exp_avg", self.beta1, self.one_minus_beta1, g)?;
        let square = b.unary("square", UnaryOp::Square, g)?;
        let (beta2, rest) = (self.beta2, self.one_minus_beta2);
        let v = decaying_mean(b, weight, "exp_avg_sq", beta2, rest, square)?;
        let root = b.unary("root", UnaryOp::Sqrt, v)?;
        let deviation = b.mul("deviation", root, self.spread)?;
        let denominator = b.add("denominator", deviation, self.epsilon)?;
        let numerator = b.mul("numerator", m, self.rate)?;
        b.binary("change", BinaryOp::Div, numerator, denominator)
    }
}

/// `1 − βᵗ` as `−expm1(t · ln β)`: in f32 the power itself would lose all but a few digits of the difference while `β` is
/// close to 1 and `t` small.
fn bias_correction(b: &mut Builder<'_>, name: &str, beta: f64, step: Value) -> Built {
    if beta == 0.0 {
        return scalar(b, name, 1.0);
    }
    let exponent = b.scale(&format!("{name}.exponent"), step, beta.ln())?;
    let less = b.unary(&format!("{name}.less"), UnaryOp::Expm1, exponent)?;
    b.unary(name, UnaryOp::Neg, less)
}

/// `s = keep · s + take · x` for the state `what.<weight>`; returns the new value and assigns it.
fn decaying_mean(
    b: &mut Builder<'_>,
    weight: &Weight<'_>,
    what: &str,
    keep: Value,
    take: Value,
    x: Value,
) -> Built {
    let state = format!("{what}.{}", weight.state);
    let ty = b.graph.ty(weight.value).clone();
    let old = b.parameter(&state, StateKind::OptimiserState, ty)?;
    let kept = b.mul(&format!("{what}.kept"), old, keep)?;
    let taken = b.mul(&format!("{what}.taken"), x, take)?;
    let new = b.add(what, kept, taken)?;
    b.assign(&state, new)?;
    Ok(new)
}

/// `s = momentum · s + g`
fn velocity(b: &mut Builder<'_>, weight: &Weight<'_>, momentum: Value) -> Built {
    let state = format!("momentum.{}", weight.state);
    let ty = b.graph.ty(weight.value).clone();
    let old = b.parameter(&state, StateKind::OptimiserState, ty)?;
    let kept = b.mul("momentum.kept", old, momentum)?;
    let new = b.add("momentum", kept, weight.gradient)?;
    b.assign(&state, new)?;
    Ok(new)
}
