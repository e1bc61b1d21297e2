//! Gradient of cross entropy.

use superstep_ir::graph::Value;
use superstep_ir::op::Op;

use super::DifferentiateError;
use super::step::Step;

/// Every slice of the logits gets its own gradient, from the sum over all of them.
pub(super) fn cross_entropy(
    step: &mut Step<'_>,
    g: Value,
    padding: usize,
) -> Result<(), DifferentiateError> {
    let slices = step.operand_count() - 1;
    let widths: Vec<usize> = (0..slices).map(|i| step.shape(i)[1]).collect();
    let classes = widths.iter().sum::<usize>() - padding;
    let (labels, logsumexp) = (step.operand(slices), step.result(1));
    let mut first = 0;
    for (i, width) in widths.into_iter().enumerate() {
        if step.wants(i) {
            let padding = (first + width).saturating_sub(classes).min(width);
            let op = Op::CrossEntropyGrad { first, padding };
            let operands = [step.operand(i), labels, logsumexp, g];
            let grad = step.emit("grad_logits", op, &operands)?;
            step.give(i, grad);
        }
        first += width;
    }
    Ok(())
}
