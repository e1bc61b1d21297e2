use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Phase, Value};
use superstep_ir::op::{Op, UnaryOp};
use superstep_ir::types::{Real, Shape, TensorType};

use super::Simplify;
use crate::fold_constants::FoldConstants;
use crate::testing::{check, ops_named};

fn input(b: &mut Builder<'_>, name: &str, dims: &[usize]) -> Value {
    b.input(name, TensorType::f32(dims)).unwrap()
}

/// What the ops of a graph are, sources and sinks aside, in canonical order.
fn ops(graph: &Graph) -> Vec<&'static str> {
    let mut ops: Vec<&str> = graph
        .topological()
        .iter()
        .map(|&op| graph.op(op).name())
        .collect();
    ops.retain(|name| !["input", "parameter", "constant", "output", "assign"].contains(name));
    ops
}

fn softmax(b: &mut Builder<'_>, x: Value) -> Value {
    let op = Op::Softmax {
        scale: Real(1.0),
        causal: false,
    };
    b.op("attn.probs", op, &[x]).unwrap()
}

#[test]
fn attention_scores_are_scaled_and_masked_by_the_softmax() {
    let mut graph = Graph::new("attention");
    let mut b = Builder::new(&mut graph);
    b.place.layer = Some(2);
    let x = input(&mut b, "x", &[2, 5, 5]);
    let eight = b.constant("eight", 8.0, TensorType::f32([])).unwrap();
    let scaled = b
        .binary("attn.scale", superstep_ir::op::BinaryOp::Div, x, eight)
        .unwrap();
    let masked = b.op("attn.mask", Op::CausalMask, &[scaled]).unwrap();
    let probs = softmax(&mut b, masked);
    b.output("probs", probs).unwrap();
    b.place.phase = Phase::Backward;
    let g = input(&mut b, "g", &[2, 5, 5]);
    let grad = b
        .op("grad", Op::SoftmaxGrad { scale: Real(1.0) }, &[probs, g])
        .unwrap();
    let grad = b.scale("grad.scaled", grad, 0.125).unwrap();
    b.output("grad", grad).unwrap();
    let after = check(&Simplify, &graph);
    assert_eq!(ops(&after), ["softmax", "softmax_grad"]);
    let probs = after.node(ops_named(&after, "softmax")[0]);
    let expected = Op::Softmax {
        scale: Real(0.125),
        causal: true,
    };
    assert_eq!((&probs.op, probs.name.as_str()), (&expected, "attn.probs"));
    assert_eq!(probs.place.layer, Some(2));
    let grad = after.node(ops_named(&after, "softmax_grad")[0]);
    assert_eq!(grad.op, Op::SoftmaxGrad { scale: Real(0.125) });
    assert_eq!(
        (grad.name.as_str(), grad.place.phase),
        ("grad.scaled", Phase::Backward)
    );
}

/// The scaled scores are read elsewhere: absorbing the factor saves nothing, so nothing changes.
#[test]
fn nothing_changes_for_nothing() {
    let mut graph = Graph::new("shared");
    let mut b = Builder::new(&mut graph);
    let x = input(&mut b, "x", &[5, 5]);
    let scaled = b.scale("scaled", x, 0.125).unwrap();
    let probs = softmax(&mut b, scaled);
    b.output("scaled", scaled).unwrap();
    b.output("probs", probs).unwrap();
    assert_eq!(check(&Simplify, &graph), graph);
}

#[test]
fn views_compose_and_products_take_transposes() {
    let mut graph = Graph::new("views");
    let mut b = Builder::new(&mut graph);
    let x = input(&mut b, "x", &[2, 3, 5]);
    let y = input(&mut b, "y", &[2, 7, 5]);
    let t = b.transpose("t", x, &[2, 0, 1]).unwrap();
    let t = b.transpose("t", t, &[1, 2, 0]).unwrap();
    let r = b.reshape("r", t, [6, 5]).unwrap();
    let r = b.reshape("r", r, [2, 3, 5]).unwrap();
    let yt = b.transpose("yt", y, &[0, 2, 1]).unwrap();
    let p = b.matmul("p", r, yt, false, false).unwrap();
    let p = b.transpose("p.t", p, &[0, 2, 1]).unwrap();
    b.output("p", p).unwrap();
    let after = check(&Simplify, &graph);
    assert_eq!(ops(&after), ["matmul"]);
}

