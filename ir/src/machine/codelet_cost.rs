//! Cycles of one vertex, from the blocks it works on: one file a family of codelets, one formula a codelet.
//!
//! The formulae are those of PopLibs' cycle estimators where they are public (mk2.md §3). Notation: `W` worker contexts; a worker
//! issues once in `W` tile cycles, so a vertex lasts `W` times the cycles of its slowest worker (*wc*, worker cycles); `V` elements of a
//! 64-bit vector (4 f16, 2 f32). Timing never depends on values. Nothing here allocates: planners call it millions of times.

pub mod data;
pub mod elementwise;
mod flops;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod reduce;
mod share;
pub mod softmax;
mod spent;
pub mod table;
pub mod transpose;

use super::Machine;
use crate::program::Codelet;
use crate::types::{DType, Shape};
use crate::units::Cycles;
use share::{Vectors, vector};
use spent::Work;

pub use flops::vertex_flops;
pub use share::Share;
pub use spent::{Causes, Spent, VertexAccount};

/// Extents and element type of one operand block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockShape {
    pub dtype: DType,
    pub shape: Shape,
}

impl BlockShape {
    pub(crate) fn elements(&self) -> u64 {
        self.shape.elements() as u64
    }

    /// Bytes in tile memory.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.dtype.bytes() as u64
    }

    /// Rows and columns: the last extent is the columns, the rest rows.
    pub(crate) fn rows_and_columns(&self) -> (u64, u64) {
        let columns = self.shape.last() as u64;
        (self.elements().checked_div(columns).unwrap_or(0), columns)
    }
}

/// Tile cycles of one vertex alone on its tile, using all worker contexts. Operands in the order of [`Codelet`].
/// An empty block, or operands fewer than the codelet documents, cost nothing.
pub fn vertex_cycles(
    machine: &Machine,
    codelet: &Codelet,
    inputs: &[BlockShape],
    outputs: &[BlockShape],
) -> Cycles {
    match (codelet, inputs, outputs) {
        (Codelet::Matmul { .. }, [a, ..], [out, ..]) => {
            matmul::cycles(machine, codelet, a, out).unwrap_or(0)
        }
        _ => vector_codelet(machine, codelet, inputs, outputs).cycles,
    }
}

/// The cycles of [`vertex_cycles`] by cause.
pub fn vertex_account(
    machine: &Machine,
    codelet: &Codelet,
    inputs: &[BlockShape],
    outputs: &[BlockShape],
) -> VertexAccount {
    match (codelet, inputs, outputs) {
        (Codelet::Matmul { .. }, [a, ..], [out, ..]) => matmul::account(machine, codelet, a, out),
        _ => {
            let spent = vector_codelet(machine, codelet, inputs, outputs);
            let flops = vertex_flops(machine, codelet, inputs, outputs);
            let dtype = outputs.first().map_or(DType::F32, |out| out.dtype);
            VertexAccount::vector(spent, flops as f64 / vector_flops(dtype) as f64)
        }
    }
}

/// Floating-point operations of the vector unit in a tile cycle, a multiply-add on every element of a 64-bit vector: 8 f16, 4 f32
/// (mk2.md §1.2).
pub const fn vector_flops(dtype: DType) -> u64 {
    2 * vector(dtype)
}

