//! Round trips, errors, and texts that are no graphs at all.

mod errors;
mod layout;
mod random;

use smallvec::smallvec;

use super::*;
use crate::graph::build::Builder;
use crate::graph::{Phase, Place, Value};
use crate::ids::{IpuId, StageId};
use crate::op::{BinaryOp, MapExpr, MapNode, Op, ReduceKind, StateKind, UnaryOp};
use crate::types::{DType, Real, Shape, TensorType};

/// Printing and parsing give the graph back, and printing that gives the text back.
fn round_trip(graph: &Graph) {
    let text = print_graph(graph);
    let parsed = parse_graph(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(parsed, *graph, "{text}");
    assert_eq!(print_graph(&parsed), text);
}

fn adam() -> MapExpr {
    let node = [
        MapNode::Operand(0),
        MapNode::Operand(1),
        MapNode::Constant(Real(0.9)),
        MapNode::Binary(BinaryOp::Mul, 1, 2),
        MapNode::Constant(Real(f64::NEG_INFINITY)),
        MapNode::Binary(BinaryOp::Max, 0, 4),
        MapNode::Binary(BinaryOp::Add, 5, 3),
        MapNode::Unary(UnaryOp::Sqrt, 1),
        MapNode::Operand(0),
    ];
    MapExpr {
        operands: 2,
        nodes: node.to_vec(),
        outputs: vec![6, 7, 6, 8],
        types: vec![],
    }
}

/// A graph with every op of the set and every kind of attribute.
pub(super) fn every_op() -> Graph {
    let mut graph = Graph::new("every_op");
    let mut b = Builder::new(&mut graph);
    sources_and_products(&mut b);
    let x = b.input("x", TensorType::f32([6, 8])).unwrap();
    elementwise(&mut b, x);
    rows(&mut b, x);
    tables_and_views(&mut b, x);
    graph
}

fn sources_and_products(b: &mut Builder<'_>) {
    let remote = Op::Parameter {
        state: "exp_avg.w".into(),
        kind: StateKind::OptimiserState,
        ty: TensorType::f32([4, 2]),
        remote: true,
    };
    b.op("exp_avg.w", remote, &[]).unwrap();
    for (name, kind) in StateKind::ALL.iter().map(|k| (k.name(), *k)) {
        let state = format!("h.0/{name} \"quoted\\\" µ");
        let ty = TensorType::f32([8, 4]);
        let p = b.parameter(&state, kind, ty).unwrap();
        b.assign(&state, p).unwrap();
    }
    for value in [
        0.0,
        -0.0,
        1.5,
        1e-5,
        5e-324,
        1e300,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        f64::from_bits(0xfff8_0000_0000_0123),
    ] {
        b.constant("c", value, TensorType::new(DType::F16, Shape::scalar()))
            .unwrap();
    }
    let a = b.input("a", TensorType::f32([2, 3, 5])).unwrap();
    let c = b.input("c", TensorType::f32([2, 5, 7])).unwrap();
    let ac = b.matmul("ac", a, c, false, false).unwrap();
    b.matmul("ta", a, ac, true, false).unwrap();
    b.matmul("tb", c, c, false, true).unwrap();
    let both = Op::Matmul {
        transpose_a: true,
        transpose_b: true,
        out: None,
    };
    let d = b.input("d", TensorType::f32([7, 3])).unwrap();
    let e = b.input("e", TensorType::f32([2, 7])).unwrap();
    let tt = b.op("tt", both.clone(), &[d, e]).unwrap();
    b.op("tt.acc", both, &[d, e, tt]).unwrap();
    let half = |dims: &[usize]| TensorType::new(DType::F16, dims);
    let h = b.input("h", half(&[7, 3])).unwrap();
    let wide = Op::Matmul {
        transpose_a: true,
        transpose_b: false,
        out: Some(DType::F32),
    };
    b.op("f16.32", wide, &[h, h]).unwrap();
    let sum = Op::Reduce {
        kind: ReduceKind::Sum,
        leading: 2,
        out: Some(DType::F32),
    };
    b.op("sum", sum, &[h]).unwrap();
    let typed = MapExpr {
        types: vec![DType::F16, DType::F32, DType::F16, DType::F32],
        ..adam()
    };
    b.results("mixed", Op::Map(typed), &[h, d]).unwrap();
}

fn elementwise(b: &mut Builder<'_>, x: Value) {
    b.scope("elementwise");
    b.place = Place {
        ipu: Some(IpuId(3)),
        stage: Some(StageId(1)),
        phase: Phase::Backward,
        layer: Some(11),
        member: Some(2),
    };
    for op in UnaryOp::ALL {
        b.unary("u", op, x).unwrap();
    }
    b.place = Place {
        phase: Phase::Update,
        ..Place::default()
    };
    for op in BinaryOp::ALL {
        b.binary("b", op, x, x).unwrap();
    }
    let row = b.input("row", TensorType::f32([8])).unwrap();
    b.results("adam", Op::Map(adam()), &[x, row]).unwrap();
    let unary = Op::Map(MapExpr::unary(UnaryOp::Neg));
    b.op("neg", unary, &[x]).unwrap();
    let binary = Op::Map(MapExpr::binary(BinaryOp::Sub));
    b.op("sub", binary, &[x, row]).unwrap();
    for to in DType::ALL {
        b.op("cast", Op::Cast { to }, &[x]).unwrap();
    }
    let seed = b.input("seed", TensorType::new(DType::U32, [2])).unwrap();
    let dropout = Op::Dropout {
        p: Real(0.1),
        key: u32::MAX,
    };
    b.op("", dropout, &[x, seed]).unwrap();
}

fn rows(b: &mut Builder<'_>, x: Value) {
    b.scope("rows");
    b.place = Place {
        layer: Some(0),
        ..Place::default()
    };
    let scale = b.input("scale", TensorType::f32([8])).unwrap();
    let epsilon = Real(1e-5);
    let norm = Op::LayerNorm { epsilon };
    let n = b.results("ln", norm, &[x, scale, scale]).unwrap();
    let operands = [n[0], x, scale, n[1], n[2]];
    b.op("ln.grad", Op::LayerNormGrad, &operands).unwrap();
    let operands = [n[0], x, n[1], n[2]];
    b.results("ln.params", Op::LayerNormParamGrad, &operands)
        .unwrap();
    b.op("mask", Op::CausalMask, &[x]).unwrap();
    let last = b.input("last", TensorType::i32([6])).unwrap();
    b.op("mask.beyond", Op::MaskBeyond, &[x, last]).unwrap();
    let matrices = b.reshape("matrices", x, [6, 4, 2]).unwrap();
    let rows = b.slice("rows", matrices, 1, 0, 3).unwrap();
    b.op("write", Op::WriteRows, &[matrices, last, rows])
        .unwrap();
    for causal in [false, true] {
        for scale in [Real(1.0), Real(0.125)] {
            b.op("softmax", Op::Softmax { scale, causal }, &[x])
                .unwrap();
            b.op("softmax.grad", Op::SoftmaxGrad { scale }, &[x, x])
                .unwrap();
        }
    }
    let labels = b.input("labels", TensorType::i32([6])).unwrap();
    let loss = b
        .results("loss", Op::CrossEntropy { padding: 0 }, &[x, labels])
        .unwrap();
    let operands = [x, labels, loss[1], loss[0]];
    b.op(
        "loss.grad",
        Op::CrossEntropyGrad {
            first: 0,
            padding: 0,
        },
        &operands,
    )
    .unwrap();
    b.output("loss", loss[0]).unwrap();
    let sliced = Op::CrossEntropy { padding: 3 };
    let loss = b.results("sliced", sliced, &[x, x, labels]).unwrap();
    let operands = [x, labels, loss[1], loss[0]];
    for (first, padding) in [(0, 3), (8, 0), (8, 3)] {
        let op = Op::CrossEntropyGrad { first, padding };
        b.op("sliced.grad", op, &operands).unwrap();
    }
}

fn tables_and_views(b: &mut Builder<'_>, x: Value) {
    b.scope("2nd scope");
    let ids = b.input("ids", TensorType::i32([5])).unwrap();
    let rows = b
        .op("gather", Op::Gather { first: None }, &[x, ids])
        .unwrap();
    b.op("scatter", Op::ScatterAdd { first: None }, &[x, ids, rows])
        .unwrap();
    for first in [Some(0), Some(7)] {
        b.op("sliced.gather", Op::Gather { first }, &[x, ids])
            .unwrap();
        let operands = [x, ids, rows];
        b.op("sliced.scatter", Op::ScatterAdd { first }, &operands)
            .unwrap();
    }
    let kinds = [ReduceKind::Sum, ReduceKind::SumSquares, ReduceKind::Max];
    for (leading, kind) in kinds.into_iter().enumerate() {
        b.reduce("reduce", kind, leading, x).unwrap();
    }
    let flat = b.reshape("flat", x, [48]).unwrap();
    b.reshape("scalar", rows, [1, 5, 1, 8]).unwrap();
    b.transpose("t", x, &[1, 0]).unwrap();
    let part = b.slice("part", x, 1, 3, 5).unwrap();
    b.concat("joined", &[x, part, x], 1).unwrap();
    let shape = Shape::new(&[2, 48]);
    b.op("wide", Op::Broadcast { shape }, &[flat]).unwrap();
}

#[test]
fn every_op_round_trips() {
    let graph = every_op();
    let names: std::collections::BTreeSet<&str> =
        graph.ops().map(|op| graph.op(op).name()).collect();
    assert_eq!(names.len(), 51, "the graph holds every op");
    round_trip(&graph);
}

#[test]
fn modules_round_trip_and_know_their_lines() {
    let mut other = Graph::new("an update");
    let mut b = Builder::new(&mut other);
    b.input("rate", TensorType::f32(Shape::scalar())).unwrap();
    let module = Module {
        graphs: vec![every_op(), other, Graph::new("empty")],
    };
    let text = module.to_string();
    assert_eq!(text.parse::<Module>().unwrap(), module);
    let parsed = parse_with_lines(&text).unwrap();
    let line = parsed.line(1, OpId(0)).unwrap();
    assert!(
        text.lines()
            .nth(line - 1)
            .unwrap()
            .contains("input \"rate\"")
    );
    assert_eq!(parsed.line(2, OpId(0)), None);
    assert_eq!(parse_module("").unwrap(), Module::default());
}

#[test]
fn ops_that_were_erased_leave_no_trace() {
    let mut graph = every_op();
    let unused: Vec<OpId> = graph
        .ops()
        .filter(|&op| graph.use_count(op) == 0 && !graph.op(op).has_effect())
        .collect();
    for op in unused {
        graph.erase(op);
    }
    round_trip(&graph);
}

#[test]
fn names_are_unique_and_follow_the_ops() {
    let mut graph = Graph::new("f");
    let mut b = Builder::new(&mut graph);
    let x = b.input("x", TensorType::f32([2, 4])).unwrap();
    for name in ["x", "x_2", "x", "x y", "x_y", "", "neg"] {
        b.unary(name, UnaryOp::Neg, x).unwrap();
    }
    let norm = Op::LayerNorm { epsilon: Real(0.0) };
    let row = b.input("x.rstd", TensorType::f32([4])).unwrap();
    b.results("x", norm, &[x, row, row]).unwrap();
    let text = print_graph(&graph);
    let values: Vec<&str> = text
        .lines()
        .filter_map(|l| Some(l.split_once(" = ")?.0.trim()))
        .collect();
    assert_eq!(
        values,
        [
            "%x",
            "%x_2",
            "%x_2_2",
            "%x_3",
            "%x_y",
            "%x_y_2",
            "%neg",
            "%neg_2",
            "%x.rstd",
            "%x_4, %x_4.mean, %x_4.rstd"
        ]
    );
    round_trip(&graph);
}

#[test]
fn an_expression_nests_what_is_used_once_in_place() {
    assert_eq!(
        map_expr::print(&adam()),
        "t0 = $0; t1 = $1; t3 = mul(t1, 0.9); t6 = add(max(t0, -inf), t3); t6, sqrt(t1), t6, $0"
    );
    assert_eq!(
        map_expr::print(&MapExpr::binary(BinaryOp::Sub)),
        "sub($0, $1)"
    );
}

#[test]
fn deep_expressions_are_named_on_the_way() {
    let mut expr = MapExpr::unary(UnaryOp::Neg);
    for i in 1..200 {
        expr.nodes.push(MapNode::Unary(UnaryOp::Tanh, i));
    }
    expr.outputs = vec![200];
    let mut graph = Graph::new("deep");
    let mut b = Builder::new(&mut graph);
    let x = b.input("x", TensorType::f32([1])).unwrap();
    b.op("deep", Op::Map(expr), &[x]).unwrap();
    round_trip(&graph);
}

#[test]
fn hand_written_text_may_leave_out_what_is_inferred() {
    let text = "
        // two lines of a graph
        graph @f {
          %x = input \"x\" : f32[2, 3]   // a comment
          %s = reduce_sum %x {leading: 2}
          %p = softmax %x {causal} : f32[2, 3] @stage 2
          %m = map %s, %p {add($0, mul($1, 2))} \"own name\"
          output \"y\" %m
        }";
    let graph = parse_graph(text).unwrap();
    let ops: Vec<OpId> = graph.ops().collect();
    assert_eq!(
        graph.node(ops[1]).results(),
        [TensorType::f32(Shape::scalar())]
    );
    assert_eq!(graph.node(ops[1]).name, "s");
    assert_eq!(graph.node(ops[2]).place.stage, Some(StageId(2)));
    assert_eq!(graph.node(ops[3]).name, "own name");
    assert_eq!(graph.node(ops[4]).name, "y.output");
    let perm: smallvec::SmallVec<[usize; 4]> = smallvec![1, 0];
    let t =
        parse_graph("graph @f { %x = input \"x\" : f32[2, 3] %t = transpose %x {perm: [1, 0]} }");
    let t = t.unwrap();
    assert_eq!(*t.op(OpId(1)), Op::Transpose { perm });
}
