//! Gradients of elementwise ops. `y` is the op's result, `g` the gradient of it.

use superstep_ir::graph::Value;
use superstep_ir::op::{BinaryOp, Op, UnaryOp};

use super::DifferentiateError;
use super::step::Step;

type Done = Result<(), DifferentiateError>;

pub(super) fn unary(step: &mut Step<'_>, g: Value, op: UnaryOp) -> Done {
    let (x, y) = (step.operand(0), step.result(0));
    let grad = match op {
        UnaryOp::Neg => step.unary("grad_x", UnaryOp::Neg, g)?,
        UnaryOp::Exp => step.mul("grad_x", g, y)?,
        // d(eˣ − 1) = eˣ = y + 1
        UnaryOp::Expm1 => {
            let product = step.mul("grad_x.product", g, y)?;
            step.binary("grad_x", BinaryOp::Add, product, g)?
        }
        UnaryOp::Log => step.binary("grad_x", BinaryOp::Div, g, x)?,
        // d√x = 1 / 2y
        UnaryOp::Sqrt => {
            let half = step.scale("grad_x.half", g, 0.5)?;
            step.binary("grad_x", BinaryOp::Div, half, y)?
        }
        // d x^(−½) = −½ y³
        UnaryOp::Rsqrt => {
            let square = step.unary("grad_x.square", UnaryOp::Square, y)?;
            let cube = step.mul("grad_x.cube", square, y)?;
            let slope = step.scale("grad_x.slope", cube, -0.5)?;
            step.mul("grad_x", g, slope)?
        }
        // d 1/x = −y²
        UnaryOp::Reciprocal => {
            let square = step.unary("grad_x.square", UnaryOp::Square, y)?;
            let product = step.mul("grad_x.product", g, square)?;
            step.unary("grad_x", UnaryOp::Neg, product)?
        }
        UnaryOp::Square => {
            let twice = step.scale("grad_x.twice", x, 2.0)?;
            step.mul("grad_x", g, twice)?
        }
        // +g right of 0, −g left of it, 0 at it.
        UnaryOp::Abs => {
            let right = step.binary("grad_x.right", BinaryOp::ReluGrad, x, g)?;
            let mirrored = step.unary("grad_x.mirrored", UnaryOp::Neg, x)?;
            let left = step.binary("grad_x.left", BinaryOp::ReluGrad, mirrored, g)?;
            step.binary("grad_x", BinaryOp::Sub, right, left)?
        }
        // d tanh = 1 − y²
        UnaryOp::Tanh => {
            let square = step.unary("grad_x.square", UnaryOp::Square, y)?;
            let lost = step.mul("grad_x.lost", g, square)?;
            step.binary("grad_x", BinaryOp::Sub, g, lost)?
        }
        UnaryOp::Relu => step.binary("grad_x", BinaryOp::ReluGrad, x, g)?,
        UnaryOp::GeluTanh => step.binary("grad_x", BinaryOp::GeluTanhGrad, x, g)?,
        UnaryOp::GeluErf => step.binary("grad_x", BinaryOp::GeluErfGrad, x, g)?,
    };
    step.give(0, grad);
    Ok(())
}

pub(super) fn binary(step: &mut Step<'_>, g: Value, op: BinaryOp) -> Done {
    let (a, b, y) = (step.operand(0), step.operand(1), step.result(0));
    match op {
        BinaryOp::Add => {
            give_a(step, |_| Ok(g))?;
            give_b(step, |_| Ok(g))
        }
        BinaryOp::Sub => {
            give_a(step, |_| Ok(g))?;
            if step.wants(1) {
                // Summed first: negating what is left is less work.
                let shape = step.shape(1);
                let sum = step.unbroadcast("grad_b", g, &shape)?;
                let grad = step.unary("grad_b", UnaryOp::Neg, sum)?;
                step.give(1, grad);
            }
            Ok(())
        }
        BinaryOp::Mul => {
            give_a(step, |step| step.mul("grad_a", g, b))?;
            give_b(step, |step| step.mul("grad_b", g, a))
        }
        // da = g / b and db = −(g / b) · y
        BinaryOp::Div => {
            let quotient = step.binary("grad_a", BinaryOp::Div, g, b)?;
            give_a(step, |_| Ok(quotient))?;
            if step.wants(1) {
                let shape = step.shape(1);
                let product = step.mul("grad_b.product", quotient, y)?;
                let sum = step.unbroadcast("grad_b", product, &shape)?;
                let grad = step.unary("grad_b", UnaryOp::Neg, sum)?;
                step.give(1, grad);
            }
            Ok(())
        }
        BinaryOp::Max => extremum(step, g, a, b),
        BinaryOp::Min => extremum(step, g, b, a),
        // Linear in the second operand.
        BinaryOp::ReluGrad | BinaryOp::GeluTanhGrad | BinaryOp::GeluErfGrad => {
            if op != BinaryOp::ReluGrad && step.wants(0) {
                return step.fail("second derivatives are not supported");
            }
            give_b(step, |step| step.binary("grad_b", op, a, g))
        }
    }
}

/// `a` gets the gradient where `above > below`, `b` gets it elsewhere: all of it once, ties included.
fn extremum(step: &mut Step<'_>, g: Value, above: Value, below: Value) -> Done {
    let difference = step.binary("grad_a.difference", BinaryOp::Sub, above, below)?;
    let to_a = step.binary("grad_a", BinaryOp::ReluGrad, difference, g)?;
    give_a(step, |_| Ok(to_a))?;
    give_b(step, |step| step.binary("grad_b", BinaryOp::Sub, g, to_a))
}

/// Gives the first operand a gradient of the result's shape, summed over the axes it was broadcast along.
fn give_a(
    step: &mut Step<'_>,
    grad: impl FnOnce(&mut Step<'_>) -> Result<Value, DifferentiateError>,
) -> Done {
    give_summed(step, 0, "grad_a", grad)
}

/// As [`give_a`], for the second operand.
fn give_b(
    step: &mut Step<'_>,
    grad: impl FnOnce(&mut Step<'_>) -> Result<Value, DifferentiateError>,
) -> Done {
    give_summed(step, 1, "grad_b", grad)
}

fn give_summed(
    step: &mut Step<'_>,
    operand: usize,
    what: &str,
    grad: impl FnOnce(&mut Step<'_>) -> Result<Value, DifferentiateError>,
) -> Done {
    if step.wants(operand) {
        let full = grad(step)?;
        let shape = step.shape(operand);
        let sum = step.unbroadcast(what, full, &shape)?;
        step.give(operand, sum);
    }
    Ok(())
}

/// A cast between float types is the identity but for rounding; one to or from anything else passes no gradient.
pub(super) fn cast(step: &mut Step<'_>, g: Value) -> Done {
    let to = step.ty(step.operand(0)).dtype;
    if to.is_float() && step.ty(g).dtype.is_float() {
        let grad = step.emit("grad_x", Op::Cast { to }, &[g])?;
        step.give(0, grad);
    }
    Ok(())
}
