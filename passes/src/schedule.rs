//! The order in which the ops of a graph run: operands first, stage by stage, and among the ready ops the one that leaves the least alive.
//! What is recomputed waits for the gradient that enters its layer. An update brings its states up to date one after the other.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Phase, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::Op;

/// A topological order of `graph` that keeps little alive: greedy by bytes made minus bytes no longer needed, ties by age.
/// Assignments come last, so that state keeps its old value as long as anybody may read it; in an update, and where state is remote, they come as
/// soon as all have read it, so that new values need not wait beside old ones. Of an update all that the first assignment waits for comes first,
/// then what the next one does: the states of one weight after those of the other, each brought, used and put back.
pub fn schedule(graph: &Graph) -> Vec<OpId> {
    let early = assigned_early(graph);
    let mut state = Scheduler::new(graph);
    state.hold_back_assigns(&early);
    if is_update(graph) {
        state.one_assign_after_the_other();
    }
    let mut order = Vec::with_capacity(graph.len());
    let mut assigns = Vec::new();
    while let Some(op) = state.next() {
        let stays =
            matches!(graph.op(op), Op::Assign { state } if !early.contains_key(state.as_str()));
        if stays {
            assigns.push(op)
        } else {
            order.push(op)
        }
        state.done(op);
    }
    order.extend(assigns);
    order
}

/// The `parameter` op of every state that need not keep its old value to the end.
fn assigned_early(graph: &Graph) -> FxHashMap<&str, OpId> {
    let is_update = is_update(graph);
    let of = |op: OpId| match graph.op(op) {
        Op::Parameter { state, remote, .. } if *remote || is_update => Some((state.as_str(), op)),
        _ => None,
    };
    graph.ops().filter_map(of).collect()
}

fn is_update(graph: &Graph) -> bool {
    let mut ops = graph.ops();
    ops.all(|op| graph.node(op).place.phase == Phase::Update)
}

struct Scheduler<'g> {
    graph: &'g Graph,
    missing: FxHashMap<OpId, usize>,
    /// Ops that wait for an op though they do not use it.
    waiting: FxHashMap<OpId, Vec<OpId>>,
    /// The readers that an assignment waits for.
    held_by: FxHashMap<OpId, Vec<OpId>>,
    /// The first assignment that waits for an op, of an update; what none waits for is not in it, and need not wait itself.
    wanted_by: FxHashMap<OpId, OpId>,
    /// Uses still to come of every storage (views share the storage of their source).
    uses: FxHashMap<Value, usize>,
    ready: BTreeMap<OpId, ()>,
}

