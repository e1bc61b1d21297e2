//! Make one op of connected elementwise ops, so that a value that only they pass on stays in registers.
//!
//! Does     first copies cheap forward ops (at most two primitive ones, such as a bias addition) to their backward elementwise
//!          readers, where that keeps one tensor alive instead of another; then groups elementwise ops of one result shape that
//!          feed each other, in one phase and layer on one IPU, into one `map` with a result for each value read outside. Casts between
//!          float types go along: from f16 as the load of an operand, to f16 as the store of a result.
//! Needs    `accumulate_into` before it: an addition that a product could take is otherwise taken here.
//! Leaves   the same values bit for bit (f16 values that stay in registers are not rounded, but what a cast rounded is read rounded), and no
//!          cycle: a group never has a path that leaves it and comes back.
//! Example  `gelu(add(%mm, %bias))` becomes one `map`; so does the AdamW update of a weight, with results `w′`, `m′`, `v′`.

mod expression;
mod groups;
mod replay;

use superstep_ir::graph::Graph;

use crate::order::Order;
use crate::pass::{Pass, PassContext, PassError};

#[derive(Clone, Copy, Debug)]
pub struct FuseElementwise;

impl Pass for FuseElementwise {
    fn name(&self) -> &'static str {
        "fuse_elementwise"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        let mut order = Order::default();
        replay::copy_cheap_producers(graph, &mut order, cx)?;
        replay::copy_widening_casts(graph, &mut order, cx)?;
        for group in groups::find(graph) {
            let root = group[group.len() - 1];
            if !cx.may_rewrite(&graph.node(root).name) {
                break;
            }
            if let Some(map) = expression::fuse(graph, &group)? {
                order.put(map, root);
                cx.count("ops fused", group.len());
                cx.count("maps made", 1);
            }
        }
        order.restore(graph)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
