//! The tensor graph: ops in SSA form over petgraph, with typed results, names and places.
//!
//! Node operands and petgraph edges say the same thing twice; only the three mutators ([`Graph::insert`],
//! [`Graph::replace_uses`], [`Graph::erase`]) touch them, so they stay in step (the verifier proves it).
//! No tensor bytes are in a graph: weights are names, their values live with whoever runs it.

pub mod build;

use std::collections::BTreeSet;
use std::fmt;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, IntoEdgeReferences};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::ids::{IpuId, OpId, StageId};
use crate::op::infer::{TypeError, infer};
use crate::op::{Op, StateKind};
use crate::types::TensorType;

/// A result of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value {
    pub op: OpId,
    pub result: u32,
}

/// Which part of a training step an op belongs to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Phase {
    #[default]
    Forward,
    /// Forward ops run again just before the backward pass needs their results.
    Recompute,
    Backward,
    Update,
}

impl Phase {
    pub const ALL: [Phase; 4] = [
        Phase::Forward,
        Phase::Recompute,
        Phase::Backward,
        Phase::Update,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Recompute => "recompute",
            Phase::Backward => "backward",
            Phase::Update => "update",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where and when an op runs; filled in on the way down the road.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    pub ipu: Option<IpuId>,
    pub stage: Option<StageId>,
    pub phase: Phase,
    /// Decoder layer the op belongs to, if any: the unit of the assignment to IPUs.
    pub layer: Option<u32>,
    /// It is a part of an op that is divided over the group of IPUs of its stage, that of this IPU of the group. What is whole is on the first.
    pub member: Option<u32>,
}

/// One operation: what it computes is `op`; where and when it runs is `place`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub op: Op,
    /// The model's own name, `h.3.mlp.c_fc`: kept by every pass, shown in every report.
    pub name: String,
    pub place: Place,
    operands: SmallVec<[Value; 4]>,
    results: SmallVec<[TensorType; 1]>,
}

impl Node {
    pub fn operands(&self) -> &[Value] {
        &self.operands
    }

    pub fn results(&self) -> &[TensorType] {
        &self.results
    }
}

/// One use of a value: the using op and the operand position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    pub op: OpId,
    pub operand: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Port {
    result: u32,
    operand: u32,
}

/// A named graph. States and streams are referred to by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Graph {
    pub name: String,
    nodes: StableDiGraph<Node, Port>,
}

fn index(op: OpId) -> NodeIndex {
    NodeIndex::new(op.index())
}

fn id(node: NodeIndex) -> OpId {
    OpId(node.index() as u32)
}

impl Graph {
    pub fn new(name: impl Into<String>) -> Graph {
        Graph {
            name: name.into(),
            nodes: StableDiGraph::new(),
        }
    }

    /// Adds an op; result types are inferred.
    ///
    /// # Errors
    /// The operands do not fit the op.
    ///
    /// # Panics
    /// An operand is no value of this graph: a bug of the caller.
    pub fn insert(
        &mut self,
        op: Op,
        operands: &[Value],
        name: impl Into<String>,
        place: Place,
    ) -> Result<OpId, TypeError> {
        let types: Vec<&TensorType> = operands.iter().map(|&v| self.ty(v)).collect();
        let results = SmallVec::from_vec(infer(&op, &types)?);
        let operands: SmallVec<[Value; 4]> = SmallVec::from_slice(operands);
        let node = self.nodes.add_node(Node {
            op,
            name: name.into(),
            place,
            operands: operands.clone(),
            results,
        });
        for (i, v) in operands.iter().enumerate() {
            self.nodes.add_edge(
                index(v.op),
                node,
                Port {
                    result: v.result,
                    operand: i as u32,
                },
            );
        }
        Ok(id(node))
    }

    /// Makes every use of `from` use `to` instead; the types must be equal.
    ///
    /// # Panics
    /// The types differ: a bug of the caller.
    pub fn replace_uses(&mut self, from: Value, to: Value) {
        assert_eq!(
            self.ty(from),
            self.ty(to),
            "a value is replaced by one of another type"
        );
        if from == to {
            return;
        }
        for u in self.uses(from) {
            self.set_operand(u, to);
        }
    }

    /// Points one use at another value of the same type.
    pub fn set_operand(&mut self, u: Use, to: Value) {
        let edge = self
            .nodes
            .edges_directed(index(u.op), Direction::Incoming)
            .find(|e| e.weight().operand == u.operand)
            .map(|e| e.id())
            .expect("a use names an operand");
        self.nodes.remove_edge(edge);
        self.nodes.add_edge(
            index(to.op),
            index(u.op),
            Port {
                result: to.result,
                operand: u.operand,
            },
        );
        self.nodes[index(u.op)].operands[u.operand as usize] = to;
    }

    /// Removes an op that nobody uses.
    ///
    /// # Panics
    /// A result is still used: a bug of the caller.
    pub fn erase(&mut self, op: OpId) {
        assert!(
            self.nodes
                .edges_directed(index(op), Direction::Outgoing)
                .next()
                .is_none(),
            "{op} is still used"
        );
        self.nodes.remove_node(index(op));
    }

