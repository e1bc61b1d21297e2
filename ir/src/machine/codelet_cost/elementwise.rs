//! `map`: elementwise expressions. A single op has its own estimator in PopLibs; a whole expression is summed up (mk2.md §3.6).

use super::super::Machine;
use super::super::calibration::{MAP_OVERHEAD, MAP_SIXTEENTHS};
use super::{BlockShape, vector};
use crate::op::{BinaryOp, MapExpr, MapNode, UnaryOp};
use crate::types::DType;
use crate::units::Cycles;

/// `cycles` worker cycles for every `per` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    cycles: u64,
    per: u64,
}

const fn rate(cycles: u64, per: u64) -> Rate {
    Rate { cycles, per }
}

impl Rate {
    /// Worker cycles of `elements` on one worker.
    const fn cycles(self, elements: u64) -> u64 {
        elements.div_ceil(self.per) * self.cycles
    }

    /// Cycles of a 64-bit vector, rounded up.
    const fn of_vector(self, vector: u64) -> u64 {
        (self.cycles * vector).div_ceil(self.per)
    }
}

/// Loop cost of a unary op, out of place: the table of mk2.md §3.6. `Expm1` is an exponential and an addition, `GeluErf` from the
/// table, `GeluTanh` from its own vertex (§3.7).
const fn unary_rate(op: UnaryOp, dtype: DType) -> Rate {
    let f16 = matches!(dtype, DType::F16);
    match op {
        UnaryOp::Exp => [rate(6, 2), rate(4, 4)][f16 as usize],
        UnaryOp::Expm1 => [rate(7, 2), rate(5, 4)][f16 as usize],
        UnaryOp::Log => [rate(12, 2), rate(4, 4)][f16 as usize],
        UnaryOp::Sqrt => [rate(10, 2), rate(23, 4)][f16 as usize],
        UnaryOp::Rsqrt => [rate(8, 2), rate(19, 4)][f16 as usize],
        UnaryOp::Reciprocal => [rate(6, 2), rate(15, 4)][f16 as usize],
        UnaryOp::Square | UnaryOp::Neg => [rate(2, 2), rate(2, 4)][f16 as usize],
        UnaryOp::Abs => rate(4, 1),
        UnaryOp::Tanh => [rate(12, 2), rate(4, 4)][f16 as usize],
        UnaryOp::Relu => [rate(3, 2), rate(3, 4)][f16 as usize],
        UnaryOp::GeluTanh => [rate(10, 2), rate(5, 4)][f16 as usize],
        UnaryOp::GeluErf => [rate(22, 1), rate(16, 1)][f16 as usize],
    }
}

/// Loop cost of a binary op on two blocks, out of place. Additions and products are "natural": one cycle and two of overhead a vector.
/// Gradients: `GeluTanhGrad` has the loop of `GeluTanh` (§3.7), `GeluErfGrad` adds an exponential and four products to `GeluErf`.
const fn binary_rate(op: BinaryOp, dtype: DType) -> Rate {
    let f16 = matches!(dtype, DType::F16);
    match op {
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul => [rate(3, 2), rate(3, 4)][f16 as usize],
        BinaryOp::Div => [rate(10, 2), rate(21, 4)][f16 as usize],
        BinaryOp::Max | BinaryOp::Min | BinaryOp::ReluGrad => {
            [rate(3, 2), rate(4, 4)][f16 as usize]
        }
        BinaryOp::GeluTanhGrad => [rate(10, 2), rate(5, 4)][f16 as usize],
        BinaryOp::GeluErfGrad => [rate(54, 2), rate(72, 4)][f16 as usize],
    }
}

/// Cycles of a unary op on `elements`, all workers, out of place: `W·(U + inner(p)) + 20`, U = 17 (33 for exp). mk2.md §3.6.
/// exp, f16, 3072 → 3,290.
pub fn unary(machine: &Machine, op: UnaryOp, dtype: DType, elements: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    let share = elements.div_ceil(workers);
    let setup = match op {
        UnaryOp::Exp | UnaryOp::Expm1 => 33,
        _ => 17,
    };
    workers * (setup + unary_rate(op, dtype).cycles(share)) + 20
}

/// Cycles of a binary op on two blocks of `elements`, all workers, out of place: `W·(B + inner(p)) + 11`, B = 26 (f16), 29 (f32). mk2.md §3.6.
/// add, f16, 3072 → 2,471.
pub fn binary(machine: &Machine, op: BinaryOp, dtype: DType, elements: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    let share = elements.div_ceil(workers);
    let setup = if matches!(dtype, DType::F16) { 26 } else { 29 };
    workers * (setup + binary_rate(op, dtype).cycles(share)) + 11
}

