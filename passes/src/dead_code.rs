//! Remove ops whose results nobody uses.
//!
//! Does     erases every op from which no effect (`assign`, `output`) can be reached, parameters and inputs included.
//! Needs    nothing.
//! Leaves   the same effects; a parameter that is only assigned stays assigned.
//! Example  `neg(x)` beside `output gelu(x)` goes away.

use superstep_ir::graph::Graph;
use superstep_ir::ids::OpId;

use crate::pass::{Pass, PassContext, PassError};

#[derive(Clone, Copy, Debug)]
pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead_code"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        let mut removed = 0;
        sweep(graph, |graph, op| {
            let may = cx.may_rewrite(&graph.node(op).name);
            removed += usize::from(may);
            may
        });
        cx.count("ops removed", removed);
        Ok(())
    }
}

/// Erases every op without effect or use for which `may_go` holds, users before what they use: whole dead chains go in one walk.
pub(crate) fn sweep(graph: &mut Graph, mut may_go: impl FnMut(&Graph, OpId) -> bool) {
    for op in graph.topological().into_iter().rev() {
        if !graph.op(op).has_effect() && graph.use_count(op) == 0 && may_go(graph, op) {
            graph.erase(op);
        }
    }
}

#[cfg(test)]
mod tests {
    use superstep_ir::graph::Graph;
    use superstep_ir::graph::build::Builder;
    use superstep_ir::op::{StateKind, UnaryOp};
    use superstep_ir::types::TensorType;

    use super::DeadCode;
    use crate::pass::{Pass, PassContext};
    use crate::testing::{check, ops_named};

    fn graph_with_dead_chain() -> Graph {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let ty = TensorType::f32([4]);
        let x = b.input("x", ty.clone()).unwrap();
        let unread = b.parameter("w", StateKind::Weight, ty).unwrap();
        let dead = b.add("dead", x, unread).unwrap();
        b.unary("deader", UnaryOp::Exp, dead).unwrap();
        let y = b.unary("y", UnaryOp::Neg, x).unwrap();
        b.assign("w", y).unwrap();
        b.output("y", y).unwrap();
        graph
    }

    #[test]
    fn a_dead_chain_goes_with_its_parameter_but_the_assignment_stays() {
        let after = check(&DeadCode, &graph_with_dead_chain());
        assert_eq!(after.len(), 4);
        assert_eq!(ops_named(&after, "assign").len(), 1);
        assert!(ops_named(&after, "parameter").is_empty());
    }

    #[test]
    fn bisection_stops_after_the_limit() {
        let mut graph = graph_with_dead_chain();
        let mut cx = PassContext::with_bisect_limit(1);
        DeadCode.run(&mut graph, &mut cx).unwrap();
        assert_eq!(graph.len(), graph_with_dead_chain().len() - 1);
        assert_eq!(cx.last_rewrite(), Some("deader"));
    }
}