    pub fn contains(&self, op: OpId) -> bool {
        self.nodes.contains_node(index(op))
    }

    pub fn node(&self, op: OpId) -> &Node {
        &self.nodes[index(op)]
    }

    pub fn op(&self, op: OpId) -> &Op {
        &self.node(op).op
    }

    pub fn ty(&self, value: Value) -> &TensorType {
        &self.node(value.op).results[value.result as usize]
    }

    pub fn place_mut(&mut self, op: OpId) -> &mut Place {
        &mut self.nodes[index(op)].place
    }

    pub fn set_name(&mut self, op: OpId, name: impl Into<String>) {
        self.nodes[index(op)].name = name.into();
    }

    /// Result 0 of an op.
    pub fn value(&self, op: OpId) -> Value {
        Value { op, result: 0 }
    }

    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All ops in order of insertion.
    pub fn ops(&self) -> impl Iterator<Item = OpId> + '_ {
        self.nodes.node_indices().map(id)
    }

    /// Uses of one value, ordered by op and operand.
    pub fn uses(&self, value: Value) -> Vec<Use> {
        let mut uses: Vec<Use> = self
            .nodes
            .edges_directed(index(value.op), Direction::Outgoing)
            .filter(|e| e.weight().result == value.result)
            .map(|e| Use {
                op: id(e.target()),
                operand: e.weight().operand,
            })
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Number of uses of all results of an op.
    pub fn use_count(&self, op: OpId) -> usize {
        self.nodes
            .edges_directed(index(op), Direction::Outgoing)
            .count()
    }

    /// Every op after its operands; among ready ops the one inserted first comes first, so the order is canonical.
    pub fn topological(&self) -> Vec<OpId> {
        let mut missing = vec![
            0usize;
            self.nodes
                .node_indices()
                .next_back()
                .map_or(0, |n| n.index() + 1)
        ];
        let mut ready = BTreeSet::new();
        for node in self.nodes.node_indices() {
            missing[node.index()] = self.nodes.edges_directed(node, Direction::Incoming).count();
            if missing[node.index()] == 0 {
                ready.insert(node);
            }
        }
        let mut order = Vec::with_capacity(self.len());
        while let Some(node) = ready.pop_first() {
            order.push(id(node));
            for edge in self.nodes.edges_directed(node, Direction::Outgoing) {
                let left = &mut missing[edge.target().index()];
                *left -= 1;
                if *left == 0 {
                    ready.insert(edge.target());
                }
            }
        }
        order
    }

    /// Edges as (source result, use), for the verifier.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (Value, Use)> + '_ {
        (&self.nodes).edge_references().map(|e| {
            let from = Value {
                op: id(e.source()),
                result: e.weight().result,
            };
            (
                from,
                Use {
                    op: id(e.target()),
                    operand: e.weight().operand,
                },
            )
        })
    }

    /// The same graph with ops renumbered `0..len` in topological order, so that equal graphs have equal bytes.
    pub fn compact(&self) -> Graph {
        let mut out = Graph::new(self.name.clone());
        let mut renamed = vec![
            OpId(0);
            self.nodes
                .node_indices()
                .next_back()
                .map_or(0, |n| n.index() + 1)
        ];
        for op in self.topological() {
            let node = self.node(op).clone();
            let operands: SmallVec<[Value; 4]> = node
                .operands
                .iter()
                .map(|v| Value {
                    op: renamed[v.op.index()],
                    result: v.result,
                })
                .collect();
            let new = out.nodes.add_node(Node {
                operands: operands.clone(),
                ..node
            });
            for (i, v) in operands.iter().enumerate() {
                out.nodes.add_edge(
                    index(v.op),
                    new,
                    Port {
                        result: v.result,
                        operand: i as u32,
                    },
                );
            }
            renamed[op.index()] = id(new);
        }
        out
    }

    /// The `parameter` op of every state read here, in order of insertion.
    pub fn parameters(&self) -> impl Iterator<Item = (OpId, &str, StateKind, &TensorType)> + '_ {
        self.ops().filter_map(|op| match self.op(op) {
            Op::Parameter {
                state, kind, ty, ..
            } => Some((op, state.as_str(), *kind, ty)),
            _ => None,
        })
    }
}

impl PartialEq for Graph {
    /// Equal up to the numbering of ops: same canonical order, same nodes.
    fn eq(&self, other: &Graph) -> bool {
        let (a, b) = (self.compact(), other.compact());
        a.name == b.name && a.len() == b.len() && a.ops().all(|op| a.node(op) == b.node(op))
    }
}

/// The graphs of one compiled thing, run by name; they meet in state and nowhere else.
///
/// A training module has `micro_batch` (forward, backward, accumulate), run once per gradient accumulation step, and
/// `update`, run once after them. An inference module has `forward` alone,
/// a generation `prefill` (the prompts) and `decode` (one more position), which the host runs by themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Module {
    pub graphs: Vec<Graph>,
}

impl Module {
    pub fn graph(&self, name: &str) -> Option<&Graph> {
        self.graphs.iter().find(|g| g.name == name)
    }
}
