//! Which elementwise ops become one: a pure problem on the graph of ops, solved greedily.
//!
//! Every elementwise op starts as a group of its own. In topological order, each op's group is joined with the groups of its
//! operands, unless that would make a cycle: some path from the one to the other that passes through a third group. Groups are
//! contracted as they grow, so paths are looked for between groups, not ops. The search from a group is cut at groups that begin
//! after the target ends, in topological positions, so it stays in the neighbourhood.

use superstep_ir::graph::{Graph, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::{MapNode, Op};
use superstep_ir::types::DType;

/// Expressions do not grow beyond this many nodes: registers and code space of a worker are few.
const NODES_MAX: usize = 64;

/// True for ops that a `map` can contain.
pub(super) fn is_elementwise(graph: &Graph, op: OpId) -> bool {
    match graph.op(op) {
        Op::Unary(_) | Op::Binary(_) | Op::Map(_) => true,
        Op::Cast { to } => to.is_float() && operand_type(graph, op).is_float(),
        _ => false,
    }
}

fn operand_type(graph: &Graph, op: OpId) -> DType {
    graph.ty(graph.node(op).operands()[0]).dtype
}

/// True for a cast that loses digits: whoever reads it is to see the rounded value.
fn rounds(graph: &Graph, op: OpId) -> bool {
    matches!(graph.op(op), Op::Cast { to: DType::F16 }) && operand_type(graph, op) == DType::F32
}

/// True for a cast that loses nothing.
pub(super) fn widens(graph: &Graph, op: OpId) -> bool {
    matches!(graph.op(op), Op::Cast { to: DType::F32 }) && operand_type(graph, op) == DType::F16
}

/// Number of primitive ops in an elementwise op.
pub(super) fn primitives(op: &Op) -> usize {
    match op {
        Op::Map(expr) => {
            let leaf = |n: &&MapNode| !matches!(n, MapNode::Operand(_) | MapNode::Constant(_));
            expr.nodes.iter().filter(leaf).count()
        }
        Op::Cast { .. } => 0,
        _ => 1,
    }
}

/// True when two elementwise ops may share a vertex: results of one shape, one place.
pub(super) fn compatible(graph: &Graph, a: OpId, b: OpId) -> bool {
    let (a, b) = (graph.node(a), graph.node(b));
    a.results()[0].shape == b.results()[0].shape && a.place == b.place
}

/// Groups of two or more ops, each in topological order; earlier groups first.
pub(super) fn find(graph: &Graph) -> Vec<Vec<OpId>> {
    let order = graph.topological();
    let mut grouping = Grouping::new(graph, &order);
    for &op in &order {
        if !is_elementwise(graph, op) {
            continue;
        }
        for v in graph.node(op).operands() {
            let joins = is_elementwise(graph, v.op) && compatible(graph, v.op, op);
            if joins {
                grouping.try_join(v.op, op);
            }
        }
    }
    let mut groups: Vec<Vec<OpId>> = grouping
        .members
        .into_iter()
        .filter(|ops| ops.len() > 1)
        .collect();
    let position = grouping.position;
    for group in &mut groups {
        group.sort_unstable_by_key(|op| position[op.index()]);
    }
    groups
}

/// A partition of all ops into groups whose contracted graph has no cycle.
struct Grouping<'g> {
    graph: &'g Graph,
    /// Topological position of each op, by op index.
    position: Vec<usize>,
    /// Group of each op, by op index. Groups are named after the position of one of their ops.
    group: Vec<usize>,
    /// Ops of each group; empty when it was joined to another.
    members: Vec<Vec<OpId>>,
    /// Lowest and highest position in each group.
    span: Vec<(usize, usize)>,
    nodes: Vec<usize>,
    /// Search marks: the number of the last search that saw the group.
    seen: Vec<usize>,
    searches: usize,
}

impl<'g> Grouping<'g> {
    fn new(graph: &'g Graph, order: &[OpId]) -> Grouping<'g> {
        let mut position = vec![0; order.iter().map(|op| op.index() + 1).max().unwrap_or(0)];
        for (i, op) in order.iter().enumerate() {
            position[op.index()] = i;
        }
        Grouping {
            graph,
            group: position.clone(),
            position,
            members: order.iter().map(|&op| vec![op]).collect(),
            span: (0..order.len()).map(|i| (i, i)).collect(),
            nodes: order.iter().map(|&op| primitives(graph.op(op))).collect(),
            seen: vec![0; order.len()],
            searches: 0,
        }
    }

    /// Joins the groups of a producer and its consumer, if that makes no cycle and no giant.
    fn try_join(&mut self, producer: OpId, consumer: OpId) {
        let (from, to) = (self.group[producer.index()], self.group[consumer.index()]);
        if from == to || self.nodes[from] + self.nodes[to] > NODES_MAX {
            return;
        }
        if self.reads_rounded(from, to) || self.detour(from, to) {
            return;
        }
        let moved = std::mem::take(&mut self.members[to]);
        for op in &moved {
            self.group[op.index()] = from;
        }
        self.members[from].extend(moved);
        self.nodes[from] += self.nodes[to];
        let (a, b) = (self.span[from], self.span[to]);
        self.span[from] = (a.0.min(b.0), a.1.max(b.1));
    }

    /// True when one of two groups has a rounding cast that the other, joined with it, would read unrounded.
    fn reads_rounded(&self, from: usize, to: usize) -> bool {
        let members = self.members[from].iter().chain(&self.members[to]);
        let mut casts = members.filter(|&&op| rounds(self.graph, op));
        casts.any(|&op| {
            let users = self.graph.uses(self.graph.value(op));
            users
                .iter()
                .any(|u| [from, to].contains(&self.group[u.op.index()]))
        })
    }

    /// True when a path leads from group `from` to group `to` through another group.
    fn detour(&mut self, from: usize, to: usize) -> bool {
        self.searches += 1;
        let end = self.span[to].1;
        let mut stack = Vec::new();
        self.push_readers(from, end, &mut stack, Some(to));
        while let Some(group) = stack.pop() {
            if group == to {
                return true;
            }
            self.push_readers(group, end, &mut stack, None);
        }
        false
    }

    /// Pushes the unseen groups that read from `group` and begin before `end`, except `skip`.
    fn push_readers(
        &mut self,
        group: usize,
        end: usize,
        stack: &mut Vec<usize>,
        skip: Option<usize>,
    ) {
        for i in 0..self.members[group].len() {
            let op = self.members[group][i];
            for result in 0..self.graph.node(op).results().len() as u32 {
                for u in self.graph.uses(Value { op, result }) {
                    let reader = self.group[u.op.index()];
                    let beyond = self.span[reader].0 > end;
                    let known = reader == group || self.seen[reader] == self.searches;
                    if beyond || known || Some(reader) == skip {
                        continue;
                    }
                    self.seen[reader] = self.searches;
                    stack.push(reader);
                }
            }
        }
    }
}
