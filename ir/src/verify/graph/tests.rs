//! A sound graph passes; each way to break it is found. Graphs cannot be broken from outside, so broken ones are read from JSON.

use serde_json::{Value as Json, json};

use super::*;
use crate::graph::build::Builder;
use crate::op::UnaryOp;

/// `x, w → matmul → neg → output`, `w` assigned; ops 0..6.
fn sound() -> Graph {
    let mut graph = Graph::new("f");
    let mut b = Builder::new(&mut graph);
    let x = b.input("x", TensorType::f32([6, 6])).unwrap();
    let w = b
        .parameter("w", StateKind::Weight, TensorType::f32([6, 6]))
        .unwrap();
    let y = b.matmul("y", x, w, false, false).unwrap();
    let z = b.unary("z", UnaryOp::Neg, y).unwrap();
    b.output("z", z).unwrap();
    b.assign("w", z).unwrap();
    graph
}

/// The errors of the sound graph with its JSON changed.
fn broken(change: impl FnOnce(&mut Json)) -> Vec<GraphErrorKind> {
    let mut json = serde_json::to_value(sound()).unwrap();
    change(&mut json["nodes"]);
    let graph: Graph = serde_json::from_value(json).unwrap();
    let errors = verify_graph(&graph).expect_err("the graph is broken");
    assert!(errors.to_string().contains("graph @f: "));
    errors.0.into_iter().map(|e| e.kind).collect()
}

#[test]
fn a_sound_graph_passes() {
    verify_graph(&sound()).unwrap();
    verify_graph(&Graph::new("empty")).unwrap();
}

#[test]
fn operands_and_edges_must_agree() {
    let kinds = broken(|g| g["nodes"][3]["operands"][0]["op"] = json!(0));
    assert_eq!(kinds, [GraphErrorKind::EdgeDiffers { operand: 0 }]);
    let kinds = broken(|g| g["nodes"][3]["operands"][0]["op"] = json!(77));
    assert_eq!(
        kinds,
        [
            GraphErrorKind::OperandMissing {
                operand: 0,
                value_op: OpId(77),
                result: 0
            },
            GraphErrorKind::EdgeDiffers { operand: 0 }
        ]
    );
    let kinds = broken(|g| g["nodes"][3]["operands"][0]["result"] = json!(1));
    assert!(matches!(kinds[0], GraphErrorKind::OperandMissing { .. }));
    let kinds = broken(|g| {
        let extra = g["edges"][0].clone();
        g["edges"].as_array_mut().unwrap().push(extra);
    });
    assert_eq!(kinds, [GraphErrorKind::EdgeDiffers { operand: 0 }]);
    let kinds = broken(|g| {
        let mut extra = g["edges"][0].clone();
        extra[2]["operand"] = json!(5);
        g["edges"].as_array_mut().unwrap().push(extra);
    });
    assert!(matches!(
        kinds[..],
        [GraphErrorKind::ExtraEdge { operand: 5, .. }]
    ));
}

#[test]
fn cycles_are_found() {
    // y reads z, z reads y.
    let kinds = broken(|g| {
        g["nodes"][2]["operands"][0]["op"] = json!(3);
        let edges = g["edges"].as_array_mut().unwrap();
        let edge = edges
            .iter_mut()
            .find(|e| e[1] == json!(2) && e[0] == json!(0));
        edge.unwrap()[0] = json!(3);
    });
    assert_eq!(kinds, vec![GraphErrorKind::Cycle; 4]);
}

#[test]
fn types_are_inferred_anew() {
    let kinds = broken(|g| g["nodes"][3]["results"][0]["shape"] = json!([6, 5]));
    assert!(matches!(
        kinds[..],
        [
            GraphErrorKind::ResultType { result: 0, .. },
            GraphErrorKind::AssignType { .. }
        ]
    ));
    let kinds = broken(|g| g["nodes"][3]["results"] = json!([]));
    assert!(kinds.contains(&GraphErrorKind::ResultCount {
        given: 0,
        inferred: 1
    }));
    let kinds = broken(|g| g["nodes"][0]["results"][0]["shape"] = json!([5, 5]));
    assert!(matches!(
        kinds[..],
        [GraphErrorKind::ResultType { .. }, GraphErrorKind::Type(_)]
    ));
    let kinds = broken(|g| {
        g["nodes"][0]["op"]["Input"]["ty"]["shape"] = json!([0, 6]);
        g["nodes"][0]["results"][0]["shape"] = json!([0, 6]);
    });
    assert!(matches!(kinds[0], GraphErrorKind::ZeroExtent(_)));
}

#[test]
fn states_streams_and_names_are_used_once() {
    let mut graph = sound();
    let mut b = Builder::new(&mut graph);
    let again = b.input("x", TensorType::f32([2])).unwrap();
    b.output("z", again).unwrap();
    let kind = StateKind::Weight;
    b.parameter("w", kind, TensorType::f32([2])).unwrap();
    b.assign("w", again).unwrap();
    graph.set_name(again.op, "");
    let errors = verify_graph(&graph).unwrap_err().0;
    let roles: Vec<&str> = errors
        .iter()
        .filter_map(|e| match e.kind {
            GraphErrorKind::Repeated { role, .. } => Some(role),
            _ => None,
        })
        .collect();
    assert_eq!(roles, ["input", "output", "parameter", "assign"]);
    assert_eq!(errors[0].kind, GraphErrorKind::Unnamed);
    assert!(
        errors
            .iter()
            .any(|e| matches!(e.kind, GraphErrorKind::AssignType { .. }))
    );
}

#[test]
fn graphs_of_a_module_agree_on_state() {
    let mut other = Graph::new("update");
    let mut b = Builder::new(&mut other);
    b.parameter("w", StateKind::Weight, TensorType::f32([6, 6]))
        .unwrap();
    let mut module = Module {
        graphs: vec![sound(), other],
    };
    verify_module(&module).unwrap();
    let mut b = Builder::new(&mut module.graphs[1]);
    b.parameter("v", StateKind::Counter, TensorType::f32([1]))
        .unwrap();
    let mut third = Graph::new("update");
    let mut b = Builder::new(&mut third);
    b.parameter("v", StateKind::Weight, TensorType::f32([1]))
        .unwrap();
    module.graphs.push(third);
    let kinds: Vec<GraphErrorKind> = verify_module(&module)
        .unwrap_err()
        .0
        .into_iter()
        .map(|e| e.kind)
        .collect();
    assert!(matches!(
        kinds[..],
        [
            GraphErrorKind::RepeatedGraph,
            GraphErrorKind::StateDiffers { .. }
        ]
    ));
}

#[test]
fn long_lists_are_cut() {
    let mut graph = Graph::new("f");
    let mut b = Builder::new(&mut graph);
    for _ in 0..30 {
        b.input("", TensorType::f32([1])).unwrap();
    }
    let errors = verify_graph(&graph).unwrap_err();
    assert_eq!(errors.0.len(), 30 + 29);
    assert!(errors.to_string().ends_with("and 34 more"));
}
