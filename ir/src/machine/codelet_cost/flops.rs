//! Arithmetic of a vertex: what would be left of its cycles if its unit always worked at its peak.

use super::super::Machine;
use super::{BlockShape, table};
use crate::op::MapNode;
use crate::program::Codelet;

/// Floating-point operations of one vertex; a multiply-add counts 2, a function 1. Rows of layer norm, softmax and the gradient of the loss
/// count 5 an element, as graph ops do. Of the rows that are added to a table, those that typical text has for the fullest tile.
pub fn vertex_flops(
    machine: &Machine,
    codelet: &Codelet,
    inputs: &[BlockShape],
    outputs: &[BlockShape],
) -> u64 {
    let (Some(x), Some(out)) = (inputs.first(), outputs.first()) else {
        return 0;
    };
    if out.elements() == 0 {
        return 0;
    }
    match codelet {
        Codelet::Matmul { .. } => {
            let rows = match out.shape.dims() {
                [.., rows, _] => *rows as u64,
                _ => 1,
            };
            let groups = out.elements() / (rows * out.shape.last() as u64);
            2 * out.elements() * (x.elements() / (groups * rows))
        }
        Codelet::Map(expr) => {
            let is_work = |n: &&MapNode| matches!(n, MapNode::Unary(..) | MapNode::Binary(..));
            out.elements() * expr.nodes.iter().filter(is_work).count() as u64
        }
        Codelet::Reduce { .. } | Codelet::SumPartials { .. } => x.elements(),
        Codelet::LayerNorm { .. }
        | Codelet::LayerNormGrad
        | Codelet::Softmax { .. }
        | Codelet::SoftmaxGrad { .. }
        | Codelet::CrossEntropyGrad { .. } => 5 * x.elements(),
        Codelet::LayerNormParamGrad | Codelet::RowMaxSum { .. } | Codelet::JoinLogSumExp => {
            4 * x.elements()
        }
        Codelet::RowLoss => x.elements() + out.elements(),
        Codelet::ScatterAdd { first } => {
            let (entries, columns) = out.rows_and_columns();
            columns * table::hits(machine, x.elements(), entries, u64::from(*first))
        }
        Codelet::Dropout { .. } | Codelet::Cast => out.elements(),
        Codelet::Fill { .. }
        | Codelet::CausalMask
        | Codelet::MaskBeyond
        | Codelet::WriteRows
        | Codelet::PickLabel { .. }
        | Codelet::Gather { .. }
        | Codelet::Transpose
        | Codelet::Stash
        | Codelet::Restore
        | Codelet::Advance => 0,
    }
}