/// Everything but products.
fn vector_codelet(
    machine: &Machine,
    codelet: &Codelet,
    inputs: &[BlockShape],
    outputs: &[BlockShape],
) -> Spent {
    let Some(out) = outputs.first() else {
        return Spent::default();
    };
    let Some(x) = inputs.first() else {
        return match codelet {
            Codelet::Fill { .. } | Codelet::Map(_) | Codelet::Advance => {
                data::fill(machine, out.dtype, out.elements())
            }
            _ => Spent::default(),
        };
    };
    if out.elements() == 0 || x.elements() == 0 {
        return Spent::default();
    }
    match codelet {
        Codelet::Map(expr) => elementwise::map(machine, expr, inputs, outputs),
        Codelet::Fill { .. } => data::fill(machine, out.dtype, out.elements()),
        Codelet::Transpose => {
            let (rows, columns) = out.rows_and_columns();
            let groups = turned_groups(x, rows, columns);
            transpose::transpose(machine, x.dtype, groups, rows / groups, columns)
        }
        Codelet::Cast => data::cast(machine, x.dtype, out.dtype, out.elements()),
        Codelet::WriteRows => inputs.get(1).map_or_else(Spent::default, |rows| {
            table::write_rows(machine, rows.dtype, x.elements(), rows.elements())
        }),
        Codelet::Stash => inputs.get(1).map_or_else(Spent::default, |entry| {
            table::dynamic_slice(machine, entry.dtype, entry.elements())
        }),
        Codelet::Restore => table::dynamic_slice(machine, out.dtype, out.elements()),
        Codelet::Dropout { .. } => data::dropout(machine, out.dtype, out.elements()),
        Codelet::Reduce { .. } | Codelet::SumPartials { .. } => {
            let partials = x.elements() / out.elements() + u64::from(codelet.reads_output());
            reduce::reduce(machine, [x.dtype, out.dtype], out.elements(), partials)
        }
        _ => row_codelet(machine, codelet, inputs, out),
    }
}

/// The codelets that work on rows of a block.
fn row_codelet(
    machine: &Machine,
    codelet: &Codelet,
    inputs: &[BlockShape],
    out: &BlockShape,
) -> Spent {
    let x = &inputs[0];
    let (rows, columns) = x.rows_and_columns();
    let by_rows =
        |cost: &dyn Fn(&Share) -> Spent| Share::least(machine, x.dtype, rows, columns, cost);
    match codelet {
        Codelet::LayerNorm { .. } => by_rows(&|share| norm::layer_norm(machine, share)),
        Codelet::LayerNormGrad => by_rows(&|share| norm::layer_norm_grad(machine, share)),
        Codelet::LayerNormParamGrad => norm::layer_norm_param_grad(machine, x.dtype, rows, columns),
        Codelet::Softmax { .. } => by_rows(&|share| softmax::softmax(machine, share)),
        Codelet::SoftmaxGrad { .. } => by_rows(&|share| softmax::softmax_grad(machine, share)),
        Codelet::CausalMask | Codelet::MaskBeyond => data::mask(machine, x.dtype, x.elements()),
        Codelet::RowMaxSum { .. } => by_rows(&|share| softmax::row_max_sum(machine, share)),
        Codelet::CrossEntropyGrad { .. } => {
            by_rows(&|share| loss::cross_entropy_grad(machine, rows, share))
        }
        Codelet::JoinLogSumExp => {
            let parts = x.elements() / out.elements();
            loss::join_logsumexp(machine, x.dtype, parts, out.elements())
        }
        Codelet::PickLabel { .. } => loss::pick_label(machine, rows),
        Codelet::RowLoss => loss::row_loss(machine, x.elements() / out.elements(), out.elements()),
        Codelet::Gather { first } => {
            let ids = inputs.get(1).map_or(0, BlockShape::elements);
            let hits = table::hits(machine, ids, rows, u64::from(*first));
            table::gather(machine, x.dtype, ids, hits, columns)
        }
        Codelet::ScatterAdd { first } => {
            let (ids, (entries, columns)) = (x.elements(), out.rows_and_columns());
            let hits = table::hits(machine, ids, entries, u64::from(*first));
            table::scatter_add(machine, out.dtype, ids, hits, columns)
        }
        _ => Spent::default(),
    }
}

/// Matrices that a transpose turns: the rows of the output are those of all matrices together.
fn turned_groups(x: &BlockShape, rows: u64, columns: u64) -> u64 {
    let each = x.shape.last() as u64 * columns;
    (rows * columns).checked_div(each).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests;
