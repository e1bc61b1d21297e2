use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::op::{BinaryOp, Op, ReduceKind, StateKind, UnaryOp};
use superstep_ir::types::{DType, Real, TensorType};
use superstep_ir::verify::graph::verify_module;

use super::MixedPrecision;
use crate::pass::{Pass, PassContext};
use crate::testing::{ops_named, output};

fn weight(b: &mut Builder<'_>, name: &str, dims: &[usize]) -> Value {
    b.parameter(name, StateKind::Weight, TensorType::f32(dims))
        .unwrap()
}

/// Lookup, norm, product with bias and activation, scores, loss and logits.
fn model() -> Graph {
    let mut graph = Graph::new("forward");
    let mut b = Builder::new(&mut graph);
    let ids = b.input("tokens", TensorType::i32([6])).unwrap();
    let labels = b.input("labels", TensorType::i32([6])).unwrap();
    let table = weight(&mut b, "wte", &[7, 4]);
    let x = b
        .op("wte", Op::Gather { first: None }, &[table, ids])
        .unwrap();
    let (scale, shift) = (weight(&mut b, "ln.w", &[4]), weight(&mut b, "ln.b", &[4]));
    let epsilon = Real(1e-5);
    let normal = b
        .results("ln", Op::LayerNorm { epsilon }, &[x, scale, shift])
        .unwrap()[0];
    let (w, bias) = (weight(&mut b, "w", &[4, 4]), weight(&mut b, "bias", &[4]));
    let y = b.matmul("fc", normal, w, false, false).unwrap();
    let y = b.add("fc.add_bias", y, bias).unwrap();
    let y = b.unary("gelu", UnaryOp::GeluTanh, y).unwrap();
    let y = b.scale("halved", y, 0.5).unwrap();
    let y = b.add("residual", x, y).unwrap();
    let logits = b.matmul("lm_head", y, table, false, true).unwrap();
    b.output("logits", logits).unwrap();
    let losses = b
        .op("ce", Op::CrossEntropy { padding: 0 }, &[logits, labels])
        .unwrap();
    let loss = b.reduce("loss.sum", ReduceKind::Sum, 1, losses).unwrap();
    let loss = b.scale("loss", loss, 1.0 / 6.0).unwrap();
    b.output("loss", loss).unwrap();
    graph
}

fn mixed(pass: MixedPrecision) -> Graph {
    let mut graph = model();
    pass.run(&mut graph, &mut PassContext::new()).unwrap();
    let module = superstep_ir::graph::Module {
        graphs: vec![graph.clone()],
    };
    verify_module(&module).unwrap();
    graph
}

#[test]
fn weights_and_activations_are_halves_and_the_loss_is_not() {
    let graph = mixed(MixedPrecision::default());
    for (_, state, _, ty) in graph.parameters() {
        assert_eq!(ty.dtype, DType::F16, "{state}");
    }
    for name in ["matmul", "gather", "gelu_tanh"] {
        for op in ops_named(&graph, name) {
            assert_eq!(graph.node(op).results()[0].dtype, DType::F16, "{name}");
        }
    }
    let norm = ops_named(&graph, "layer_norm")[0];
    let types: Vec<DType> = graph.node(norm).results().iter().map(|t| t.dtype).collect();
    assert_eq!(types, [DType::F16, DType::F32, DType::F32]);
    let loss = graph.node(output(&graph, "loss").op);
    assert_eq!(loss.op, Op::Binary(BinaryOp::Mul));
    assert_eq!(loss.results()[0].dtype, DType::F32);
    // One cast only: logits leave as they did.
    let casts = ops_named(&graph, "cast");
    assert_eq!(casts.len(), 1);
    assert_eq!(output(&graph, "logits").op, casts[0]);
}

#[test]
fn constants_take_the_type_of_what_they_meet() {
    let graph = mixed(MixedPrecision::default());
    for op in ops_named(&graph, "mul") {
        let node = graph.node(op);
        let types = node.operands().iter().map(|&v| graph.ty(v).dtype);
        assert!(types.into_iter().all(|t| t == node.results()[0].dtype));
    }
}

#[test]
fn master_weights_are_read_through_casts() {
    let graph = mixed(MixedPrecision {
        master_weights: true,
    });
    for (op, state, _, ty) in graph.parameters() {
        assert_eq!(ty.dtype, DType::F32, "{state}");
        let users = graph.uses(graph.value(op));
        let is_cast = |op| matches!(graph.op(op), Op::Cast { to: DType::F16 });
        // One cast for all who read it.
        assert!(users.len() == 1 && is_cast(users[0].op), "{state}");
    }
}

#[test]
fn a_pass_that_may_not_rewrite_leaves_the_graph() {
    let mut graph = model();
    let mut cx = PassContext::with_bisect_limit(0);
    MixedPrecision::default().run(&mut graph, &mut cx).unwrap();
    assert_eq!(graph, model());
}
