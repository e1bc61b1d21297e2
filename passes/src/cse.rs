//! Compute equal things once (common subexpression elimination).
//!
//! Does     of ops that are equal, with equal operands, in one layer on one IPU, keeps the first; the others' users read its results.
//! Needs    nothing. Two dropouts with one key and one seed are equal: their masks are the same by definition.
//! Leaves   the same values bit for bit. A backward op equal to a forward one becomes the forward one, so a pass that copies forward
//!          ops into the backward phase on purpose (recomputation) must come after the last of these.
//! Example  `%a = neg %x; %b = neg %x; add %a, %b` becomes `add %a, %a`.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use superstep_ir::graph::{Graph, Node, Value};
use superstep_ir::ids::{IpuId, OpId};
use superstep_ir::op::Op;

use crate::pass::{Pass, PassContext, PassError};

#[derive(Clone, Copy, Debug)]
pub struct Cse;

/// Ops with equal keys compute the same where the same tiles can reach it.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    op: Op,
    operands: SmallVec<[Value; 4]>,
    ipu: Option<IpuId>,
    layer: Option<u32>,
    member: Option<u32>,
}

impl Key {
    fn of(node: &Node) -> Key {
        let mut operands = SmallVec::from_slice(node.operands());
        if let Op::Binary(b) = &node.op
            && b.commutes()
        {
            operands.sort_unstable();
        }
        Key {
            op: node.op.clone(),
            operands,
            ipu: node.place.ipu,
            layer: node.place.layer,
            member: node.place.member,
        }
    }
}

impl Pass for Cse {
    fn name(&self) -> &'static str {
        "cse"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        let mut first: FxHashMap<Key, OpId> = FxHashMap::default();
        for op in graph.topological() {
            if graph.op(op).has_effect() {
                continue;
            }
            let key = Key::of(graph.node(op));
            let Some(&kept) = first.get(&key) else {
                first.insert(key, op);
                continue;
            };
            if !cx.may_rewrite(&graph.node(op).name) {
                break;
            }
            merge(graph, op, kept);
            cx.count("ops merged", 1);
        }
        Ok(())
    }
}

/// Replaces `op` by its equal `kept`, which moves to the earlier place of the two.
fn merge(graph: &mut Graph, op: OpId, kept: OpId) {
    let place = graph.node(op).place;
    if place.phase < graph.node(kept).place.phase {
        *graph.place_mut(kept) = place;
    }
    for result in 0..graph.node(op).results().len() as u32 {
        graph.replace_uses(Value { op, result }, Value { op: kept, result });
    }
    graph.erase(op);
}

#[cfg(test)]
mod tests {
    use superstep_ir::graph::build::Builder;
    use superstep_ir::graph::{Graph, Phase};
    use superstep_ir::op::{BinaryOp, UnaryOp};
    use superstep_ir::types::TensorType;

    use super::Cse;
    use crate::testing::{check, ops_named};

    #[test]
    fn equal_ops_become_one_and_commuted_operands_are_equal() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let x = b.input("x", TensorType::f32([3, 7])).unwrap();
        let y = b.input("y", TensorType::f32([7])).unwrap();
        let s = b.add("s", x, y).unwrap();
        let t = b.add("t", y, x).unwrap();
        let d = b.binary("d", BinaryOp::Sub, x, y).unwrap();
        let e = b.binary("e", BinaryOp::Sub, y, x).unwrap();
        let de = b.mul("de", d, e).unwrap();
        let st = b.mul("st", s, t).unwrap();
        let out = b.add("out", de, st).unwrap();
        b.output("out", out).unwrap();
        let after = check(&Cse, &graph);
        assert_eq!(after.len(), graph.len() - 1);
        assert_eq!(ops_named(&after, "add").len(), 2);
        assert_eq!(ops_named(&after, "sub").len(), 2);
    }

    #[test]
    fn the_earlier_phase_wins_and_layers_stay_apart() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let x = b.input("x", TensorType::f32([7])).unwrap();
        b.place.phase = Phase::Backward;
        let late = b.unary("late", UnaryOp::Neg, x).unwrap();
        b.place.phase = Phase::Forward;
        let early = b.unary("early", UnaryOp::Neg, x).unwrap();
        b.place.layer = Some(1);
        let other = b.unary("other", UnaryOp::Neg, x).unwrap();
        for (name, v) in [("a", late), ("b", early), ("c", other)] {
            b.output(name, v).unwrap();
        }
        let after = check(&Cse, &graph);
        let kept = ops_named(&after, "neg");
        assert_eq!(kept.len(), 2);
        assert!(
            kept.iter()
                .all(|&op| after.node(op).place.phase == Phase::Forward)
        );
    }
}
