//! What an op costs, for choosing among equal terms: modelled element sweeps, rounded up to whole numbers.
//!
//! The unit is one element read and written by a cheap vector instruction. It only has to rank alternatives: what the tile
//! program really costs is known after planning.

use superstep_ir::op::{BinaryOp, MapNode, Op, UnaryOp};
use superstep_ir::types::TensorType;

/// A compute set, its sync and the exchange before it cost about as much as this many elements, however small the op.
const PER_OP: u64 = 256;

/// Multiply-adds the matrix unit does in the time of one element.
const MATMUL_SPEEDUP: u64 = 32;

/// Modelled cost of one op; 0 for sources.
pub(super) fn op_cost(op: &Op, operands: &[&TensorType], results: &[TensorType]) -> u64 {
    let elements = |ty: &TensorType| ty.shape.elements() as u64;
    let out = results.first().map_or(0, elements);
    let largest_operand = operands.iter().map(|ty| elements(ty)).max().unwrap_or(0);
    // Reading operands counts half as much as computing and writing a result.
    let reads: u64 = operands.iter().map(|ty| elements(ty)).sum::<u64>() / 2;
    match op {
        Op::Parameter { .. } | Op::Input { .. } | Op::Assign { .. } | Op::Output { .. } => 0,
        // Splats become literals of the vertices that read them.
        Op::Constant { .. } => 1,
        // A new name for the same bytes; a reader may still want them elsewhere.
        Op::Reshape { .. } | Op::Slice { .. } => PER_OP / 4 + out / 8,
        Op::Transpose { .. } | Op::Concat { .. } | Op::Broadcast { .. } => PER_OP + 2 * out,
        Op::Matmul {
            transpose_a,
            transpose_b,
            ..
        } => {
            let turned = |flag: bool, i: usize| if flag { elements(operands[i]) / 4 } else { 0 };
            let depth = matmul_depth(operands[0], *transpose_a);
            PER_OP
                + (out * depth).div_ceil(MATMUL_SPEEDUP)
                + turned(*transpose_a, 0)
                + turned(*transpose_b, 1)
                + reads
        }
        Op::Unary(u) => PER_OP + reads + out * unary_weight(*u),
        Op::Binary(b) => PER_OP + reads + out * binary_weight(*b),
        Op::Map(expr) => {
            let weight = |node: &MapNode| match node {
                MapNode::Operand(_) | MapNode::Constant(_) => 0,
                MapNode::Unary(u, _) => unary_weight(*u),
                MapNode::Binary(b, ..) => binary_weight(*b),
            };
            PER_OP + reads + out * expr.nodes.iter().map(weight).sum::<u64>()
        }
        Op::Cast { .. } | Op::CausalMask | Op::MaskBeyond => PER_OP + reads + out,
        Op::Dropout { .. } => PER_OP + reads + 4 * out,
        Op::Softmax { .. } | Op::SoftmaxGrad { .. } | Op::CrossEntropyGrad { .. } => {
            PER_OP + reads + 6 * out
        }
        Op::LayerNorm { .. } | Op::LayerNormGrad => PER_OP + reads + 4 * out,
        Op::LayerNormParamGrad | Op::CrossEntropy { .. } | Op::Reduce { .. } => {
            PER_OP + reads + 2 * largest_operand
        }
        Op::Gather { .. } | Op::ScatterAdd { .. } | Op::WriteRows => PER_OP + reads + out,
        // They cross links, and as many times as the graph says.
        Op::AllReduce | Op::ReduceScatter | Op::Shard | Op::AllGather { .. } => {
            4 * PER_OP + reads + 8 * out
        }
    }
}

fn matmul_depth(a: &TensorType, transposed: bool) -> u64 {
    let rank = a.shape.rank();
    a.shape[rank - if transposed { 2 } else { 1 }] as u64
}

fn unary_weight(op: UnaryOp) -> u64 {
    match op {
        UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Relu | UnaryOp::Square => 1,
        UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Reciprocal => 3,
        UnaryOp::Exp | UnaryOp::Expm1 | UnaryOp::Log | UnaryOp::Tanh => 4,
        UnaryOp::GeluTanh | UnaryOp::GeluErf => 8,
    }
}

fn binary_weight(op: BinaryOp) -> u64 {
    match op {
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Max | BinaryOp::Min => 1,
        BinaryOp::ReluGrad => 1,
        BinaryOp::Div => 3,
        BinaryOp::GeluTanhGrad | BinaryOp::GeluErfGrad => 10,
    }
}