/// `x·1` as a pure neutral chain ends in the input itself.
#[test]
fn a_result_may_be_a_value_from_outside() {
    let mut graph = Graph::new("neutral");
    let mut b = Builder::new(&mut graph);
    let x = input(&mut b, "x", &[3]);
    let n = b.unary("n", UnaryOp::Neg, x).unwrap();
    let n = b.unary("n", UnaryOp::Neg, n).unwrap();
    let n = b.scale("n", n, 1.0).unwrap();
    b.output("n", n).unwrap();
    assert_eq!(check(&Simplify, &graph).len(), 2);
}

#[test]
fn gelu_is_found_however_the_half_is_applied() {
    for form in 0..4 {
        let mut graph = Graph::new("gelu");
        let mut b = Builder::new(&mut graph);
        let x = input(&mut b, "x", &[3, 4]);
        let one = b.constant("one", 1.0, TensorType::f32([3, 4])).unwrap();
        let cubed = if form % 2 == 0 {
            let square = b.mul("square", x, x).unwrap();
            b.mul("cube", square, x).unwrap()
        } else {
            let square = b.unary("square", UnaryOp::Square, x).unwrap();
            b.mul("cube", x, square).unwrap()
        };
        let cubed = b.scale("c", cubed, f64::from(0.044715_f32)).unwrap();
        let inner = b.add("inner", x, cubed).unwrap();
        let inner = b.scale("k", inner, f64::from(0.797_884_6_f32)).unwrap();
        let tanh = b.unary("tanh", UnaryOp::Tanh, inner).unwrap();
        let bend = b.add("bend", one, tanh).unwrap();
        let y = match form {
            0 => {
                let half = b.scale("half", x, 0.5).unwrap();
                b.mul("y", half, bend).unwrap()
            }
            1 => {
                let y = b.mul("xb", x, bend).unwrap();
                b.scale("y", y, 0.5).unwrap()
            }
            2 => {
                let half = b.scale("half", bend, 0.5).unwrap();
                b.mul("y", x, half).unwrap()
            }
            _ => {
                let half = b.scale("half", x, 0.5).unwrap();
                b.mul("y", bend, half).unwrap()
            }
        };
        b.output("y", y).unwrap();
        let folded = check(&FoldConstants, &graph);
        let mut after = folded.clone();
        crate::pass::Pass::run(&Simplify, &mut after, &mut crate::pass::PassContext::new())
            .unwrap();
        assert_eq!(ops(&after), ["gelu_tanh"], "form {form}");
    }
}

#[test]
fn forward_values_are_not_made_of_backward_ones() {
    let mut graph = Graph::new("phases");
    let mut b = Builder::new(&mut graph);
    let x = input(&mut b, "x", &[4, 4]);
    let e = b.unary("e", UnaryOp::Exp, x).unwrap();
    let t = b.transpose("t", e, &[1, 0]).unwrap();
    b.output("t", t).unwrap();
    b.place.phase = Phase::Backward;
    let s = b.unary("s", UnaryOp::Square, e).unwrap();
    let u = b.transpose("u", e, &[1, 0]).unwrap();
    let su = b.add("su", s, u).unwrap();
    b.output("su", su).unwrap();
    let after = check(&Simplify, &graph);
    let transposes = ops_named(&after, "transpose");
    assert_eq!(transposes.len(), 1);
    assert_eq!(after.node(transposes[0]).place.phase, Phase::Forward);
    assert_eq!(after.node(transposes[0]).name, "t");
}

#[test]
fn broadcasts_are_left_to_their_readers() {
    let mut graph = Graph::new("broadcast");
    let mut b = Builder::new(&mut graph);
    let x = input(&mut b, "x", &[3, 4]);
    let y = input(&mut b, "y", &[4]);
    let wide = Op::Broadcast {
        shape: Shape::new(&[3, 4]),
    };
    let wide = b.op("wide", wide, &[y]).unwrap();
    let sum = b.add("sum", wide, x).unwrap();
    let other = b.mul("other", wide, wide).unwrap();
    b.output("sum", sum).unwrap();
    let lone = b.add("lone", sum, other).unwrap();
    b.output("lone", lone).unwrap();
    let after = check(&Simplify, &graph);
    assert!(
        ops(&after)
            .iter()
            .filter(|&&name| name == "broadcast")
            .count()
            <= 1
    );
}
