//! Cycles of one vertex, from the blocks it works on: one file a family of codelets, one formula a codelet.
//!
//! The formulae are those of PopLibs' cycle estimators where they are public (mk2.md §3). Notation: `W` worker contexts; a worker
//! issues once in `W` tile cycles, so a vertex lasts `W` times the cycles of its slowest worker (*wc*, worker cycles); `V` elements of a
//! 64-bit vector (4 f16, 2 f32). Timing never depends on values. Nothing here allocates: planners call it millions of times.

pub mod data;
pub mod elementwise;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod reduce;
pub mod softmax;
pub mod table;
pub mod transpose;

use super::Machine;
use crate::program::Codelet;
use crate::types::{DType, Shape};
use crate::units::Cycles;

/// Extents and element type of one operand block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockShape {
    pub dtype: DType,
    pub shape: Shape,
}

impl BlockShape {
    fn elements(&self) -> u64 {
        self.shape.elements() as u64
    }

    /// Rows and columns: the last extent is the columns, the rest rows.
    fn rows_and_columns(&self) -> (u64, u64) {
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
    let Some(out) = outputs.first() else {
        return 0;
    };
    let Some(x) = inputs.first() else {
        return match codelet {
            Codelet::Fill { .. } | Codelet::Map(_) => {
                data::fill(machine, out.dtype, out.elements())
            }
            _ => 0,
        };
    };
    if out.elements() == 0 || x.elements() == 0 {
        return 0;
    }
    match codelet {
        Codelet::Matmul {
            transpose_a,
            transpose_b,
            accumulate,
        } => {
            let transposed = [*transpose_a, *transpose_b];
            matmul::cycles(machine, x, out, transposed, *accumulate)
        }
        Codelet::Map(expr) => elementwise::map(machine, expr, inputs, out),
        Codelet::Fill { .. } => data::fill(machine, out.dtype, out.elements()),
        Codelet::Cast => data::cast(machine, x.dtype, out.dtype, out.elements()),
        Codelet::Dropout { .. } => data::dropout(machine, out.dtype, out.elements()),
        Codelet::Reduce { accumulate, .. } => {
            let partials = x.elements() / out.elements() + u64::from(*accumulate);
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
) -> Cycles {
    let x = &inputs[0];
    let (rows, columns) = x.rows_and_columns();
    let share = Share::of(machine, x.dtype, rows, columns);
    match codelet {
        Codelet::LayerNorm { .. } => norm::layer_norm(machine, &share),
        Codelet::LayerNormGrad => norm::layer_norm_grad(machine, &share),
        Codelet::LayerNormParamGrad => norm::layer_norm_param_grad(machine, x.dtype, rows, columns),
        Codelet::Softmax { .. } => softmax::softmax(machine, &share),
        Codelet::SoftmaxGrad { .. } => softmax::softmax_grad(machine, &share),
        Codelet::CausalMask => data::mask(machine, x.dtype, x.elements()),
        Codelet::RowMaxSum => softmax::row_max_sum(machine, &share),
        Codelet::CrossEntropyGrad => loss::cross_entropy_grad(machine, &share),
        Codelet::JoinLogSumExp => {
            let parts = x.elements() / out.elements();
            loss::join_logsumexp(machine, x.dtype, parts, out.elements())
        }
        Codelet::PickLabel => loss::pick_label(machine, rows),
        Codelet::RowLoss => loss::row_loss(machine, x.elements() / out.elements(), out.elements()),
        Codelet::Gather => {
            let ids = inputs.get(1).map_or(0, BlockShape::elements);
            table::gather(machine, ids, columns)
        }
        Codelet::ScatterAdd => {
            let columns = inputs.get(1).map_or(0, |u| u.shape.last() as u64);
            table::scatter_add(machine, out.dtype, x.elements(), columns)
        }
        _ => 0,
    }
}

/// Elements of a 64-bit vector: 4 of 16 bits, 2 of 32.
const fn vector(dtype: DType) -> u64 {
    8 / dtype.bytes() as u64
}

/// What the busiest worker gets of a block of rows: whole rows when there are enough, else a part of one row.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub dtype: DType,
    pub rows: u64,
    /// 64-bit vectors of each row.
    pub vectors: u64,
}

impl Share {
    fn of(machine: &Machine, dtype: DType, rows: u64, columns: u64) -> Share {
        let workers = u64::from(machine.workers);
        let columns = if rows < workers {
            columns.div_ceil(workers / rows.max(1))
        } else {
            columns
        };
        Share {
            dtype,
            rows: rows.div_ceil(workers),
            vectors: columns.div_ceil(vector(dtype)),
        }
    }

    /// Worker cycles to reduce each row to one number: `17 + R·(12 + ⌈m/V⌉)` (PopLibs, continuous reduction; mk2.md §3.8).
    fn reduce_rows(&self) -> u64 {
        17 + self.rows * (12 + self.vectors)
    }

    /// Worker cycles of one elementwise op between the rows and a vector or a number for each row: `15 + R·(7 + 2·⌈C/V⌉)`
    /// (PopLibs, broadcast vector; mk2.md §3.6).
    fn broadcast(&self) -> u64 {
        15 + self.rows * (7 + 2 * self.vectors)
    }

    /// Worker cycles of an elementwise op between two blocks, or in place: 3 a vector and 7 a row.
    fn binary(&self) -> u64 {
        15 + self.rows * (7 + 3 * self.vectors)
    }

    /// Worker cycles of an elementwise function of `cycles` a vector.
    fn function(&self, cycles: u64) -> u64 {
        17 + self.rows * self.vectors * cycles
    }
}

#[cfg(test)]
mod tests;
