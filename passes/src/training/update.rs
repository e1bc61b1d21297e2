//! Graph `update`: gradient norm, clipping, one optimiser step a weight, accumulators back to zero.

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Phase, Place, Value};
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{BinaryOp, Op, ReduceKind, StateKind, UnaryOp};
use superstep_ir::types::{DType, Shape, TensorType};

use super::micro_batch::MICRO_BATCHES;
use super::optimiser::{Now, Rule, Weight, cast, rounded};
use super::{LOSS_SCALE, Trained, TrainingError, TrainingOptions, accumulator};

/// Keeps the clipping factor finite for a gradient of zero; PyTorch's `clip_grad_norm_` has the same.
const CLIP_EPSILON: f64 = 1e-6;

/// Largest finite f32: a norm that is not below it has met an infinity or NaN.
const LARGEST: f64 = f32::MAX as f64;

pub(super) fn build(
    trained: &[Trained],
    options: &TrainingOptions,
) -> Result<Graph, TrainingError> {
    let mut graph = Graph::new("update");
    let mut b = Builder::new(&mut graph);
    b.place = update_place(Place::default());
    let scalar = TensorType::f32(Shape::scalar());
    let learning_rate = b.input("learning_rate", scalar.clone())?;
    let before = b.parameter("step", StateKind::Counter, scalar.clone())?;
    let one = b.constant("one", 1.0, scalar)?;
    let step = b.add("step.next", before, one)?;
    let unscale = unscale(&mut b, options)?;

    let mut gradients = Vec::with_capacity(trained.len());
    for weight in trained {
        b.place = update_place(weight.place);
        let state = accumulator(&weight.state);
        let ty = weight.gradient(options);
        gradients.push(b.parameter(&state, StateKind::Accumulator, ty)?);
    }
    let norm = global_norm(&mut b, trained, &gradients, unscale)?;
    b.place = update_place(Place::default());
    b.output("grad_norm", norm)?;
    let finite = match options.numerics.skip_overflow {
        true => Some(is_finite(&mut b, norm)?),
        false => None,
    };
    let factor = gradient_factor(&mut b, norm, unscale, options)?;
    let now = Now {
        learning_rate,
        step,
        finite,
    };
    let rule = Rule::new(&mut b, &options.optimiser, options.numerics, now)?;

    for (weight, &gradient) in trained.iter().zip(&gradients) {
        b.place = update_place(weight.place);
        update_weight(&mut b, &rule, weight, gradient, factor, options)?;
    }
    b.place = update_place(Place::default());
    let step = match finite {
        Some(finite) => b.add("step.if_finite", before, finite)?,
        None => step,
    };
    b.assign("step", step)?;
    if options.numerics.half_moments {
        let zero = b.constant("zero", 0.0, TensorType::f32(Shape::scalar()))?;
        b.assign(MICRO_BATCHES, zero)?;
    }
    Ok(graph)
}

impl Trained {
    /// Type of the accumulated gradient.
    fn gradient(&self, options: &TrainingOptions) -> TensorType {
        TensorType::new(options.numerics.moments(), self.ty.shape.clone())
    }
}

/// What an accumulated gradient is multiplied with to be that of the mean loss, if anything: an accumulator holds the scaled gradient's
/// mean over the micro-batches, or its sum.
fn unscale(b: &mut Builder<'_>, options: &TrainingOptions) -> Result<Option<Value>, TypeError> {
    if !options.numerics.loss_scale {
        return Ok(None);
    }
    let scalar = TensorType::f32(Shape::scalar());
    let share = match options.numerics.half_moments {
        true => 1.0,
        false => 1.0 / f64::from(options.gradient_accumulation_steps),
    };
    let scale = b.input(LOSS_SCALE, scalar.clone())?;
    let share = b.constant("unscale.share", share, scalar)?;
    Ok(Some(b.binary("unscale", BinaryOp::Div, share, scale)?))
}

/// 1 if the norm is finite, else 0.
fn is_finite(b: &mut Builder<'_>, norm: Value) -> Result<Value, TypeError> {
    let scalar = TensorType::f32(Shape::scalar());
    b.scope("finite");
    let largest = b.constant("largest", LARGEST, scalar.clone())?;
    let below = b.binary("below", BinaryOp::Sub, largest, norm)?;
    let one = b.constant("one", 1.0, scalar)?;
    let finite = b.binary("flag", BinaryOp::ReluGrad, below, one)?;
    b.scope("");
    Ok(finite)
}

