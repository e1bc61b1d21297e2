//! Graph `update`: gradient norm, clipping, one optimiser step a weight, accumulators back to zero.

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Phase, Place, Value};
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{BinaryOp, Op, ReduceKind, StateKind, UnaryOp};
use superstep_ir::types::{DType, Shape, TensorType};

use super::optimiser::{Rule, Weight};
use super::{Trained, TrainingError, TrainingOptions, accumulator};

/// Keeps the clipping factor finite for a gradient of zero; PyTorch's `clip_grad_norm_` has the same.
const CLIP_EPSILON: f64 = 1e-6;

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
    let rule = Rule::new(&mut b, &options.optimiser, learning_rate, step)?;

    let mut gradients = Vec::with_capacity(trained.len());
    for weight in trained {
        b.place = update_place(weight.place);
        let ty = TensorType::f32(weight.ty.shape.clone());
        gradients.push(b.parameter(&accumulator(&weight.state), StateKind::Accumulator, ty)?);
    }
    let norm = global_norm(&mut b, trained, &gradients)?;
    b.place = update_place(Place::default());
    b.output("grad_norm", norm)?;
    let clip = options
        .max_grad_norm
        .map(|max| clip_factor(&mut b, norm, max));
    let clip = clip.transpose()?;

    for (weight, &gradient) in trained.iter().zip(&gradients) {
        b.place = update_place(weight.place);
        let decayed = options.decayed.contains(&weight.state);
        update_weight(&mut b, &rule, weight, gradient, clip, decayed)?;
    }
    b.place = update_place(Place::default());
    b.assign("step", step)?;
    Ok(graph)
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
) -> Result<Value, TypeError> {
    let mut squares = Vec::with_capacity(gradients.len());
    for (weight, &gradient) in trained.iter().zip(gradients) {
        b.place = update_place(weight.place);
        b.scope(weight.state.as_str());
        let rank = weight.ty.shape.rank();
        let sum = b.reduce("grad_squares", ReduceKind::SumSquares, rank, gradient)?;
        squares.push(b.reshape("grad_squares.entry", sum, [1])?);
    }
    b.place = update_place(Place::default());
    b.scope("grad_norm");
    let all = b.concat("squares", &squares, 0)?;
    let sum = b.reduce("sum", ReduceKind::Sum, 1, all)?;
    b.scope("");
    b.unary("grad_norm", UnaryOp::Sqrt, sum)
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
    clip: Option<Value>,
    decayed: bool,
) -> Result<(), TypeError> {
    let Trained { state, ty, .. } = weight;
    let stored = b.parameter(state, StateKind::Weight, ty.clone())?;
    b.scope(format!("{state}.update"));
    let value = cast(b, "widened", stored, DType::F32)?;
    let gradient = match clip {
        Some(factor) => b.mul("clipped", gradient, factor)?,
        None => gradient,
    };
    let moved = rule.apply(
        b,
        Weight {
            state,
            value,
            gradient,
            decayed,
        },
    )?;
    let narrowed = cast(b, "narrowed", moved, ty.dtype)?;
    b.assign(state, narrowed)?;
    let zeros = b.constant("accum.zeros", 0.0, TensorType::f32(ty.shape.clone()))?;
    b.assign(&accumulator(state), zeros)?;
    b.scope("");
    Ok(())
}

fn cast(b: &mut Builder<'_>, name: &str, x: Value, to: DType) -> Result<Value, TypeError> {
    if b.graph.ty(x).dtype == to {
        return Ok(x);
    }
    b.op(name, Op::Cast { to }, &[x])
}
