//! Elementwise formulae at small, odd and large sizes, in both element types.

use super::*;
use crate::types::{Real, Shape};

fn block(dtype: DType, dims: &[usize]) -> BlockShape {
    BlockShape {
        dtype,
        shape: Shape::new(dims),
    }
}

/// Cycles of an expression over `inputs` with one output like `out`.
fn cycles(expr: &MapExpr, inputs: &[&BlockShape], out: &BlockShape) -> u64 {
    let inputs: Vec<BlockShape> = inputs.iter().map(|&b| b.clone()).collect();
    map(&Machine::mk2(), expr, &inputs, std::slice::from_ref(out)).cycles
}

/// `(x + y)·2`.
fn two_ops() -> MapExpr {
    MapExpr {
        operands: 2,
        nodes: vec![
            MapNode::Operand(0),
            MapNode::Operand(1),
            MapNode::Binary(BinaryOp::Add, 0, 1),
            MapNode::Constant(Real(2.0)),
            MapNode::Binary(BinaryOp::Mul, 2, 3),
        ],
        outputs: vec![4],
        types: vec![],
    }
}

#[test]
fn single_ops_go_by_their_own_vertices() {
    let add = MapExpr::binary(BinaryOp::Add);
    let x = block(DType::F16, &[3072]);
    assert_eq!(cycles(&MapExpr::unary(UnaryOp::Exp), &[&x], &x), 3_290);
    assert_eq!(cycles(&add, &[&x, &x], &x), 2_471);
    let y = block(DType::F32, &[3072]);
    assert_eq!(cycles(&add, &[&y, &y], &y), 4_793);
    // One number: 6·(20 + 256·2) + 11.
    assert_eq!(cycles(&add, &[&y, &block(DType::F32, &[1])], &y), 3_203);
    let div = MapExpr::binary(BinaryOp::Div);
    assert_eq!(
        cycles(&div, &[&y, &block(DType::F32, &[1])], &y),
        6 * (20 + 256 * 10) + 11
    );
    // A bias along rows of 768: one of four rows for a worker, 384 vectors.
    let rows = block(DType::F32, &[4, 768]);
    let bias = block(DType::F32, &[768]);
    assert_eq!(
        cycles(&add, &[&rows, &bias], &rows),
        6 * (19 + 17 + 768) + 11
    );
}

#[test]
fn unary_ops_at_small_odd_and_large_sizes() {
    let mk2 = Machine::mk2();
    let at = |op, dtype, n| unary(&mk2, op, InPlace::No, dtype, n).cycles;
    assert_eq!(at(UnaryOp::Sqrt, DType::F32, 1), 6 * (17 + 10) + 20);
    assert_eq!(at(UnaryOp::Sqrt, DType::F16, 1), 6 * (17 + 23) + 20);
    assert_eq!(at(UnaryOp::Log, DType::F32, 25), 6 * (17 + 3 * 12) + 20);
    assert_eq!(at(UnaryOp::Rsqrt, DType::F32, 3072), 6 * (17 + 2048) + 20);
    assert_eq!(
        at(UnaryOp::Reciprocal, DType::F16, 3072),
        6 * (17 + 1920) + 20
    );
    assert_eq!(at(UnaryOp::Neg, DType::F32, 3072), 6 * (17 + 512) + 20);
    assert_eq!(at(UnaryOp::Tanh, DType::F16, 3072), 6 * (17 + 512) + 20);
    assert_eq!(at(UnaryOp::Relu, DType::F32, 3072), 6 * (17 + 768) + 20);
    assert_eq!(at(UnaryOp::Abs, DType::F32, 3072), 6 * (17 + 1 + 2048) + 20);
    assert_eq!(at(UnaryOp::Expm1, DType::F32, 3072), 6 * (33 + 1792) + 20);
    assert_eq!(
        at(UnaryOp::GeluErf, DType::F32, 3072),
        6 * (17 + 11_264) + 20
    );
}

#[test]
fn gelu_has_vertices_of_its_own() {
    let mk2 = Machine::mk2();
    // 256 vectors of two for each worker.
    assert_eq!(
        gelu_tanh(&mk2, DType::F32, 3072).cycles,
        9 + 6 * (23 + 2 + 10 + 255 * 10 + 1 + 10 + 3)
    );
    assert_eq!(
        gelu_tanh(&mk2, DType::F16, 3072).cycles,
        9 + 6 * (23 + 2 + 5 + 127 * 5 + 1 + 5 + 3)
    );
    // Seven elements: a vector for four workers, and one element beyond.
    assert_eq!(
        gelu_tanh(&mk2, DType::F32, 7).cycles,
        9 + 6 * (23 + 2 + 10 + 1 + 10 + 3 + 3 + 10)
    );
    assert_eq!(
        gelu_tanh_grad(&mk2, DType::F32, 3072).cycles,
        9 + 6 * (20 + 4 + 255 * 10 + 1 + 4)
    );
    assert_eq!(gelu_tanh_grad(&mk2, DType::F16, 1).cycles, 9 + 6 * 29);
}

