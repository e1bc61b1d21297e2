//! Keeping ops in the order in which they were built.
//!
//! Ops that a pass inserts are numbered after all others, but where nothing else decides, ops are printed and scheduled by
//! number. So a pass notes which op each new one stands in for, and in the end renumbers the graph accordingly.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::infer::TypeError;

/// The places of new ops in the old order.
#[derive(Debug, Default)]
pub(crate) struct Order {
    stands_for: FxHashMap<OpId, OpId>,
}

impl Order {
    /// Notes that `new` belongs where `old` was built; `old` may itself be new, and may be erased later.
    pub(crate) fn put(&mut self, new: OpId, old: OpId) {
        let old = self.original(old);
        self.stands_for.insert(new, old);
    }

    fn original(&self, op: OpId) -> OpId {
        self.stands_for.get(&op).copied().unwrap_or(op)
    }

    /// Renumbers the ops of `graph`: operands first, then as noted.
    pub(crate) fn restore(&self, graph: &mut Graph) -> Result<(), TypeError> {
        if self.stands_for.is_empty() {
            return Ok(());
        }
        let mut missing: FxHashMap<OpId, usize> = FxHashMap::default();
        let mut ready = BTreeSet::new();
        for op in graph.ops() {
            let operands = graph.node(op).operands().len();
            missing.insert(op, operands);
            if operands == 0 {
                ready.insert((self.original(op), op));
            }
        }
        let mut out = Graph::new(graph.name.clone());
        let mut renamed: FxHashMap<OpId, OpId> = FxHashMap::default();
        while let Some((_, op)) = ready.pop_first() {
            let node = graph.node(op);
            let operands: Vec<Value> = node
                .operands()
                .iter()
                .map(|v| Value {
                    op: renamed[&v.op],
                    ..*v
                })
                .collect();
            let new = out.insert(node.op.clone(), &operands, node.name.clone(), node.place)?;
            renamed.insert(op, new);
            for result in 0..node.results().len() as u32 {
                for u in graph.uses(Value { op, result }) {
                    let left = missing.entry(u.op).or_default();
                    *left -= 1;
                    if *left == 0 {
                        ready.insert((self.original(u.op), u.op));
                    }
                }
            }
        }
        *graph = out;
        Ok(())
    }
}