/// Cycles of a binary op between a block of `elements` and one number: `W·(20 + ⌈p/V⌉·(1 + o)) + 11`, o = 1 for add, sub, mul, 4 for
/// others; never below the op's own loop. mk2.md §3.6.
pub fn binary_scalar(machine: &Machine, op: BinaryOp, dtype: DType, elements: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    let share = elements.div_ceil(workers);
    let natural = matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul);
    let cycles = if natural {
        share.div_ceil(vector(dtype)) * 2
    } else {
        let at_least = share.div_ceil(vector(dtype)) * 5;
        at_least.max(binary_rate(op, dtype).cycles(share))
    };
    workers * (20 + cycles) + 11
}

/// Cycles of an elementwise expression. One op alone has its own formula; else
/// `W·(30 + ⌈p/V⌉·(loads + stores + Σ op cycles a vector))`, additions and products 1 each, operands of one element loaded once (est).
pub fn map(machine: &Machine, expr: &MapExpr, inputs: &[BlockShape], out: &BlockShape) -> Cycles {
    let elements = out.elements();
    let whole = |i: u32| {
        inputs
            .get(i as usize)
            .is_some_and(|b| b.elements() == elements)
    };
    let single = |i: u32| inputs.get(i as usize).is_some_and(|b| b.elements() == 1);
    match *expr.nodes.as_slice() {
        [MapNode::Operand(0), MapNode::Unary(op, 0)] if whole(0) => {
            return unary(machine, op, out.dtype, elements);
        }
        [
            MapNode::Operand(i),
            MapNode::Operand(j),
            MapNode::Binary(op, _, _),
        ] if whole(i) && whole(j) => {
            return binary(machine, op, out.dtype, elements);
        }
        [
            MapNode::Operand(i),
            MapNode::Operand(j),
            MapNode::Binary(op, _, _),
        ] if (whole(i) && single(j)) || (single(i) && whole(j)) => {
            return binary_scalar(machine, op, out.dtype, elements);
        }
        _ => {}
    }
    let workers = u64::from(machine.workers);
    let vectors = elements.div_ceil(workers).div_ceil(vector(out.dtype));
    let body: u64 = expr
        .nodes
        .iter()
        .map(|node| node_cycles(node, inputs, out.dtype))
        .sum();
    let cycles = (body + expr.outputs.len() as u64) * MAP_SIXTEENTHS;
    workers * (MAP_OVERHEAD + (vectors * cycles).div_ceil(16))
}

/// Cycles of one node of an expression for a vector in registers.
fn node_cycles(node: &MapNode, inputs: &[BlockShape], dtype: DType) -> u64 {
    let v = vector(dtype);
    match *node {
        MapNode::Operand(i) => {
            let loaded_once = inputs.get(i as usize).is_none_or(|b| b.elements() == 1);
            u64::from(!loaded_once)
        }
        MapNode::Constant(_) => 0,
        MapNode::Unary(UnaryOp::Square | UnaryOp::Neg | UnaryOp::Abs, _) => 1,
        MapNode::Unary(op, _) => unary_rate(op, dtype).of_vector(v),
        MapNode::Binary(BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul, _, _) => 1,
        MapNode::Binary(op, _, _) => binary_rate(op, dtype).of_vector(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Real, Shape};

    fn block(dtype: DType, n: usize) -> BlockShape {
        BlockShape {
            dtype,
            shape: Shape::new(&[n]),
        }
    }

    #[test]
    fn single_ops_have_the_published_check_values() {
        let mk2 = Machine::mk2();
        let x = block(DType::F16, 3072);
        let inputs = [x.clone(), x.clone()];
        let exp = MapExpr::unary(UnaryOp::Exp);
        assert_eq!(map(&mk2, &exp, &inputs[..1], &x), 3_290);
        let add = MapExpr::binary(BinaryOp::Add);
        assert_eq!(map(&mk2, &add, &inputs, &x), 2_471);
        let y = block(DType::F32, 3072);
        assert_eq!(map(&mk2, &add, &[y.clone(), y.clone()], &y), 4_793);
        // One number: 6·(20 + 256·2) + 11.
        assert_eq!(
            map(&mk2, &add, &[y.clone(), block(DType::F32, 1)], &y),
            3_203
        );
    }

    #[test]
    fn an_expression_is_the_sum_of_its_parts() {
        // (x + y)·2: two loads, a store, two arithmetic instructions a vector of two.
        let expr = MapExpr {
            operands: 2,
            nodes: vec![
                MapNode::Operand(0),
                MapNode::Operand(1),
                MapNode::Binary(BinaryOp::Add, 0, 1),
                MapNode::Constant(Real(2.0)),
                MapNode::Binary(BinaryOp::Mul, 2, 3),
            ],
            outputs: vec![4],
        };
        let x = block(DType::F32, 1200);
        let cycles = map(&Machine::mk2(), &expr, &[x.clone(), x.clone()], &x);
        assert_eq!(cycles, 6 * (30 + 100 * 5));
        // A scalar operand is loaded once.
        let scalar = map(
            &Machine::mk2(),
            &expr,
            &[x.clone(), block(DType::F32, 1)],
            &x,
        );
        assert_eq!(scalar, 6 * (30 + 100 * 4));
    }
}
