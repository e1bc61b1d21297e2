//! The optimisers as elementwise ops on f32. What is the same for all weights is computed once, on scalars.
//!
//! State is widened where it is read and rounded where it is assigned. With f16 moments more is rounded on the way, as
//! [`Numerics`] says: every such point is a cast there and back.

use superstep_ir::graph::Value;
use superstep_ir::graph::build::Builder;
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{BinaryOp, Op, StateKind, UnaryOp};
use superstep_ir::types::{DType, Shape, TensorType};

use super::{Moments, Numerics, Optimiser};

type Built = Result<Value, TypeError>;

/// An optimiser with its scalars in a graph.
pub(super) struct Rule {
    step: Kind,
    decay: Decay,
    learning_rate: Value,
    numerics: Numerics,
    /// 1 if the gradient is finite, else 0; absent where nobody asks.
    finite: Option<Value>,
}

enum Kind {
    Adam(AdamScalars),
    Sgd { momentum: Option<Value> },
}

/// What an update has before any weight: the number of it (1 at the first), and what it may do.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) learning_rate: Value,
    pub(super) step: Value,
    pub(super) finite: Option<Value>,
}

/// How a weight that decays does so.
pub(super) enum Decay {
    None,
    /// `p -= factor · p`, before the step and apart from the gradient.
    Decoupled(Value),
    /// `direction += factor · p`: the same, with one multiplication by the learning rate.
    IntoDirection(Value),
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

struct AdamScalars {
    /// `β` and `1 − β` of both moments; 1 and 0 when nothing may change.
    first: [Value; 2],
    second: [Value; 2],
    epsilon: Value,
    /// `1 / √(1 − β₂ᵗ)`, absent without bias correction.
    spread: Option<Value>,
    scale: FirstScale,
}

/// Where the bias of the first moment is corrected.
enum FirstScale {
    /// With the learning rate: `lr / (1 − β₁ᵗ)`.
    Rate(Value),
    /// In the moment: times `1 / (1 − β₁ᵗ)`, if it is corrected.
    Moment(Option<Value>),
}

fn scalar(b: &mut Builder<'_>, name: &str, value: f64) -> Built {
    b.constant(name, value, TensorType::f32(Shape::scalar()))
}

/// `x` where `finite` is 1, else 0, whatever `x` is.
pub(super) fn if_finite(b: &mut Builder<'_>, name: &str, finite: Option<Value>, x: Value) -> Built {
    match finite {
        Some(finite) => b.binary(name, BinaryOp::ReluGrad, finite, x),
        None => Ok(x),
    }
}

/// A value in another float type.
pub(super) fn cast(b: &mut Builder<'_>, name: &str, x: Value, to: DType) -> Built {
    if b.graph.ty(x).dtype == to {
        return Ok(x);
    }
    b.op(name, Op::Cast { to }, &[x])
}

/// `x` rounded to `dtype`, in f32.
pub(super) fn rounded(b: &mut Builder<'_>, name: &str, x: Value, dtype: DType) -> Built {
    let narrow = cast(b, &format!("{name}.rounded"), x, dtype)?;
    cast(b, &format!("{name}.widened"), narrow, DType::F32)
}

impl Rule {
    /// Emits the scalars of `optimiser` for one update.
    pub(super) fn new(
        b: &mut Builder<'_>,
        optimiser: &Optimiser,
        numerics: Numerics,
        now: Now,
    ) -> Result<Rule, TypeError> {
        b.scope("optimiser");
        let learning_rate = if_finite(b, "learning_rate", now.finite, now.learning_rate)?;
        let now = Now {
            learning_rate,
            ..now
        };
        let (step, decay) = match *optimiser {
            Optimiser::AdamW {
                moments,
                weight_decay,
            } => {
                let scalars = AdamScalars::new(b, moments, numerics, now)?;
                let decay = match (weight_decay, numerics.half_moments) {
                    (0.0, _) => Decay::None,
                    (_, false) => {
                        Decay::Decoupled(b.scale("decay", learning_rate, weight_decay)?)
                    }
                    (_, true) => Decay::IntoDirection(scalar(b, "decay", weight_decay)?),
                };
                (Kind::Adam(scalars), decay)
            }
            Optimiser::Adam {
                moments,
                weight_decay,
            } => {
                let scalars = AdamScalars::new(b, moments, numerics, now)?;
                (Kind::Adam(scalars), Decay::into_gradient(b, weight_decay)?)
            }
            Optimiser::Sgd {
                momentum,
                weight_decay,
            } => {
                let momentum = match momentum {
                    0.0 => None,
                    _ => Some(keeping(b, "momentum", momentum, now.finite)?),
                };
                (
                    Kind::Sgd { momentum },
                    Decay::into_gradient(b, weight_decay)?,
                )
            }
        };
        b.scope("");
        Ok(Rule {
            step,
            decay,
            learning_rate,
            numerics,
            finite: now.finite,
        })
    }

