//! Gradients of ops over rows: layer norm, causal mask, softmax.

use superstep_ir::graph::Value;
use superstep_ir::op::{Op, UnaryOp};
use superstep_ir::types::Real;

use super::DifferentiateError;
use super::step::Step;

type Done = Result<(), DifferentiateError>;

pub(super) fn layer_norm(step: &mut Step<'_>, g: Value) -> Done {
    let (x, scale) = (step.operand(0), step.operand(1));
    let (mean, rstd) = (step.result(1), step.result(2));
    if step.wants(0) {
        let grad = step.emit("grad_x", Op::LayerNormGrad, &[g, x, scale, mean, rstd])?;
        step.give(0, grad);
    }
    if step.wants(1) || step.wants(2) {
        let to_scale = step.emit("grad_params", Op::LayerNormParamGrad, &[g, x, mean, rstd])?;
        let to_shift = Value {
            result: 1,
            ..to_scale
        };
        step.give(1, to_scale);
        step.give(2, to_shift);
    }
    Ok(())
}

/// Masked elements pass no gradient. Under a softmax they get none anyway: their probability is 0, and so is `p · (g − Σ g p)`.
/// Anywhere else, `exp(mask(0))` is 1 where an element is visible and 0 where it is masked.
pub(super) fn causal_mask(step: &mut Step<'_>, g: Value) -> Done {
    if step.all_readers(|op| matches!(op, Op::Softmax { .. })) {
        step.give(0, g);
        return Ok(());
    }
    let (value, ty) = (Real(0.0), step.ty(g).clone());
    let zeros = step.emit("grad_x.zeros", Op::Constant { value, ty }, &[])?;
    let mask = step.emit("grad_x.mask", Op::CausalMask, &[zeros])?;
    let visible = step.unary("grad_x.visible", UnaryOp::Exp, mask)?;
    let grad = step.mul("grad_x", g, visible)?;
    step.give(0, grad);
    Ok(())
}

pub(super) fn softmax(step: &mut Step<'_>, g: Value, scale: Real) -> Done {
    let p = step.result(0);
    let grad = step.emit("grad_x", Op::SoftmaxGrad { scale }, &[p, g])?;
    step.give(0, grad);
    Ok(())
}