/// What gradients are multiplied with before the optimiser sees them.
fn gradient_factor(
    b: &mut Builder<'_>,
    norm: Value,
    unscale: Option<Value>,
    options: &TrainingOptions,
) -> Result<Option<Value>, TypeError> {
    let clip = options.max_grad_norm.map(|max| clip_factor(b, norm, max));
    match (clip.transpose()?, unscale) {
        (Some(clip), Some(unscale)) => Ok(Some(b.mul("clip.unscale", clip, unscale)?)),
        (clip, unscale) => Ok(clip.or(unscale)),
    }
}

fn update_place(place: Place) -> Place {
    Place {
        phase: Phase::Update,
        ..place
    }
}

/// `√(Σ g²)` over all gradients. The sums of the tensors meet in one concat and one reduction, not in a long chain of
/// additions that would each be a superstep.
fn global_norm(
    b: &mut Builder<'_>,
    trained: &[Trained],
    gradients: &[Value],
    unscale: Option<Value>,
) -> Result<Value, TypeError> {
    let mut squares = Vec::with_capacity(gradients.len());
    for (weight, &gradient) in trained.iter().zip(gradients) {
        b.place = update_place(weight.place);
        b.scope(weight.state.as_str());
        let rank = weight.ty.shape.rank();
        let squares_in_f32 = Op::Reduce {
            kind: ReduceKind::SumSquares,
            leading: rank,
            out: Some(DType::F32).filter(|&t| t != b.graph.ty(gradient).dtype),
        };
        let sum = b.op("grad_squares", squares_in_f32, &[gradient])?;
        squares.push(b.reshape("grad_squares.entry", sum, [1])?);
    }
    b.place = update_place(Place::default());
    b.scope("grad_norm");
    let all = b.concat("squares", &squares, 0)?;
    let sum = b.reduce("sum", ReduceKind::Sum, 1, all)?;
    b.scope("");
    match unscale {
        None => b.unary("grad_norm", UnaryOp::Sqrt, sum),
        Some(unscale) => {
            let scaled = b.unary("grad_norm.scaled", UnaryOp::Sqrt, sum)?;
            b.mul("grad_norm", scaled, unscale)
        }
    }
}

/// `min(1, max / (norm + 1e-6))`
fn clip_factor(b: &mut Builder<'_>, norm: Value, max: f64) -> Result<Value, TypeError> {
    let scalar = TensorType::f32(Shape::scalar());
    b.scope("clip");
    let epsilon = b.constant("epsilon", CLIP_EPSILON, scalar.clone())?;
    let shifted = b.add("norm", norm, epsilon)?;
    let max = b.constant("max_grad_norm", max, scalar.clone())?;
    let ratio = b.binary("ratio", BinaryOp::Div, max, shifted)?;
    let one = b.constant("one", 1.0, scalar)?;
    let factor = b.binary("factor", BinaryOp::Min, ratio, one)?;
    b.scope("");
    Ok(factor)
}

/// Reads a weight, moves it, writes it back in its own element type, and zeroes its accumulator.
fn update_weight(
    b: &mut Builder<'_>,
    rule: &Rule,
    weight: &Trained,
    gradient: Value,
    factor: Option<Value>,
    options: &TrainingOptions,
) -> Result<(), TypeError> {
    let Trained { state, ty, .. } = weight;
    let stored = b.parameter(state, StateKind::Weight, ty.clone())?;
    b.scope(format!("{state}.update"));
    let value = cast(b, "widened", stored, DType::F32)?;
    let gradient = cast(b, "gradient.widened", gradient, DType::F32)?;
    let gradient = match factor {
        Some(factor) => {
            let product = b.mul("gradient", gradient, factor)?;
            rounded(b, "gradient", product, options.numerics.moments())?
        }
        None => gradient,
    };
    let weight_now = Weight {
        state,
        value,
        gradient,
        decayed: options.decayed.contains(state),
    };
    let moved = rule.apply(b, weight_now)?;
    let narrowed = cast(b, "narrowed", moved, ty.dtype)?;
    b.assign(state, narrowed)?;
    let zeros = b.constant("accum.zeros", 0.0, weight.gradient(options))?;
    b.assign(&accumulator(state), zeros)?;
    b.scope("");
    Ok(())
}
