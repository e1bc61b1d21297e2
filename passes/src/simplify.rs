//! Simplify by equality saturation: every rule wherever it applies, then the cheapest of all equal ways to compute the results.
//!
//! Does     rewrites by the tables in `rules/`: neutral ops, signs, constant factors, composed views, transposes into matmul flags,
//!          implicit broadcasts, softmax with scale and causal mask, GELU from primitives.
//! Needs    `fold_constants` before it: rules expect a constant operand on the right. Best before and after differentiation.
//! Leaves   the same values up to f32 rounding; names and places of the ops whose values remain; never a higher modelled cost.
//! Example  `softmax(causal_mask(mul %x, 0.125))` becomes `softmax %x {scale: 0.125, causal}`.
//!
//! The graph is cut into regions, one a layer and IPU, each a small e-graph: rules match within a layer, and the e-graphs stay
//! small enough that limits on nodes and iterations are never reached by ordinary models. The limits count; none is a clock.

mod analysis;
mod apply;
mod choose;
mod cost;
mod extract;
#[cfg(test)]
mod harness;
mod language;
mod region;
mod rule;
pub mod rules;
#[cfg(test)]
mod tests;

use std::time::Duration;

use egg::{Rewrite, Runner, SimpleScheduler};
use rustc_hash::FxHashSet;
use superstep_ir::graph::Graph;
use superstep_ir::ids::OpId;
use superstep_ir::op::Op;

pub use rule::Rule;

use crate::dead_code::sweep;
use crate::order::Order;
use crate::pass::{Pass, PassContext, PassError};
use analysis::{Classes, Meaning};
use language::Term;
use region::Region;

/// Rounds of all rules over one region.
const ITERATIONS_MAX: usize = 12;

/// Terms in the e-graph of one region.
const NODES_MAX: usize = 20_000;

#[derive(Clone, Copy, Debug)]
pub struct Simplify;

impl Pass for Simplify {
    fn name(&self) -> &'static str {
        "simplify"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        let rules = rules::all();
        let rewrites: Vec<_> = rules.iter().map(Rule::rewrite).collect();
        let mut order = Order::default();
        for ops in region::cut(graph) {
            let region = Region::load(graph, &ops);
            let (region, fired) = region.saturate(&rewrites);
            let plan = region.choose(graph);
            if region.is_done(graph, &plan) {
                continue;
            }
            if !cx.may_rewrite(&graph.node(ops[0]).name) {
                break;
            }
            let made = region.apply(graph, &mut order, &plan)?;
            let removed = sweep_region(graph, &ops);
            cx.count("ops made", made);
            cx.count("ops removed", removed);
            for rule in &rules {
                let times = fired.iter().filter(|(name, _)| name == rule.name);
                cx.count(rule.name, times.map(|(_, n)| n).sum());
            }
        }
        order.restore(graph)?;
        Ok(())
    }
}

/// Erases ops of a region that lost their last reader; constants are shared by regions and go with their last.
fn sweep_region(graph: &mut Graph, ops: &[OpId]) -> usize {
    let ops: FxHashSet<OpId> = ops.iter().copied().collect();
    let before = graph.len();
    sweep(graph, |graph, op| {
        ops.contains(&op) || matches!(graph.op(op), Op::Constant { .. })
    });
    before - graph.len()
}

/// Applies the rules until none finds anything new; also says how often each made something equal.
fn saturate(
    classes: Classes,
    rewrites: &[Rewrite<Term, Meaning>],
) -> (Classes, Vec<(String, usize)>) {
    let runner: Runner<Term, Meaning> = Runner::new(Meaning::default())
        .with_egraph(classes)
        .with_iter_limit(ITERATIONS_MAX)
        .with_node_limit(NODES_MAX)
        // The same answer on a slow day: no limit on time.
        .with_time_limit(Duration::MAX)
        .with_scheduler(SimpleScheduler)
        .run(rewrites);
    let mut fired: Vec<(String, usize)> = Vec::new();
    for iteration in &runner.iterations {
        for (name, &times) in &iteration.applied {
            fired.push((name.to_string(), times));
        }
    }
    (runner.egraph, fired)
}
