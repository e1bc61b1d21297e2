//! Optimiser state to streaming memory: it rests there, and is on its tiles only while the update works on it.
//!
//! Precondition: `update` is the update graph; replicas have their parts already.
//! Postcondition: its optimiser states of at least [`THRESHOLD`] elements are marked as remote. Values are the same.

use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{Op, StateKind};

/// Least elements of a state that is worth a transfer (PopART's default).
const THRESHOLD: usize = 2;

/// # Errors
/// An op does not type, which is a bug.
pub fn offload(update: &Graph) -> Result<Graph, TypeError> {
    let mut offloaded = Graph::new(update.name.clone());
    let mut values: FxHashMap<Value, Value> = FxHashMap::default();
    for old in update.topological() {
        let node = update.node(old);
        let mut op = node.op.clone();
        if let Op::Parameter {
            kind: StateKind::OptimiserState,
            ty,
            remote,
            ..
        } = &mut op
        {
            *remote = ty.shape.elements() >= THRESHOLD;
        }
        let operands: Vec<Value> = node.operands().iter().map(|v| values[v]).collect();
        let new = offloaded.insert(op, &operands, node.name.clone(), node.place)?;
        for result in 0..node.results().len() as u32 {
            values.insert(Value { op: old, result }, Value { op: new, result });
        }
    }
    Ok(offloaded)
}

#[cfg(test)]
mod tests {
    use superstep_ir::graph::build::Builder;
    use superstep_ir::types::TensorType;

    use super::*;

    #[test]
    fn moments_go_and_the_rest_stays() {
        let mut update = Graph::new("update");
        let mut b = Builder::new(&mut update);
        for (state, kind, elements) in [
            ("w", StateKind::Weight, 6),
            ("accum.w", StateKind::Accumulator, 6),
            ("exp_avg.w", StateKind::OptimiserState, 6),
            ("exp_avg.b", StateKind::OptimiserState, 1),
            ("step", StateKind::Counter, 6),
        ] {
            let value = b
                .parameter(state, kind, TensorType::f32([elements]))
                .unwrap();
            b.assign(state, value).unwrap();
        }
        let offloaded = offload(&update).unwrap();
        let remote = |op| matches!(offloaded.op(op), Op::Parameter { remote: true, .. });
        let remote: Vec<&str> = offloaded
            .parameters()
            .filter(|&(op, ..)| remote(op))
            .map(|(_, state, ..)| state)
            .collect();
        assert_eq!(remote, ["exp_avg.w"]);
    }
}