    /// The value of `weight` after the step; assigns the optimiser's own state.
    pub(super) fn apply(&self, b: &mut Builder<'_>, weight: Weight<'_>) -> Built {
        let mut weight = self.decay.before(b, weight)?;
        weight.gradient = if_finite(b, "gradient.finite", self.finite, weight.gradient)?;
        let change = match &self.step {
            Kind::Adam(scalars) => match scalars.scale {
                FirstScale::Rate(rate) => scalars.change(b, &weight, rate)?,
                FirstScale::Moment(unbias) => {
                    let direction = scalars.half_direction(b, &weight, unbias)?;
                    let direction = self.decay.direction(b, direction, &weight)?;
                    b.mul("change", direction, self.learning_rate)?
                }
            },
            Kind::Sgd { momentum } => {
                let direction = match momentum {
                    Some(momentum) => velocity(b, &weight, *momentum, self.numerics.moments())?,
                    None => weight.gradient,
                };
                b.mul("change", direction, self.learning_rate)?
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

    /// What decay does before the step.
    fn before<'a>(&self, b: &mut Builder<'_>, weight: Weight<'a>) -> Result<Weight<'a>, TypeError> {
        match *self {
            _ if !weight.decayed => Ok(weight),
            Decay::None | Decay::IntoDirection(_) => Ok(weight),
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

    /// The direction with the decay in it, in the precision of the moments.
    fn direction(&self, b: &mut Builder<'_>, direction: Value, weight: &Weight<'_>) -> Built {
        let Decay::IntoDirection(factor) = *self else {
            return Ok(direction);
        };
        if !weight.decayed {
            return Ok(direction);
        }
        let pull = b.mul("decay", weight.value, factor)?;
        let sum = b.add("decayed", direction, pull)?;
        rounded(b, "decayed", sum, DType::F16)
    }
}

impl AdamScalars {
    fn new(
        b: &mut Builder<'_>,
        moments: Moments,
        numerics: Numerics,
        now: Now,
    ) -> Result<AdamScalars, TypeError> {
        let Moments { beta1, beta2, .. } = moments;
        let corrections = match moments.bias_correction {
            true => Some([
                bias_correction(b, "bias_correction1", beta1, now.step)?,
                bias_correction(b, "bias_correction2", beta2, now.step)?,
            ]),
            false => None,
        };
        let first = corrections.map(|[first, _]| first);
        let scale = match (numerics.half_moments, first) {
            (false, None) => FirstScale::Rate(now.learning_rate),
            (false, Some(first)) => {
                FirstScale::Rate(b.binary("rate", BinaryOp::Div, now.learning_rate, first)?)
            }
            (true, None) => FirstScale::Moment(None),
            (true, Some(first)) => {
                FirstScale::Moment(Some(b.unary("unbias", UnaryOp::Reciprocal, first)?))
            }
        };
        let second = corrections.map(|[_, second]| b.unary("spread", UnaryOp::Rsqrt, second));
        Ok(AdamScalars {
            first: [
                keeping(b, "beta1", beta1, now.finite)?,
                taking(b, "one_minus_beta1", beta1, now.finite)?,
            ],
            second: [
                keeping(b, "beta2", beta2, now.finite)?,
                taking(b, "one_minus_beta2", beta2, now.finite)?,
            ],
            epsilon: scalar(b, "epsilon", moments.epsilon)?,
            spread: second.transpose()?,
            scale,
        })
    }

    /// `rate · m / (√v̂ + ε)` with the new moments, which are assigned.
    fn change(&self, b: &mut Builder<'_>, weight: &Weight<'_>, rate: Value) -> Built {
        let g = weight.gradient;
        let m = decaying_mean(b, weight, "exp_avg", self.first, g, DType::F32)?;
        let denominator = self.denominator(b, weight)?;
        let numerator = b.mul("numerator", m, rate)?;
        b.binary("change", BinaryOp::Div, numerator, denominator)
    }

    /// `m̂ / (√v̂ + ε)` with `m`, `m̂` and the result rounded to f16.
    fn half_direction(
        &self,
        b: &mut Builder<'_>,
        weight: &Weight<'_>,
        unbias: Option<Value>,
    ) -> Built {
        let (g, half) = (weight.gradient, DType::F16);
        let mut m = decaying_mean(b, weight, "exp_avg", self.first, g, half)?;
        if let Some(unbias) = unbias {
            let corrected = b.mul("exp_avg.corrected", m, unbias)?;
            m = rounded(b, "exp_avg.corrected", corrected, half)?;
        }
        let denominator = self.denominator(b, weight)?;
        let direction = b.binary("direction", BinaryOp::Div, m, denominator)?;
        rounded(b, "direction", direction, half)
    }

    /// `√v̂ + ε` with the new second moment, which is assigned.
    fn denominator(&self, b: &mut Builder<'_>, weight: &Weight<'_>) -> Built {
        let square = b.unary("square", UnaryOp::Square, weight.gradient)?;
        let v = decaying_mean(b, weight, "exp_avg_sq", self.second, square, DType::F32)?;
        let mut deviation = b.unary("root", UnaryOp::Sqrt, v)?;
        if let Some(spread) = self.spread {
            deviation = b.mul("deviation", deviation, spread)?;
        }
        b.add("denominator", deviation, self.epsilon)
    }
}

/// `β`, or 1 when the gradient is not finite.
fn keeping(b: &mut Builder<'_>, name: &str, beta: f64, finite: Option<Value>) -> Built {
    if finite.is_none() {
        return scalar(b, name, beta);
    }
    let loss = scalar(b, &format!("{name}.loss"), 1.0 - beta)?;
    let loss = if_finite(b, &format!("{name}.loss.finite"), finite, loss)?;
    let one = scalar(b, &format!("{name}.one"), 1.0)?;
    b.binary(name, BinaryOp::Sub, one, loss)
}

/// `1 − β`, or 0 when the gradient is not finite.
fn taking(b: &mut Builder<'_>, name: &str, beta: f64, finite: Option<Value>) -> Built {
    let share = scalar(b, name, 1.0 - beta)?;
    if_finite(b, &format!("{name}.finite"), finite, share)
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

/// `s = keep · s + take · x` for the state `what.<weight>` of type `dtype`; returns the new value in f32 and assigns it.
fn decaying_mean(
    b: &mut Builder<'_>,
    weight: &Weight<'_>,
    what: &str,
    [keep, take]: [Value; 2],
    x: Value,
    dtype: DType,
) -> Built {
    let state = State::read(b, weight, what, dtype)?;
    let kept = b.mul(&format!("{what}.kept"), state.old, keep)?;
    let taken = b.mul(&format!("{what}.taken"), x, take)?;
    let new = b.add(what, kept, taken)?;
    state.assign(b, new)
}

/// `s = momentum · s + g`
fn velocity(b: &mut Builder<'_>, weight: &Weight<'_>, momentum: Value, dtype: DType) -> Built {
    let state = State::read(b, weight, "momentum", dtype)?;
    let kept = b.mul("momentum.kept", state.old, momentum)?;
    let new = b.add("momentum", kept, weight.gradient)?;
    state.assign(b, new)
}

/// Optimiser state of one weight.
struct State {
    what: String,
    name: String,
    dtype: DType,
    /// Its value before the update, in f32.
    old: Value,
}

impl State {
    fn read(
        b: &mut Builder<'_>,
        weight: &Weight<'_>,
        what: &str,
        dtype: DType,
    ) -> Result<State, TypeError> {
        let name = format!("{what}.{}", weight.state);
        let ty = TensorType::new(dtype, b.graph.ty(weight.value).shape.clone());
        let old = b.parameter(&name, StateKind::OptimiserState, ty)?;
        let old = cast(b, &format!("{what}.old"), old, DType::F32)?;
        let what = what.to_string();
        Ok(State {
            what,
            name,
            dtype,
            old,
        })
    }

    /// Assigns `new`, rounded; returns what the state then is, in f32.
    fn assign(&self, b: &mut Builder<'_>, new: Value) -> Built {
        let narrow = cast(b, &format!("{}.rounded", self.what), new, self.dtype)?;
        b.assign(&self.name, narrow)?;
        cast(b, &format!("{}.widened", self.what), narrow, DType::F32)
    }
}