impl<'g> Scheduler<'g> {
    fn new(graph: &'g Graph) -> Scheduler<'g> {
        let mut s = Scheduler {
            graph,
            missing: FxHashMap::default(),
            waiting: FxHashMap::default(),
            held_by: FxHashMap::default(),
            wanted_by: FxHashMap::default(),
            uses: FxHashMap::default(),
            ready: BTreeMap::new(),
        };
        for op in graph.ops() {
            let operands = graph.node(op).operands();
            s.missing.insert(op, operands.len());
            if operands.is_empty() {
                s.ready.insert(op, ());
            }
            for &v in operands {
                *s.uses.entry(s.storage(v)).or_default() += 1;
            }
        }
        s.hold_back_recomputed();
        s
    }

    /// The assignment of a state that does not stay to the end waits for all that read it, through views or not.
    fn hold_back_assigns(&mut self, early: &FxHashMap<&str, OpId>) {
        let graph = self.graph;
        for op in graph.ops() {
            let Op::Assign { state } = graph.op(op) else {
                continue;
            };
            let Some(&parameter) = early.get(state.as_str()) else {
                continue;
            };
            let mut seen = vec![graph.value(parameter)];
            while let Some(value) = seen.pop() {
                for reader in graph.uses(value) {
                    if reader.op == op {
                        continue;
                    }
                    self.ready.remove(&op);
                    *self.missing.entry(op).or_default() += 1;
                    self.waiting.entry(reader.op).or_default().push(op);
                    self.held_by.entry(op).or_default().push(reader.op);
                    if graph.op(reader.op).is_view() {
                        seen.push(graph.value(reader.op));
                    }
                }
            }
        }
    }

    fn one_assign_after_the_other(&mut self) {
        let is_assign = |op: &OpId| matches!(self.graph.op(*op), Op::Assign { .. });
        let mut assigns: Vec<OpId> = self.graph.ops().filter(is_assign).collect();
        assigns.sort_unstable();
        for assign in assigns {
            let mut needed = vec![assign];
            while let Some(op) = needed.pop() {
                if self.wanted_by.contains_key(&op) {
                    continue;
                }
                self.wanted_by.insert(op, assign);
                needed.extend(self.graph.node(op).operands().iter().map(|v| v.op));
                needed.extend(self.held_by.get(&op).into_iter().flatten());
            }
        }
    }

    /// The recomputed ops of a layer wait for the gradients that other backward ops hand to its own.
    fn hold_back_recomputed(&mut self) {
        let graph = self.graph;
        let mut entering: FxHashMap<u32, BTreeSet<OpId>> = FxHashMap::default();
        let computed = |op: OpId| {
            let node = graph.node(op);
            (node.place.phase == Phase::Backward && !node.operands().is_empty())
                .then_some(node.place.layer)
        };
        for op in graph.ops() {
            let Some(Some(layer)) = computed(op) else {
                continue;
            };
            for v in graph.node(op).operands() {
                if computed(v.op).is_some_and(|from| from != Some(layer)) {
                    entering.entry(layer).or_default().insert(v.op);
                }
            }
        }
        for op in graph.ops() {
            let place = graph.node(op).place;
            let Some(layer) = place.layer.filter(|_| place.phase == Phase::Recompute) else {
                continue;
            };
            for &gradient in entering.get(&layer).into_iter().flatten() {
                *self.missing.entry(op).or_default() += 1;
                self.waiting.entry(gradient).or_default().push(op);
            }
        }
    }

    /// The value whose bytes `v` renames.
    fn storage(&self, mut v: Value) -> Value {
        while self.graph.op(v.op).is_view() {
            v = self.graph.node(v.op).operands()[0];
        }
        v
    }

    /// Bytes alive after the op minus before it. State and constants cost nothing.
    fn growth(&self, op: OpId) -> i64 {
        let node = self.graph.node(op);
        let free = node.op.is_view()
            || matches!(
                node.op,
                Op::Parameter { .. } | Op::Constant { .. } | Op::Assign { .. }
            );
        let made: usize = if free {
            0
        } else {
            node.results().iter().map(|t| t.bytes()).sum()
        };
        let mut operands: Vec<Value> = node.operands().iter().map(|&v| self.storage(v)).collect();
        operands.sort_unstable();
        let mut freed = 0;
        for group in operands.chunk_by(|a, b| a == b) {
            let source = self.graph.op(group[0].op);
            if self.uses[&group[0]] == group.len() && !matches!(source, Op::Constant { .. }) {
                freed += self.graph.ty(group[0]).bytes();
            }
        }
        made as i64 - freed as i64
    }

    /// The ready op that leaves the least alive. Of ops that add the same amount the youngest goes first: the backward pass undoes the youngest
    /// first, so what it adds up in that order need not wait (the row blocks of the head, each with logits of its own).
    fn next(&self) -> Option<OpId> {
        let rank = |op: OpId| {
            let growth = self.growth(op);
            let age = if growth > 0 { u32::MAX - op.0 } else { op.0 };
            let stage = self.graph.node(op).place.stage;
            (stage, self.wanted_by.get(&op), growth, age)
        };
        self.ready.keys().copied().min_by_key(|&op| rank(op))
    }

    fn done(&mut self, op: OpId) {
        self.ready.remove(&op);
        for &v in self.graph.node(op).operands() {
            let storage = self.storage(v);
            *self.uses.get_mut(&storage).expect("counted above") -= 1;
        }
        for result in 0..self.graph.node(op).results().len() as u32 {
            for u in self.graph.uses(Value { op, result }) {
                self.one_less(u.op);
            }
        }
        for waiting in self.waiting.remove(&op).unwrap_or_default() {
            self.one_less(waiting);
        }
    }

    /// One thing less that `op` waits for.
    fn one_less(&mut self, op: OpId) {
        let left = self.missing.get_mut(&op).expect("every op is counted");
        *left -= 1;
        if *left == 0 {
            self.ready.insert(op, ());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use superstep_ir::graph::build::Builder;
    use superstep_ir::op::{ReduceKind, UnaryOp};
    use superstep_ir::types::TensorType;

    #[test]
    fn a_large_value_is_used_up_before_the_next_is_made() {
        let mut graph = Graph::new("f");
        let mut b = Builder::new(&mut graph);
        let x = b.input("x", TensorType::f32([4])).unwrap();
        let wide: Vec<Value> = (0..2)
            .map(|i| {
                b.op(
                    &format!("wide{i}"),
                    Op::Broadcast {
                        shape: [64, 4].into(),
                    },
                    &[x],
                )
                .unwrap()
            })
            .collect();
        let exp: Vec<Value> = wide
            .iter()
            .map(|&w| b.unary("exp", UnaryOp::Exp, w).unwrap())
            .collect();
        for (i, &e) in exp.iter().enumerate() {
            let sum = b.reduce("sum", ReduceKind::Sum, 2, e).unwrap();
            b.output(&format!("y{i}"), sum).unwrap();
        }
        let order = schedule(&graph);
        let at = |op: OpId| order.iter().position(|&o| o == op).unwrap();
        assert!(
            at(exp[1].op) < at(wide[0].op),
            "one wide value is reduced before the other is made"
        );
    }
}
