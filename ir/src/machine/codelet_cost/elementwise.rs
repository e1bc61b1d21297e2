//! `map`: elementwise expressions. A single op has its own estimator in PopLibs; a whole expression is summed up (mk2.md §3.6).

use super::super::Machine;
use super::super::calibration::MAP_OVERHEAD;
use super::{BlockShape, Spent, Vectors, Work, vector};
use crate::op::{BinaryOp, MapExpr, MapNode, UnaryOp};
use crate::types::DType;

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
    /// The loop over a tile's elements with `fixed` worker cycles around it.
    fn work(self, machine: &Machine, fixed: u64, elements: u64) -> Work {
        let Vectors { busiest, even } = Vectors::of(machine, self.per, elements);
        Work::units(fixed, busiest, even, self.cycles)
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

/// Whether the result of an op takes the place of an operand. PopLibs has kernels of their own for that; ours are the same code with
/// equal pointers, so only the check values ask for `Yes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    Yes,
    No,
}

/// Cycles of a unary op on `elements`, all workers: `W·(U + inner(p)) + 20`, U = 17 (33 for exp), 55 in place. mk2.md §3.6.
/// exp, f16, 3072 → 3,290.
pub fn unary(machine: &Machine, op: UnaryOp, place: InPlace, dtype: DType, elements: u64) -> Spent {
    match op {
        UnaryOp::GeluTanh => return gelu_tanh(machine, dtype, elements),
        UnaryOp::Abs if place == InPlace::No => {
            let one_more = unary_rate(op, dtype).work(machine, 17 + 1, elements);
            return one_more.vertex(machine, 20);
        }
        _ => {}
    }
    let setup = match (place, op) {
        (InPlace::Yes, _) => 55,
        (InPlace::No, UnaryOp::Exp | UnaryOp::Expm1) => 33,
        (InPlace::No, _) => 17,
    };
    unary_rate(op, dtype)
        .work(machine, setup, elements)
        .vertex(machine, 20)
}

/// Cycles of GELU by its tanh form: `9 + W·(23 + 2 + op + (v − 1)·op + 1 + op + tail)`, op = 10 (f32) or 5 (f16) a vector, `v` vectors of the
/// busiest worker; the tail is 3, and 3 + op more when the elements are not whole vectors. mk2.md §3.7.
pub fn gelu_tanh(machine: &Machine, dtype: DType, elements: u64) -> Spent {
    let op = unary_rate(UnaryOp::GeluTanh, dtype).cycles;
    let Vectors { busiest, even } = Vectors::of_vectors(machine, vector(dtype), elements);
    let tail = if elements.is_multiple_of(vector(dtype)) {
        3
    } else {
        3 + 3 + op
    };
    Work::units(23 + 2 + 1 + op + tail, busiest, even, op).vertex(machine, 9)
}

/// Cycles of its gradient: `9 + W·(20 + 4 + (v − 1)·op + 1 + 4)`. mk2.md §3.7.
pub fn gelu_tanh_grad(machine: &Machine, dtype: DType, elements: u64) -> Spent {
    let op = unary_rate(UnaryOp::GeluTanh, dtype).cycles;
    let Vectors { busiest, even } = Vectors::of_vectors(machine, vector(dtype), elements);
    let others = Work {
        fixed: 20 + 4 + 1 + 4,
        busiest: busiest.saturating_sub(1) * op,
        even: (even - 1.0).max(0.0) * op as f64,
    };
    others.vertex(machine, 9)
}

/// Cycles of a binary op on two blocks of `elements`, all workers: `W·(B + inner(p)) + 11`, B = 26 (f16), 29 (f32), 58 in place.
/// mk2.md §3.6. add, f16, 3072 → 2,471, in place 2,663.
pub fn binary(
    machine: &Machine,
    op: BinaryOp,
    place: InPlace,
    dtype: DType,
    elements: u64,
) -> Spent {
    if op == BinaryOp::GeluTanhGrad {
        return gelu_tanh_grad(machine, dtype, elements);
    }
    let setup = match (place, dtype) {
        (InPlace::Yes, _) => 58,
        (InPlace::No, DType::F16) => 26,
        (InPlace::No, _) => 29,
    };
    binary_rate(op, dtype)
        .work(machine, setup, elements)
        .vertex(machine, 11)
}

/// Cycles of a binary op between a block of `elements` and one number: `W·(20 + ⌈p/V⌉·(1 + o)) + 11`, o = 1 for add, sub, mul, 4 for
/// others; never below the op's own loop. mk2.md §3.6.
pub fn binary_scalar(machine: &Machine, op: BinaryOp, dtype: DType, elements: u64) -> Spent {
    let v = vector(dtype);
    let each = if is_natural(op) {
        2
    } else {
        binary_rate(op, dtype).of_vector(v).max(5)
    };
    rate(each, v)
        .work(machine, 20, elements)
        .vertex(machine, 11)
}

/// Cycles of a binary op between `rows` rows and one vector of `columns`, a bias or a scale: `W·(19 + 17·R + R·⌈C/V⌉·(1 + o)) + 11` with
/// `R` rows of a worker. mk2.md §3.6.
pub fn binary_rows(
    machine: &Machine,
    op: BinaryOp,
    dtype: DType,
    rows: u64,
    columns: u64,
) -> Spent {
    let (v, workers) = (vector(dtype), u64::from(machine.workers));
    let each = if is_natural(op) {
        2
    } else {
        binary_rate(op, dtype).of_vector(v).max(5)
    };
    let row = |vectors: f64| 17.0 + vectors * each as f64;
    let work = Work {
        fixed: 19,
        busiest: rows.div_ceil(workers) * row(columns.div_ceil(v) as f64) as u64,
        even: rows as f64 / workers as f64 * row(columns as f64 / v as f64),
    };
    work.vertex(machine, 11)
}

