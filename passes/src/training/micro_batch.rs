//! Graph `micro_batch`: forward, backward, and gradients added onto their accumulators.

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Phase, Place, Value};
use superstep_ir::op::{Op, StateKind};
use superstep_ir::types::{Shape, TensorType};

use super::{Trained, TrainingError, accumulator};
use crate::differentiate::differentiate_onto;

/// The graph, and the weights it has gradients for in the order of the forward graph. The loss is seeded with `1 / steps`, so
/// that an accumulator holds the gradient of the mean over the micro-batches of a step.
pub(super) fn build(forward: &Graph, steps: u32) -> Result<(Graph, Vec<Trained>), TrainingError> {
    let mut graph = forward.clone();
    graph.name = "micro_batch".into();
    let loss = find_loss(&graph)?;
    let weights: Vec<(Value, Trained)> = weights(&graph).collect();

    let mut b = Builder::new(&mut graph);
    b.place = backward(b.graph.node(loss.op).place);
    let scalar = TensorType::f32(Shape::scalar());
    let seed = b.constant("loss.seed", 1.0 / f64::from(steps), scalar)?;
    let mut onto = Vec::with_capacity(weights.len());
    for (weight, trained) in &weights {
        b.place = backward(trained.place);
        let ty = TensorType::f32(trained.ty.shape.clone());
        let state = accumulator(&trained.state);
        onto.push((*weight, b.parameter(&state, StateKind::Accumulator, ty)?));
    }
    let sums = differentiate_onto(&mut graph, loss, seed, &onto)?;

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
