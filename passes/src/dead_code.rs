//! Remove ops whose results nobody uses.
//!
//! Does     erases every op from which no effect (`assign`, `output`) can be reached, parameters and inputs included.
//! Needs    nothing.
//! Leaves   the same effects; a parameter that is only assigned stays assigned.
//! Example  `neg(x)` beside `output gelu(x)` goes away.

use superstep_ir::graph::Graph;

use crate::pass::{Pass, PassContext, PassError};

#[derive(Clone, Copy, Debug)]
pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead_code"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        // Users come after what they use, so one walk backwards finds whole dead chains.
        for op in graph.topological().into_iter().rev() {
            if graph.op(op).has_effect() || graph.use_count(op) > 0 {
                continue;
            }
            if !cx.may_rewrite(&graph.node(op).name) {
                break;
            }
            graph.erase(op);
            cx.count("ops removed", 1);
        }
        Ok(())
    }
}
