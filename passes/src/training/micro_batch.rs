//! Graph `micro_batch`: forward, backward, and gradients added onto their accumulators.

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Phase, Place, Value};
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{Op, StateKind, UnaryOp};
use superstep_ir::types::{Shape, TensorType};

use super::{LOSS_SCALE, Trained, TrainingError, TrainingOptions, accumulator};
use crate::differentiate::{Joining, differentiate_onto};

/// Counts the micro-batches that running means have taken in.
pub(super) const MICRO_BATCHES: &str = "micro_batches";

/// The graph, and the weights it has gradients for in the order of the forward graph. After the last micro-batch an accumulator holds
/// the gradient of the mean over the micro-batches of a step, times the loss scale.
pub(super) fn build(
    forward: &Graph,
    options: &TrainingOptions,
) -> Result<(Graph, Vec<Trained>), TrainingError> {
    let mut graph = forward.clone();
    graph.name = "micro_batch".into();
    let loss = find_loss(&graph)?;
    let weights: Vec<(Value, Trained)> = weights(&graph).collect();

    let mut b = Builder::new(&mut graph);
    b.place = backward(b.graph.node(loss.op).place);
    let share = 1.0 / f64::from(options.gradient_accumulation_steps);
    let seed = seed(&mut b, options)?;
    let joining = match options.numerics.half_moments {
        true => running_mean(&mut b, share)?,
        false => Joining::Sum,
    };
    let mut onto = Vec::with_capacity(weights.len());
    for (weight, trained) in &weights {
        b.place = backward(trained.place);
        let ty = TensorType::new(options.numerics.moments(), trained.ty.shape.clone());
        let state = accumulator(&trained.state);
        onto.push((*weight, b.parameter(&state, StateKind::Accumulator, ty)?));
    }
    let sums = differentiate_onto(&mut graph, loss, seed, &onto, joining)?;

    let mut kept = Vec::new();
    for (((_, trained), (_, base)), sum) in weights.into_iter().zip(onto).zip(sums) {
        let Some(sum) = sum else {
            graph.erase(base.op);
            continue;
        };
        let mut b = Builder::new(&mut graph);
        b.place = backward(trained.place);
        b.assign(&accumulator(&trained.state), sum)?;
        kept.push(trained);
    }
    if kept.is_empty() {
        return Err(TrainingError::NothingToTrain);
    }
    Ok((graph, kept))
}

/// The gradient of the loss that the backward pass starts from. A loss scale is not divided by the number of micro-batches, which would
/// take from it what it is for: the update does it.
fn seed(b: &mut Builder<'_>, options: &TrainingOptions) -> Result<Value, TypeError> {
    let scalar = TensorType::f32(Shape::scalar());
    if options.numerics.loss_scale {
        return b.input(LOSS_SCALE, scalar);
    }
    let seed = match options.numerics.half_moments {
        true => 1.0,
        false => 1.0 / f64::from(options.gradient_accumulation_steps),
    };
    b.constant("loss.seed", seed, scalar)
}

/// Factors of a running mean in micro-batch `k`, from the counter of the micro-batches before it.
fn running_mean(b: &mut Builder<'_>, share: f64) -> Result<Joining, TypeError> {
    let scalar = TensorType::f32(Shape::scalar());
    let before = b.parameter(MICRO_BATCHES, StateKind::Counter, scalar.clone())?;
    b.scope(MICRO_BATCHES);
    let one = b.constant("one", 1.0, scalar.clone())?;
    let now = b.add("next", before, one)?;
    let take = b.unary("take", UnaryOp::Reciprocal, now)?;
    let keep = b.mul("keep", before, take)?;
    let share = b.constant("share", share, scalar)?;
    b.scope("");
    b.assign(MICRO_BATCHES, now)?;
    Ok(Joining::RunningMean { keep, take, share })
}

fn backward(place: Place) -> Place {
    Place {
        phase: Phase::Backward,
        ..place
    }
}

fn find_loss(graph: &Graph) -> Result<Value, TrainingError> {
    let is_loss = |op: &_| matches!(graph.op(*op), Op::Output { stream } if stream == "loss");
    let output = graph.ops().find(is_loss).ok_or(TrainingError::NoLoss)?;
    let loss = graph.node(output).operands()[0];
    let ty = graph.ty(loss);
    if *ty != TensorType::f32(Shape::scalar()) {
        return Err(TrainingError::LossType { ty: ty.clone() });
    }
    Ok(loss)
}

fn weights(graph: &Graph) -> impl Iterator<Item = (Value, Trained)> + '_ {
    graph.parameters().filter_map(|(op, state, kind, ty)| {
        let trained = Trained {
            state: state.to_string(),
            ty: ty.clone(),
            place: graph.node(op).place,
        };
        (kind == StateKind::Weight).then(|| (graph.value(op), trained))
    })
}
