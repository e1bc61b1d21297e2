//! Gradients of ops that only move elements: the same elements moved back.

use smallvec::SmallVec;
use superstep_ir::graph::Value;
use superstep_ir::op::Op;

use super::DifferentiateError;
use super::contribution::Contribution;
use super::step::Step;

type Done = Result<(), DifferentiateError>;

pub(super) fn reshape(step: &mut Step<'_>, g: Value) -> Done {
    let shape = step.shape(0);
    let grad = step.emit("grad_x", Op::Reshape { shape }, &[g])?;
    step.give(0, grad);
    Ok(())
}

pub(super) fn transpose(step: &mut Step<'_>, g: Value, perm: &[usize]) -> Done {
    let mut inverse: SmallVec<[usize; 4]> = SmallVec::from_elem(0, perm.len());
    for (to, &from) in perm.iter().enumerate() {
        inverse[from] = to;
    }
    let grad = step.emit("grad_x", Op::Transpose { perm: inverse }, &[g])?;
    step.give(0, grad);
    Ok(())
}

pub(super) fn slice(step: &mut Step<'_>, g: Value, axis: usize, start: usize) -> Done {
    let value = g;
    step.give_as(0, Contribution::Part { axis, start, value });
    Ok(())
}

pub(super) fn concat(step: &mut Step<'_>, g: Value, axis: usize) -> Done {
    let mut start = 0;
    for i in 0..step.operand_count() {
        let len = step.shape(i)[axis];
        if step.wants(i) {
            let what = format!("grad_x{i}");
            let grad = step.emit(&what, Op::Slice { axis, start, len }, &[g])?;
            step.give(i, grad);
        }
        start += len;
    }
    Ok(())
}

pub(super) fn broadcast(step: &mut Step<'_>, g: Value) -> Done {
    let shape = step.shape(0);
    let grad = step.unbroadcast("grad_x", g, &shape)?;
    step.give(0, grad);
    Ok(())
}
