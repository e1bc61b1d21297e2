//! Elementwise ops: unary, binary with broadcast, fused expressions, casts.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::Tensor;
use super::erf::erf;
use crate::half;
use crate::op::{BinaryOp, MapExpr, MapNode, UnaryOp};
use crate::types::{DType, Shape, TensorType};

/// The cubic coefficient in the tanh form of GELU.
const GELU_CUBIC: f64 = 0.044715;

/// The value of a unary op.
pub fn unary(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Exp => x.exp(),
        UnaryOp::Expm1 => x.exp_m1(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Square => x * x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Relu => x.max(0.0),
        UnaryOp::GeluTanh => 0.5 * x * (1.0 + gelu_tanh_inner(x).tanh()),
        UnaryOp::GeluErf => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
    }
}

/// The value of a binary op.
pub fn binary(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::ReluGrad => {
            if a > 0.0 {
                b
            } else {
                0.0
            }
        }
        BinaryOp::GeluTanhGrad => b * gelu_tanh_slope(a),
        BinaryOp::GeluErfGrad => b * gelu_erf_slope(a),
    }
}

/// A value converted to an element type. An f16 is rounded to nearest even, an f32 keeps its value (this interpreter does not round to
/// f32); integers are cut toward zero and clamped to the type's range; a boolean is 0 or 1.
pub fn cast(to: DType, x: f64) -> f64 {
    match to {
        DType::F32 => x,
        DType::F16 => half::nearest(x),
        DType::I32 => f64::from(x as i32),
        DType::U32 => f64::from(x as u32),
        DType::U16 => f64::from(x as u16),
        DType::Bool => f64::from(u8::from(x != 0.0)),
    }
}

fn gelu_tanh_inner(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + GELU_CUBIC * x * x * x)
}

/// `½(1 + t) + ½x(1 − t²)·u'` with `t = tanh u`.
fn gelu_tanh_slope(x: f64) -> f64 {
    let t = gelu_tanh_inner(x).tanh();
    let inner_slope = (2.0 / PI).sqrt() * (1.0 + 3.0 * GELU_CUBIC * x * x);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner_slope
}

/// `Φ(x) + x·φ(x)` with the normal distribution and density.
fn gelu_erf_slope(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// Element `i` of a tensor of the result's shape, read from an operand that is a scalar or the trailing axes of that shape:
/// in row-major order it repeats with its own number of elements.
fn element(operand: &Tensor, i: usize) -> f64 {
    operand.data[i % operand.data.len()]
}

pub(super) fn broadcast(op: BinaryOp, shape: &Shape, a: &Tensor, b: &Tensor) -> Vec<f64> {
    (0..shape.elements())
        .map(|i| binary(op, element(a, i), element(b, i)))
        .collect()
}

pub(super) fn map(expr: &MapExpr, types: &[TensorType], operands: &[&Tensor]) -> Vec<Tensor> {
    let mut results: Vec<Tensor> = types
        .iter()
        .map(|ty| Tensor::filled(ty.clone(), 0.0))
        .collect();
    let mut values = vec![0.0; expr.nodes.len()];
    for i in 0..types[0].shape.elements() {
        for (n, node) in expr.nodes.iter().enumerate() {
            values[n] = match *node {
                MapNode::Operand(o) => element(operands[o as usize], i),
                MapNode::Constant(c) => c.0,
                MapNode::Unary(op, x) => unary(op, values[x as usize]),
                MapNode::Binary(op, a, b) => binary(op, values[a as usize], values[b as usize]),
            };
        }
        for (result, &output) in results.iter_mut().zip(&expr.outputs) {
            result.data[i] = values[output as usize];
        }
    }
    results
}
