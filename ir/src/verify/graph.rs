//! What must hold of a graph:
//!
//! - operands name values that exist, and petgraph's edges say the same as they do;
//! - no op depends on itself;
//! - result types are the inferred ones, and no extent is 0;
//! - a state has at most one `parameter` and one `assign`, and both are of one type; a stream has at most one `input` and `output`;
//! - ops have names.
//!
//! And of a module: graph names differ, and a state is of one type and kind in all graphs.

use std::collections::BTreeMap;
use std::fmt;

use rustc_hash::FxHashMap;
use thiserror::Error;

use crate::graph::{Graph, Module, Use, Value};
use crate::ids::OpId;
use crate::op::infer::{TypeError, infer};
use crate::op::{Op, StateKind};
use crate::text::{ValueNames, print_op};
use crate::types::TensorType;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphError {
    pub graph: String,
    /// The op at fault and its line in the text; `None` when the graph as a whole is.
    pub op: Option<(OpId, String)>,
    pub kind: GraphErrorKind,
}

/// Which rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GraphErrorKind {
    #[error("operand {operand} is {value_op} result {result}, which does not exist")]
    OperandMissing {
        operand: usize,
        value_op: OpId,
        result: u32,
    },
    #[error("operand {operand} and its edge differ")]
    EdgeDiffers { operand: usize },
    #[error("an edge without an operand: operand {operand} from {source_op}")]
    ExtraEdge { operand: u32, source_op: OpId },
    #[error("the op depends on itself")]
    Cycle,
    #[error("{0}")]
    Type(TypeError),
    #[error("result {result} is {given}, but {inferred} by its operands")]
    ResultType {
        result: usize,
        given: TensorType,
        inferred: TensorType,
    },
    #[error("has {given} results, its operands give {inferred}")]
    ResultCount { given: usize, inferred: usize },
    #[error("an extent of {0} is 0")]
    ZeroExtent(TensorType),
    #[error("a second `{role}` of {name:?}")]
    Repeated { role: &'static str, name: String },
    #[error("assigns {assigned} to {state:?}, which is {parameter}")]
    AssignType {
        state: String,
        assigned: TensorType,
        parameter: TensorType,
    },
    #[error("the op has no name")]
    Unnamed,
    #[error("a second graph of this name")]
    RepeatedGraph,
    #[error("state {state:?} is {ty} here and {other} in another graph")]
    StateDiffers {
        state: String,
        ty: String,
        other: String,
    },
}

/// All broken rules of a graph or module; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphErrors(pub Vec<GraphError>);

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.op {
            Some((_, line)) => write!(f, "graph @{}: {}\n  {line}", self.graph, self.kind),
            None => write!(f, "graph @{}: {}", self.graph, self.kind),
        }
    }
}

impl fmt::Display for GraphErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::list(f, &self.0)
    }
}

impl std::error::Error for GraphError {}
impl std::error::Error for GraphErrors {}

/// Checks one graph.
///
/// # Errors
/// Every broken rule, in order of the ops.
pub fn verify_graph(graph: &Graph) -> Result<(), GraphErrors> {
    let mut verifier = Verifier::of(graph);
    verifier.graph();
    finish(verifier.errors)
}

/// Checks every graph of a module, and what the graphs must agree on.
///
/// # Errors
/// Every broken rule, graph by graph.
pub fn verify_module(module: &Module) -> Result<(), GraphErrors> {
    let mut errors = Vec::new();
    for graph in &module.graphs {
        let mut verifier = Verifier::of(graph);
        verifier.graph();
        errors.append(&mut verifier.errors);
    }
    errors.extend(graphs_agree(module));
    finish(errors)
}

fn finish(errors: Vec<GraphError>) -> Result<(), GraphErrors> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(GraphErrors(errors))
    }
}

fn graphs_agree(module: &Module) -> Vec<GraphError> {
    let mut errors = Vec::new();
    let mut states: BTreeMap<&str, (&TensorType, StateKind)> = BTreeMap::new();
    for (i, graph) in module.graphs.iter().enumerate() {
        let mut fail = |kind| {
            errors.push(GraphError {
                graph: graph.name.clone(),
                op: None,
                kind,
            });
        };
        if module.graphs[..i].iter().any(|g| g.name == graph.name) {
            fail(GraphErrorKind::RepeatedGraph);
        }
        for (_, state, kind, ty) in graph.parameters() {
            let known = states.entry(state).or_insert((ty, kind));
            if *known != (ty, kind) {
                fail(GraphErrorKind::StateDiffers {
                    state: state.to_string(),
                    ty: format!("{} {ty}", kind.name()),
                    other: format!("{} {}", known.1.name(), known.0),
                });
            }
        }
    }
    errors
}

struct Verifier<'g> {
    graph: &'g Graph,
    errors: Vec<GraphError>,
    /// Made for the first error only: names cost as much as the checks.
    names: Option<ValueNames>,
}

