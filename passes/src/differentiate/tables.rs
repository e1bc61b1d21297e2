//! Gradients of reading and adding to rows of a table.

use superstep_ir::graph::Value;
use superstep_ir::op::Op;

use super::DifferentiateError;
use super::contribution::Contribution;
use super::step::Step;

pub(super) fn gather(
    step: &mut Step<'_>,
    g: Value,
    first: Option<usize>,
) -> Result<(), DifferentiateError> {
    let contribution = Contribution::Rows {
        ids: step.operand(1),
        updates: g,
        first,
        name: step.name("grad_table"),
        place: step.place(),
    };
    step.give_as(0, contribution);
    Ok(())
}

pub(super) fn scatter_add(
    step: &mut Step<'_>,
    g: Value,
    first: Option<usize>,
) -> Result<(), DifferentiateError> {
    step.give(0, g);
    if step.wants(2) {
        let ids = step.operand(1);
        let grad = step.emit("grad_updates", Op::Gather { first }, &[g, ids])?;
        step.give(2, grad);
    }
    Ok(())
}
