//! Gradients of reductions.

use superstep_ir::graph::Value;
use superstep_ir::op::{Op, ReduceKind};

use super::DifferentiateError;
use super::step::Step;

pub(super) fn reduce(
    step: &mut Step<'_>,
    g: Value,
    kind: ReduceKind,
) -> Result<(), DifferentiateError> {
    let (x, shape) = (step.operand(0), step.shape(0));
    let grad = match kind {
        ReduceKind::Sum => step.emit("grad_x", Op::Broadcast { shape }, &[g])?,
        ReduceKind::SumSquares => {
            let twice = step.scale("grad_x.twice", x, 2.0)?;
            step.mul("grad_x", twice, g)?
        }
        ReduceKind::Max => return step.fail("a maximum over axes is not differentiated"),
    };
    step.give(0, grad);
    Ok(())
}
