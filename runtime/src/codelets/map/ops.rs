//! One loop for each elementwise op.

use superstep_ir::op::{BinaryOp, UnaryOp};

use super::schedule::Instruction;
use crate::codelets::isa::isa_kernel;
use crate::codelets::math;

#[inline(always)]
fn each(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = f(x);
    }
}

#[inline(always)]
fn each2(x: &[f32], y: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
        *o = f(x, y);
    }
}

isa_kernel! {
    /// `out[i] = op(x[i])`
    pub(super) fn unary(op: UnaryOp, x: &[f32], out: &mut [f32]) {
        match op {
            UnaryOp::Neg => each(x, out, |x| -x),
            UnaryOp::Exp => each(x, out, math::exp),
            UnaryOp::Expm1 => each(x, out, math::expm1),
            UnaryOp::Log => each(x, out, math::log),
            UnaryOp::Sqrt => each(x, out, f32::sqrt),
            UnaryOp::Rsqrt => each(x, out, |x| 1.0 / x.sqrt()),
            UnaryOp::Reciprocal => each(x, out, |x| 1.0 / x),
            UnaryOp::Square => each(x, out, |x| x * x),
            UnaryOp::Abs => each(x, out, f32::abs),
            UnaryOp::Tanh => each(x, out, math::tanh),
            UnaryOp::Relu => each(x, out, |x| if x > 0.0 || x.is_nan() { x } else { 0.0 }),
            UnaryOp::GeluTanh => each(x, out, math::gelu_tanh),
            UnaryOp::GeluErf => each(x, out, math::gelu_erf),
        }
    }
}

isa_kernel! {
    /// `out[i] = op(x[i], y[i])`
    pub(super) fn binary(op: BinaryOp, x: &[f32], y: &[f32], out: &mut [f32]) {
        match op {
            BinaryOp::Add => each2(x, y, out, |x, y| x + y),
            BinaryOp::Sub => each2(x, y, out, |x, y| x - y),
            BinaryOp::Mul => each2(x, y, out, |x, y| x * y),
            BinaryOp::Div => each2(x, y, out, |x, y| x / y),
            BinaryOp::Max => each2(x, y, out, |x, y| if x > y || x.is_nan() { x } else { y }),
            BinaryOp::Min => each2(x, y, out, |x, y| if x < y || x.is_nan() { x } else { y }),
            BinaryOp::ReluGrad => each2(x, y, out, |x, g| if x > 0.0 { g } else { 0.0 }),
            BinaryOp::GeluTanhGrad => each2(x, y, out, |x, g| g * math::gelu_tanh_slope(x)),
            BinaryOp::GeluErfGrad => each2(x, y, out, |x, g| g * math::gelu_erf_slope(x)),
        }
    }
}

/// About how long a loop takes for one element on the host.
pub(super) fn nanoseconds(instruction: &Instruction) -> f64 {
    match instruction {
        Instruction::Unary { op, .. } => match op {
            UnaryOp::Neg | UnaryOp::Square | UnaryOp::Abs | UnaryOp::Relu => 0.1,
            UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Reciprocal => 0.4,
            UnaryOp::Exp | UnaryOp::Expm1 | UnaryOp::Log | UnaryOp::Tanh => 1.0,
            UnaryOp::GeluTanh | UnaryOp::GeluErf => 1.5,
        },
        Instruction::Binary { op, .. } => match op {
            BinaryOp::Div => 0.4,
            BinaryOp::GeluTanhGrad | BinaryOp::GeluErfGrad => 2.0,
            _ => 0.1,
        },
        Instruction::Copy { .. } => 0.1,
    }
}
