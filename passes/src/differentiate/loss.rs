//! Gradient of cross entropy.

use superstep_ir::graph::Value;
use superstep_ir::op::Op;

use super::DifferentiateError;
use super::step::Step;

pub(super) fn cross_entropy(step: &mut Step<'_>, g: Value) -> Result<(), DifferentiateError> {
    let (logits, labels, logsumexp) = (step.operand(0), step.operand(1), step.result(1));
    let operands = [logits, labels, logsumexp, g];
    let grad = step.emit("grad_logits", Op::CrossEntropyGrad, &operands)?;
    step.give(0, grad);
    Ok(())
}