/// Cycles of `x + b·y` with a number `b`: `57 + W·(18 + 6 + k·(vectors of a worker − 1))`, k = 3 when `y` has the type of the result, 4 when
/// it is narrower, 5 when it is wider. mk2.md §3.6 (PopLibs scaled addition).
pub fn scaled_add(machine: &Machine, [x, y]: [DType; 2], elements: u64) -> Spent {
    let each = match x.bytes().cmp(&y.bytes()) {
        std::cmp::Ordering::Equal => 3,
        std::cmp::Ordering::Greater => 4,
        std::cmp::Ordering::Less => 5,
    };
    let Vectors { busiest, even } = Vectors::of_vectors(machine, vector(x), elements);
    let work = Work {
        fixed: 18 + 6,
        busiest: busiest.saturating_sub(1) * each,
        even: (even - 1.0).max(0.0) * each as f64,
    };
    work.vertex(machine, 57)
}

const fn is_natural(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul)
}

/// Cycles of an elementwise expression. One op alone, or a scaled addition, has its own formula; else
/// `W·(30 + ⌈p/V⌉·(loads + stores + Σ op cycles a vector))`, additions and products 1 each, operands of one element loaded once (est).
/// Where element types meet, the wider one computes and every narrower load or store takes one conversion more.
pub fn map(
    machine: &Machine,
    expr: &MapExpr,
    inputs: &[BlockShape],
    outputs: &[BlockShape],
) -> Spent {
    let out = &outputs[0];
    if let Some(known) = single_op(machine, expr, inputs, out) {
        return known;
    }
    let dtype = computing_type(expr, inputs, outputs);
    let loops: u64 = expr
        .nodes
        .iter()
        .map(|node| node_cycles(node, inputs, dtype))
        .sum();
    let stores: u64 = (0..expr.outputs.len())
        .map(|i| 1 + conversion(outputs.get(i).unwrap_or(out).dtype, dtype))
        .sum();
    let cycles = (loops + stores) as f64 * machine.map_factor;
    let Vectors { busiest, even } = Vectors::of(machine, vector(dtype), out.elements());
    let work = Work {
        fixed: MAP_OVERHEAD,
        busiest: (busiest as f64 * cycles).ceil() as u64,
        even: even * cycles,
    };
    work.vertex(machine, 0)
}

/// The formula of an expression that PopLibs has a vertex for.
fn single_op(
    machine: &Machine,
    expr: &MapExpr,
    inputs: &[BlockShape],
    out: &BlockShape,
) -> Option<Spent> {
    use MapNode::{Binary, Constant, Operand, Unary};
    let elements = out.elements();
    let block = |i: u32| inputs.get(i as usize);
    let whole = |i: u32| block(i).is_some_and(|b| b.elements() == elements && b.dtype == out.dtype);
    let single = |i: u32| block(i).is_some_and(|b| b.elements() == 1);
    match *expr.nodes.as_slice() {
        [Operand(0), Unary(op, 0)] if whole(0) => {
            Some(unary(machine, op, InPlace::No, out.dtype, elements))
        }
        [Operand(i), Operand(j), Binary(op, _, _)] => {
            if whole(i) && whole(j) {
                Some(binary(machine, op, InPlace::No, out.dtype, elements))
            } else if (whole(i) && single(j)) || (single(i) && whole(j)) {
                Some(binary_scalar(machine, op, out.dtype, elements))
            } else {
                let columns = out.shape.last() as u64;
                let vector = |i: u32| block(i).is_some_and(|b| b.elements() == columns);
                let along = (whole(i) && vector(j)) || (vector(i) && whole(j));
                along.then(|| binary_rows(machine, op, out.dtype, elements / columns, columns))
            }
        }
        [
            Operand(i),
            Operand(j),
            Constant(_),
            Binary(BinaryOp::Mul, 1, 2),
            Binary(BinaryOp::Add, 0, 3),
        ] if whole(i) && block(j).is_some_and(|b| b.elements() == elements) => {
            let y = block(j).map_or(out.dtype, |b| b.dtype);
            Some(scaled_add(machine, [out.dtype, y], elements))
        }
        _ => None,
    }
}

/// f32 as soon as one whole operand or result is.
fn computing_type(expr: &MapExpr, inputs: &[BlockShape], outputs: &[BlockShape]) -> DType {
    let used = expr.nodes.iter().filter_map(|node| match node {
        MapNode::Operand(i) => inputs.get(*i as usize).filter(|b| b.elements() > 1),
        _ => None,
    });
    used.chain(outputs)
        .map(|b| b.dtype)
        .max_by_key(|d| d.bytes())
        .unwrap_or(DType::F32)
}

/// Cycles a vector to change between element types on the way from or to memory.
fn conversion(held: DType, computing: DType) -> u64 {
    u64::from(held.bytes() != computing.bytes())
}

/// Cycles of one node of an expression for a vector in registers.
fn node_cycles(node: &MapNode, inputs: &[BlockShape], dtype: DType) -> u64 {
    let v = vector(dtype);
    match *node {
        MapNode::Operand(i) => match inputs.get(i as usize) {
            Some(b) if b.elements() > 1 => 1 + conversion(b.dtype, dtype),
            _ => 0,
        },
        MapNode::Constant(_) => 0,
        MapNode::Unary(UnaryOp::Square | UnaryOp::Neg | UnaryOp::Abs, _) => 1,
        MapNode::Unary(op, _) => unary_rate(op, dtype).of_vector(v),
        MapNode::Binary(op, _, _) if is_natural(op) => 1,
        MapNode::Binary(op, _, _) => binary_rate(op, dtype).of_vector(v),
    }
}

#[cfg(test)]
mod tests;
