//! One expression from the ops of a group, and the op that evaluates it.

use indexmap::{IndexMap, IndexSet};
use superstep_ir::graph::{Graph, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::infer::infer;
use superstep_ir::op::{MapExpr, MapNode, Op};
use superstep_ir::types::{DType, Real};

use crate::fold_constants::splat;
use crate::pass::PassError;

/// Replaces `group`, in topological order, with one `map` named and placed as its last op. `None`, and nothing done, when its
/// operands alone do not have the shape of its results.
pub(super) fn fuse(graph: &mut Graph, group: &[OpId]) -> Result<Option<OpId>, PassError> {
    let (expr, operands, outputs) = expression(graph, group);
    let types: Vec<_> = operands.iter().map(|&v| graph.ty(v)).collect();
    let op = Op::Map(expr);
    let results: Vec<_> = outputs.iter().map(|&v| graph.ty(v).clone()).collect();
    if !infer(&op, &types).is_ok_and(|types| types == results) {
        return Ok(None);
    }
    let root = graph.node(group[group.len() - 1]);
    let (name, place) = (root.name.clone(), root.place);
    let map = graph.insert(op, &operands, name, place)?;
    for (i, output) in outputs.into_iter().enumerate() {
        let result = i as u32;
        graph.replace_uses(output, Value { op: map, result });
    }
    for &op in group.iter().rev() {
        graph.erase(op);
    }
    Ok(Some(map))
}

/// The expression, its operands, and the values it stands for.
fn expression(graph: &Graph, group: &[OpId]) -> (MapExpr, Vec<Value>, Vec<Value>) {
    let mut build = Build {
        graph,
        operands: IndexSet::new(),
        nodes: IndexSet::new(),
        at: IndexMap::new(),
    };
    for &op in group {
        build.op(op);
    }
    let outputs: Vec<Value> = group
        .iter()
        .flat_map(|&op| results(graph, op))
        .filter(|&v| graph.uses(v).iter().any(|u| !group.contains(&u.op)))
        .collect();
    let expr = MapExpr {
        operands: build.operands.len() as u32,
        outputs: outputs.iter().map(|v| build.at[v]).collect(),
        types: stated_types(graph, &build.operands, &outputs),
        nodes: build.nodes.into_iter().collect(),
    };
    (expr, build.operands.into_iter().collect(), outputs)
}

/// Types of the results, if they do not follow from the operands.
fn stated_types(graph: &Graph, operands: &IndexSet<Value>, outputs: &[Value]) -> Vec<DType> {
    let of = |&v: &Value| graph.ty(v).dtype;
    let types: Vec<DType> = outputs.iter().map(of).collect();
    let alike = operands.iter().map(of).all(|t| t == types[0]);
    match alike && types.iter().all(|&t| t == types[0]) {
        true => vec![],
        false => types,
    }
}

fn results(graph: &Graph, op: OpId) -> impl Iterator<Item = Value> + use<> {
    (0..graph.node(op).results().len() as u32).map(move |result| Value { op, result })
}

struct Build<'g> {
    graph: &'g Graph,
    operands: IndexSet<Value>,
    /// Equal nodes are one node.
    nodes: IndexSet<MapNode>,
    /// The node of each value met so far.
    at: IndexMap<Value, u32>,
}

impl Build<'_> {
    fn node(&mut self, node: MapNode) -> u32 {
        self.nodes.insert_full(node).0 as u32
    }

    fn value(&mut self, value: Value) -> u32 {
        if let Some(&at) = self.at.get(&value) {
            return at;
        }
        let node = match splat(self.graph, value) {
            Some(c) => MapNode::Constant(Real(c)),
            None => MapNode::Operand(self.operands.insert_full(value).0 as u32),
        };
        let at = self.node(node);
        self.at.insert(value, at);
        at
    }

    fn op(&mut self, op: OpId) {
        let node = self.graph.node(op);
        let operands: Vec<u32> = node.operands().iter().map(|&v| self.value(v)).collect();
        let outputs = match &node.op {
            Op::Unary(u) => vec![self.node(MapNode::Unary(*u, operands[0]))],
            Op::Binary(b) => vec![self.node(MapNode::Binary(*b, operands[0], operands[1]))],
            Op::Map(expr) => self.inline(expr, &operands),
            // Arithmetic is f32: what is stored is rounded, nothing else.
            Op::Cast { .. } => vec![operands[0]],
            _ => vec![],
        };
        for (value, at) in results(self.graph, op).zip(outputs) {
            self.at.insert(value, at);
        }
    }

    fn inline(&mut self, expr: &MapExpr, operands: &[u32]) -> Vec<u32> {
        let mut at: Vec<u32> = Vec::with_capacity(expr.nodes.len());
        for node in &expr.nodes {
            let old = |i: u32| at[i as usize];
            let new = match *node {
                MapNode::Operand(i) => operands[i as usize],
                MapNode::Constant(_) => self.node(*node),
                MapNode::Unary(u, a) => self.node(MapNode::Unary(u, old(a))),
                MapNode::Binary(b, x, y) => self.node(MapNode::Binary(b, old(x), old(y))),
            };
            at.push(new);
        }
        expr.outputs.iter().map(|&o| at[o as usize]).collect()
    }
}