#[test]
fn binary_ops_at_small_odd_and_large_sizes() {
    let mk2 = Machine::mk2();
    let at = |op, dtype, n| binary(&mk2, op, InPlace::No, dtype, n).cycles;
    assert_eq!(at(BinaryOp::Add, DType::F32, 1), 6 * (29 + 3) + 11);
    assert_eq!(at(BinaryOp::Mul, DType::F16, 25), 6 * (26 + 2 * 3) + 11);
    assert_eq!(
        at(BinaryOp::Div, DType::F16, 3072),
        6 * (26 + 128 * 21) + 11
    );
    assert_eq!(at(BinaryOp::Max, DType::F32, 3072), 6 * (29 + 256 * 3) + 11);
    assert_eq!(at(BinaryOp::Max, DType::F16, 3072), 6 * (26 + 128 * 4) + 11);
}

#[test]
fn scaled_additions_are_recognised() {
    // x + 2·y.
    let expr = MapExpr {
        operands: 2,
        nodes: vec![
            MapNode::Operand(0),
            MapNode::Operand(1),
            MapNode::Constant(Real(2.0)),
            MapNode::Binary(BinaryOp::Mul, 1, 2),
            MapNode::Binary(BinaryOp::Add, 0, 3),
        ],
        outputs: vec![4],
        types: vec![],
    };
    let (x, y) = (block(DType::F32, &[3072]), block(DType::F16, &[3072]));
    assert_eq!(cycles(&expr, &[&x, &x], &x), 57 + 6 * (24 + 3 * 255));
    // f16 gradients into f32 accumulators; and the other way round.
    assert_eq!(cycles(&expr, &[&x, &y], &x), 57 + 6 * (24 + 4 * 255));
    assert_eq!(cycles(&expr, &[&y, &x], &y), 57 + 6 * (24 + 5 * 127));
    assert_eq!(
        scaled_add(&Machine::mk2(), [DType::F32; 2], 1).cycles,
        57 + 6 * 24
    );
}

#[test]
fn an_expression_is_the_sum_of_its_parts() {
    // Two loads, a store, two arithmetic instructions a vector of two.
    let x = block(DType::F32, &[1200]);
    assert_eq!(cycles(&two_ops(), &[&x, &x], &x), 6 * (30 + 100 * 5));
    // A scalar operand is loaded once.
    let one = block(DType::F32, &[1]);
    assert_eq!(cycles(&two_ops(), &[&x, &one], &x), 6 * (30 + 100 * 4));
    // f16 has four to a vector.
    let half = block(DType::F16, &[1200]);
    assert_eq!(
        cycles(&two_ops(), &[&half, &half], &half),
        6 * (30 + 50 * 5)
    );
    // An f16 operand of an f32 expression is converted as it is loaded.
    assert_eq!(cycles(&two_ops(), &[&x, &half], &x), 6 * (30 + 100 * 6));
    // So is an f16 result as it is stored.
    assert_eq!(cycles(&two_ops(), &[&x, &x], &half), 6 * (30 + 100 * 6));
    // Odd sizes: seven elements, two for the busiest worker; one element.
    let odd = block(DType::F32, &[7]);
    assert_eq!(cycles(&two_ops(), &[&odd, &odd], &odd), 6 * (30 + 5));
}

/// m, v, w of AdamW in one sweep: mk2.md §3.9 puts it near 15 worker cycles an element, 8 to 10 with hoisted corrections.
#[test]
fn adam_is_in_the_range_that_independent_estimates_give() {
    use BinaryOp::{Add, Div, Mul, Sub};
    use MapNode::{Binary, Constant, Operand, Unary};
    let c = Constant(Real(0.9));
    // Operands: gradient, m, v, w; the scalars are constants.
    let nodes = vec![
        Operand(0),
        Operand(1),
        Operand(2),
        Operand(3),
        c,
        Binary(Mul, 1, 4),
        Binary(Mul, 0, 4),
        Binary(Add, 5, 6),
        Binary(Mul, 2, 4),
        Unary(UnaryOp::Square, 0),
        Binary(Mul, 9, 4),
        Binary(Add, 8, 10),
        Binary(Mul, 11, 4),
        Unary(UnaryOp::Sqrt, 12),
        Binary(Add, 13, 4),
        Binary(Mul, 7, 4),
        Binary(Div, 15, 14),
        Binary(Mul, 3, 4),
        Binary(Add, 16, 17),
        Binary(Mul, 18, 4),
        Binary(Sub, 3, 19),
    ];
    let expr = MapExpr {
        operands: 4,
        nodes,
        outputs: vec![7, 11, 20],
        types: vec![],
    };
    let x = block(DType::F32, &[6000]);
    let outputs = vec![x.clone(); 3];
    let spent = map(&Machine::mk2(), &expr, &vec![x; 4], &outputs);
    let worker_cycles_an_element = spent.cycles as f64 / 6000.0;
    assert!(
        (8.0..25.0).contains(&worker_cycles_an_element),
        "{worker_cycles_an_element}"
    );
}
