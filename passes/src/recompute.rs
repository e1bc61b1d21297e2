//! Recomputation: the forward ops of a layer run again just before its backward pass, instead of keeping what they made.
//!
//! Precondition: layers are marked ([`Place::layer`]) and the backward ops are there; nothing that would join equal ops runs after this.
//! Postcondition: between forward and backward pass of a chosen layer only what enters the layer is alive (its checkpoint), and what comes
//! behind its last product: that would take all of the layer again. In GPT-2 this is what leaves the last layer, which the final norm
//! reads. A layer may keep what its products gave as well ([`Again::ButProducts`]), other than scores, which grow with the square of the
//! sequence: then attention and what is elementwise runs again, which is most of the memory for little of the work. Values are the same to the bit: dropout masks are a function of seed, key and element, so that they come out again.

use rustc_hash::{FxHashMap, FxHashSet};
use superstep_ir::graph::{Graph, Phase, Place, Use, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{Op, StateKind};

/// What of a layer runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    Nothing,
    /// All but the products that are kept.
    ButProducts,
    Everything,
}

/// Recomputes of every layer what `chosen` says. Returns how many ops run twice.
///
/// # Errors
/// A copy of an op does not type, which is a bug.
pub fn recompute(graph: &mut Graph, chosen: impl Fn(u32) -> Again) -> Result<usize, TypeError> {
    let forward: Vec<OpId> = graph.topological();
    let for_products = for_products(graph, &forward);
    let kept: FxHashSet<OpId> = forward
        .iter()
        .copied()
        .filter(|&op| match forward_layer(graph, op).map(&chosen) {
            None | Some(Again::Nothing) => true,
            Some(Again::ButProducts) => is_small_product(graph, op),
            Some(Again::Everything) => false,
        })
        .collect();
    let mut copies = Copies {
        graph,
        kept,
        again: FxHashMap::default(),
    };
    for op in forward {
        if copies.kept.contains(&op) || !for_products.contains(&op) {
            continue;
        }
        let layer = forward_layer(copies.graph, op);
        for result in 0..copies.graph.node(op).results().len() as u32 {
            let users: Vec<Use> = copies.graph.uses(Value { op, result });
            for user in users {
                let place = copies.graph.node(user.op).place;
                if place.phase == Phase::Backward && place.layer == layer {
                    let copy = copies.of(op)?;
                    copies.graph.set_operand(user, Value { op: copy, result });
                }
            }
        }
    }
    Ok(copies.again.len())
}

/// The layer of a forward op that computes something.
fn forward_layer(graph: &Graph, op: OpId) -> Option<u32> {
    let node = graph.node(op);
    let computes = !node.operands().is_empty() && node.place.phase == Phase::Forward;
    node.place.layer.filter(|_| computes)
}

/// Forward ops that a product of their own layer depends on.
fn for_products(graph: &Graph, topological: &[OpId]) -> FxHashSet<OpId> {
    let mut needed = FxHashSet::default();
    for &op in topological.iter().rev() {
        let Some(layer) = forward_layer(graph, op) else {
            continue;
        };
        if !matches!(graph.op(op), Op::Matmul { .. }) && !needed.contains(&op) {
            continue;
        }
        let operands = graph.node(op).operands().iter().map(|v| v.op);
        needed.extend(operands.filter(|&from| forward_layer(graph, from) == Some(layer)));
    }
    needed
}

/// A product with a weight, or one whose result is no larger than what it reads: not the scores of attention.
fn is_small_product(graph: &Graph, op: OpId) -> bool {
    let node = graph.node(op);
    let (Op::Matmul { .. }, &[a, b, ..]) = (&node.op, node.operands()) else {
        return false;
    };
    let elements = |v: Value| graph.ty(v).shape.elements();
    let result = elements(Value { op, result: 0 });
    is_weight(graph, b) || result <= elements(a).max(elements(b))
}

/// A weight, as it is or in another form.
fn is_weight(graph: &Graph, value: Value) -> bool {
    let node = graph.node(value.op);
    match &node.op {
        Op::Parameter { kind, .. } => *kind == StateKind::Weight,
        Op::Cast { .. } | Op::Reshape { .. } | Op::Transpose { .. } => {
            is_weight(graph, node.operands()[0])
        }
        _ => false,
    }
}

/// Forward ops and their copies.
struct Copies<'g> {
    graph: &'g mut Graph,
    kept: FxHashSet<OpId>,
    again: FxHashMap<OpId, OpId>,
}