impl<'g> Verifier<'g> {
    fn of(graph: &'g Graph) -> Verifier<'g> {
        Verifier {
            graph,
            errors: Vec::new(),
            names: None,
        }
    }

    fn fail(&mut self, op: OpId, kind: GraphErrorKind) {
        let graph = self.graph;
        let names = self.names.get_or_insert_with(|| ValueNames::of(graph));
        let line = print_op(graph, op, names);
        self.errors.push(GraphError {
            graph: graph.name.clone(),
            op: Some((op, line)),
            kind,
        });
    }

    fn graph(&mut self) {
        self.edges();
        self.cycles();
        for op in self.graph.ops() {
            if self.graph.node(op).name.is_empty() {
                self.fail(op, GraphErrorKind::Unnamed);
            }
            self.types(op);
        }
        self.names_used_once();
        self.assigned_types();
    }

    fn exists(&self, value: Value) -> bool {
        self.graph.contains(value.op)
            && (value.result as usize) < self.graph.node(value.op).results().len()
    }

    fn edges(&mut self) {
        let graph = self.graph;
        let mut edges: FxHashMap<Use, Vec<Value>> = FxHashMap::default();
        for (value, u) in graph.edges() {
            edges.entry(u).or_default().push(value);
        }
        for op in graph.ops() {
            for (operand, &value) in graph.node(op).operands().iter().enumerate() {
                let u = Use {
                    op,
                    operand: operand as u32,
                };
                if !self.exists(value) {
                    let kind = GraphErrorKind::OperandMissing {
                        operand,
                        value_op: value.op,
                        result: value.result,
                    };
                    self.fail(op, kind);
                }
                if edges.remove(&u).as_deref() != Some(&[value]) {
                    self.fail(op, GraphErrorKind::EdgeDiffers { operand });
                }
            }
        }
        let mut extra: Vec<(Use, Value)> = edges
            .into_iter()
            .flat_map(|(u, values)| values.into_iter().map(move |v| (u, v)))
            .collect();
        extra.sort_unstable();
        for (u, value) in extra {
            let kind = GraphErrorKind::ExtraEdge {
                operand: u.operand,
                source_op: value.op,
            };
            self.fail(u.op, kind);
        }
    }

    fn cycles(&mut self) {
        let mut order = self.graph.topological();
        if order.len() == self.graph.len() {
            return;
        }
        // What is left lies on a cycle or behind one.
        order.sort_unstable();
        for op in self.graph.ops() {
            if order.binary_search(&op).is_err() {
                self.fail(op, GraphErrorKind::Cycle);
            }
        }
    }

    fn types(&mut self, op: OpId) {
        let node = self.graph.node(op);
        if !node.operands().iter().all(|&v| self.exists(v)) {
            return;
        }
        let zero = node.results().iter().find(|t| t.shape.dims().contains(&0));
        if let Some(ty) = zero {
            self.fail(op, GraphErrorKind::ZeroExtent(ty.clone()));
        }
        let operands: Vec<&TensorType> =
            node.operands().iter().map(|&v| self.graph.ty(v)).collect();
        let inferred = match infer(&node.op, &operands) {
            Ok(types) => types,
            Err(error) => return self.fail(op, GraphErrorKind::Type(error)),
        };
        let given = node.results();
        if given.len() != inferred.len() {
            let kind = GraphErrorKind::ResultCount {
                given: given.len(),
                inferred: inferred.len(),
            };
            return self.fail(op, kind);
        }
        for (result, (given, inferred)) in given.iter().zip(inferred).enumerate() {
            if *given != inferred {
                let given = given.clone();
                let kind = GraphErrorKind::ResultType {
                    result,
                    given,
                    inferred,
                };
                self.fail(op, kind);
            }
        }
    }

    fn names_used_once(&mut self) {
        let mut seen: FxHashMap<(&str, &str), OpId> = FxHashMap::default();
        for op in self.graph.ops() {
            let node_op = self.graph.op(op);
            let name = match node_op {
                Op::Parameter { state, .. } | Op::Assign { state } => state,
                Op::Input { stream, .. } | Op::Output { stream } => stream,
                _ => continue,
            };
            let role = node_op.name();
            if seen.insert((role, name), op).is_some() {
                let name = name.clone();
                self.fail(op, GraphErrorKind::Repeated { role, name });
            }
        }
    }

    fn assigned_types(&mut self) {
        let graph = self.graph;
        let parameters: FxHashMap<&str, &TensorType> = graph
            .parameters()
            .map(|(_, state, _, ty)| (state, ty))
            .collect();
        for op in graph.ops() {
            let node = graph.node(op);
            let Op::Assign { state } = &node.op else {
                continue;
            };
            let value = node.operands().first().filter(|&&v| self.exists(v));
            let Some(assigned) = value.map(|&v| graph.ty(v)) else {
                continue;
            };
            match parameters.get(state.as_str()) {
                Some(&parameter) if parameter != assigned => {
                    let kind = GraphErrorKind::AssignType {
                        state: state.clone(),
                        assigned: assigned.clone(),
                        parameter: parameter.clone(),
                    };
                    self.fail(op, kind);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
