//! Gradient of dropout: the same op with the same key and seed, which replays its mask.

use superstep_ir::graph::Value;

use super::DifferentiateError;
use super::step::Step;

pub(super) fn dropout(step: &mut Step<'_>, g: Value) -> Result<(), DifferentiateError> {
    let (op, seed) = (step.op().clone(), step.operand(1));
    let grad = step.emit("grad_x", op, &[g, seed])?;
    step.give(0, grad);
    Ok(())
}