impl Copies<'_> {
    /// A copy of a forward op, and of what it needs of its layer that is not kept.
    fn of(&mut self, op: OpId) -> Result<OpId, TypeError> {
        if let Some(&known) = self.again.get(&op) {
            return Ok(known);
        }
        let layer = forward_layer(self.graph, op);
        let mut operands = self.graph.node(op).operands().to_vec();
        for v in &mut operands {
            if forward_layer(self.graph, v.op) == layer && !self.kept.contains(&v.op) {
                v.op = self.of(v.op)?;
            }
        }
        let node = self.graph.node(op);
        let place = Place {
            phase: Phase::Recompute,
            ..node.place
        };
        let (kind, name) = (node.op.clone(), format!("{}.again", node.name));
        let copy = self.graph.insert(kind, &operands, name, place)?;
        self.again.insert(op, copy);
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use superstep_ir::graph::build::Builder;
    use superstep_ir::interpret::{Tensor, run};
    use superstep_ir::op::{StateKind, UnaryOp};
    use superstep_ir::types::{DType, Real, TensorType};

    use super::*;
    use crate::testing::{plain_descent, random_environment};
    use crate::training::training_module;

    /// Two layers of a product, dropout, tanh, another product and tanh, and a sum as the loss.
    fn micro_batch() -> Graph {
        let mut forward = Graph::new("forward");
        let mut b = Builder::new(&mut forward);
        let seed = b.input("seed", TensorType::new(DType::U32, [2])).unwrap();
        let mut x = b.input("x", TensorType::f32([7, 5])).unwrap();
        for layer in 0..2 {
            b.place.layer = Some(layer);
            let w = format!("w.{layer}");
            let w = b
                .parameter(&w, StateKind::Weight, TensorType::f32([5, 5]))
                .unwrap();
            let y = b.matmul(&format!("h.{layer}"), x, w, false, false).unwrap();
            let drop = Op::Dropout {
                p: Real(0.25),
                key: layer,
            };
            let y = b.op(&format!("drop.{layer}"), drop, &[y, seed]).unwrap();
            let y = b.unary(&format!("tanh.{layer}"), UnaryOp::Tanh, y).unwrap();
            let v = b
                .parameter(
                    &format!("v.{layer}"),
                    StateKind::Weight,
                    TensorType::f32([5, 5]),
                )
                .unwrap();
            let y = b
                .matmul(&format!("out.{layer}"), y, v, false, false)
                .unwrap();
            x = b.unary(&format!("last.{layer}"), UnaryOp::Tanh, y).unwrap();
        }
        b.place.layer = None;
        let loss = b
            .reduce("loss", superstep_ir::op::ReduceKind::Sum, 2, x)
            .unwrap();
        b.output("loss", loss).unwrap();
        let module = training_module(&forward, &plain_descent()).unwrap();
        module.graph("micro_batch").unwrap().clone()
    }

    /// Outputs and states after a run.
    fn on_random_values(graph: &Graph) -> [BTreeMap<String, Tensor>; 2] {
        let (mut states, inputs) = random_environment(graph, 3);
        let outputs = run(graph, &mut states, &inputs).unwrap();
        [outputs, states]
    }

    #[test]
    fn nothing_changes_but_what_is_kept() {
        let before = micro_batch();
        let mut after = before.clone();
        assert!(recompute(&mut after, |_| Again::Everything).unwrap() > 0);
        superstep_ir::verify::verify_graph(&after).unwrap();
        assert_eq!(on_random_values(&before), on_random_values(&after));
        // What a layer made for its products reaches its own backward ops no more; what comes behind them does.
        let mut kept = std::collections::BTreeSet::new();
        for op in after.ops() {
            let node = after.node(op);
            if node.place.phase != Phase::Backward {
                continue;
            }
            for v in node.operands() {
                if forward_layer(&after, v.op).is_some_and(|l| node.place.layer == Some(l)) {
                    kept.insert(after.node(v.op).name.as_str());
                }
            }
        }
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), ["last.0", "last.1"]);
    }

    #[test]
    fn products_may_be_kept() {
        let before = micro_batch();
        let mut after = before.clone();
        recompute(&mut after, |_| Again::ButProducts).unwrap();
        superstep_ir::verify::verify_graph(&after).unwrap();
        assert_eq!(on_random_values(&before), on_random_values(&after));
        let again: Vec<&str> = after
            .ops()
            .filter(|&op| after.node(op).place.phase == Phase::Recompute)
            .map(|op| after.node(op).name.as_str())
            .collect();
        assert!(!again.is_empty());
        assert!(
            again
                .iter()
                .all(|name| name.starts_with("drop.") || name.starts_with("tanh.")),
            "{again:?}"
        );
    }

    #[test]
    fn layers_are_chosen_one_by_one() {
        let mut graph = micro_batch();
        let one = |layer| match layer {
            1 => Again::Everything,
            _ => Again::Nothing,
        };
        recompute(&mut graph, one).unwrap();
        let again: Vec<u32> = graph
            .ops()
            .filter(|&op| graph.node(op).place.phase == Phase::Recompute)
            .filter_map(|op| graph.node(op).place.layer)
            .collect();
        assert!(!again.is_empty() && again.iter().all(|&l| l == 1));
    }
}
