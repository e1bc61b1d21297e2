//! Gradients of matrix products, in the orientation in which each operand is stored.

use superstep_ir::graph::Value;
use superstep_ir::op::Op;

use super::DifferentiateError;
use super::step::Step;

/// With `A` and `B` as the product means them: `dA = g·Bᵀ` and `dB = Aᵀ·g`; for an operand stored transposed, the transpose of
/// that, `dAᵀ = B·gᵀ` and `dBᵀ = gᵀ·A`. Every one is a product with flags, so nothing has to be transposed in memory.
pub(super) fn matmul(
    step: &mut Step<'_>,
    g: Value,
    transpose_a: bool,
    transpose_b: bool,
) -> Result<(), DifferentiateError> {
    let (a, b) = (step.operand(0), step.operand(1));
    if step.wants(0) {
        let grad = if transpose_a {
            product(step, "grad_x", b, transpose_b, g, true)?
        } else {
            product(step, "grad_x", g, false, b, !transpose_b)?
        };
        step.give(0, grad);
    }
    if step.wants(1) {
        let grad = if transpose_b {
            product(step, "grad_w", g, true, a, transpose_a)?
        } else {
            product(step, "grad_w", a, !transpose_a, g, false)?
        };
        step.give(1, grad);
    }
    if step.operand_count() == 3 {
        step.give(2, g);
    }
    Ok(())
}

fn product(
    step: &mut Step<'_>,
    what: &str,
    a: Value,
    transpose_a: bool,
    b: Value,
    transpose_b: bool,
) -> Result<Value, DifferentiateError> {
    let op = Op::Matmul {
        transpose_a,
        transpose_b,
        out: None,
    };
    step.emit(what, op, &[a, b])
}
