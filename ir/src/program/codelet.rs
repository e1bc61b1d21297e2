//! Codelets: what one vertex computes on the blocks of its tile. The contract between planner, cost model and runtime.
//!
//! A codelet sees blocks as dense row-major arrays with their own extents. Inputs and outputs are in the order documented here.
//! Extents that a codelet combines must agree on every tile; the program verifier checks it.
//!
//! `r` rows and `c` columns mean: `c` is the last extent, `r` the product of all others (so `[.., r, c]` blocks of any rank will do, with row
//! vectors `[r]` of as many elements). Leading extents of 1 do not matter anywhere.
//!
//! Storage decides element types: a float operand, input or output, may be f32 or f16, each by itself. Loads widen f16 to f32, which is
//! exact; all arithmetic and every chain of sums is f32; a store to f16 rounds once, to nearest even, or stochastically where the program
//! says so. What is added onto an f16 output is widened first. Infinities and NaN pass as IEEE 754 has them. The two operands of a product
//! have the same type: f16 operands with an f16 output are the matrix unit's f16.16, with an f32 output f16.32.

use serde::{Deserialize, Serialize};

use crate::op::{MapExpr, ReduceKind};
use crate::types::Real;

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Codelet {
    /// `(a, b) → out[.., m, n] = a·b`, or with `accumulate` `out += a·b` (then `out` is also read).
    /// `a: [.., m, k]`, or `[.., k, m]` with `transpose_a`; `b: [.., k, n]`, or `[.., n, k]` with `transpose_b`. Leading extents are a
    /// batch. Each output element is one chain of fused multiply-adds over `k`, ascending, that starts from 0 (or from the old `out`).
    /// A transposed operand is turned coefficient block by coefficient block on its way into the matrix unit: it costs the cycles of a
    /// transpose of the operand, but no memory.
    Matmul {
        transpose_a: bool,
        transpose_b: bool,
        accumulate: bool,
    },
    /// `(operands…) → outputs…`: an elementwise expression; operand blocks broadcast as scalar or trailing axes to the output block
    /// (which may be larger than every operand).
    Map(MapExpr),
    /// `() → out`: every element becomes `value`.
    Fill { value: Real },
    /// `(x: [p, ..rest]) → [..rest]`: reduces in ascending order; `p` is the number of elements of `x` over that of the output.
    Reduce { kind: ReduceKind },
    /// `(x: [p, ..rest]) → [..rest]`: partial results of a product added up. The chain starts from the first and goes on in ascending
    /// order; with `accumulate` the sum is then added to the old output.
    SumPartials { accumulate: bool },
    /// `(x: [r, c], scale: [c], shift: [c]) → (y: [r, c], mean: [r], rstd: [r])`.
    LayerNorm { epsilon: Real },
    /// `(g: [r, c], x: [r, c], scale: [c], mean: [r], rstd: [r]) → dx: [r, c]`.
    LayerNormGrad,
    /// `(g: [r, c], x: [r, c], mean: [r], rstd: [r]) → (dscale: [1, c], dshift: [1, c])`: sums over this tile's rows.
    LayerNormParamGrad,
    /// `(x: [.., r, c]) → [.., r, c]` with whole rows of all `c` columns on the tile. With `causal`, column `j` counts when
    /// `j ≤ row`, where `row` is the row's index in the whole tensor (second-last dimension).
    Softmax { scale: Real, causal: bool },
    /// `(x: [.., r, c]) → [.., r, c]`: `−∞` where the column index exceeds the row index in the whole tensor.
    CausalMask,
    /// `(x: [n, .., c], last: i32[n]) → [n, .., c]`: `−∞` where the column index in the whole tensor exceeds `last` of the leading index.
    MaskBeyond,
    /// `(p, g: [.., r, c]) → [.., r, c]`, whole rows.
    SoftmaxGrad { scale: Real },
    /// `(logits: [r, c]) → (max: [1, r], sum: [1, r])`: maximum and `Σ e^(x − max)` of this tile's part of each row, without the last
    /// `padding` columns of the whole tensor; `(−∞, 0)` of no column.
    RowMaxSum { padding: u32 },
    /// `(max: [p, r], sum: [p, r]) → logsumexp: [r]`: joins the parts of `p` tiles, ascending.
    JoinLogSumExp,
    /// `(logits: [r, c], labels: i32[r]) → picked: [1, r]`: the logit of the row's label if the label falls into this tile's columns, else 0;
    /// labels count from `first`.
    PickLabel { first: u32 },
    /// `(picked: [p, r], logsumexp: [r], labels: i32[r]) → loss: [r]`: `logsumexp − Σ picked`, 0 where the label is negative.
    RowLoss,
    /// `(logits: [r, c], labels: i32[r], logsumexp: [r], g: [r]) → [r, c]`; columns count from the block's first column in the whole tensor,
    /// labels from `first`; 0 in the last `padding` columns of the whole tensor.
    CrossEntropyGrad { first: u32, padding: u32 },
    /// `(table: [v, d], ids: i32[n]) → [1, n, d]`: rows of ids that fall into this tile's entries, other rows 0; ids count from `first`.
    Gather { first: u32 },
    /// `(ids: i32[n], updates: [n, d]) → table: [v, d]` in place: adds the rows whose id falls into this tile's entries, in order;
    /// ids count from `first`.
    ScatterAdd { first: u32 },
    /// `(first: i32[n], rows: [n, r, d]) → base: [n, s, d]` in place: row `first + j` of the whole tensor's matrix becomes row `j`, if it
    /// falls into this tile's rows.
    WriteRows,
    /// `(x, seed: u32[2]) → y`: inverted dropout; the mask is a function of seed, key and the element's index in the whole tensor.
    Dropout { p: Real, key: u32 },
    /// `(x: [.., r, c]) → [.., c, r]`: every matrix turned.
    Transpose,
    /// `(x) → y`: element type conversion, to nearest even.
    Cast,
    /// `(count: u32[1], x: [..]) → ring: [d, ..]` in place: entry `count mod d` becomes `x`.
    Stash,
    /// `(count: u32[1], ring: [d, ..]) → x: [..]`: entry `count mod d`.
    Restore,
    /// `() → count: u32[1]` in place: one more.
    Advance,
}

impl Codelet {
    pub const fn name(&self) -> &'static str {
        match self {
            Codelet::Matmul { .. } => "amp_matmul",
            Codelet::Map(_) => "map",
            Codelet::Fill { .. } => "fill",
            Codelet::Reduce { .. } => "reduce",
            Codelet::SumPartials { .. } => "sum_partials",
            Codelet::LayerNorm { .. } => "layer_norm",
            Codelet::LayerNormGrad => "layer_norm_grad",
            Codelet::LayerNormParamGrad => "layer_norm_param_grad",
            Codelet::Softmax { .. } => "softmax",
            Codelet::CausalMask => "causal_mask",
            Codelet::MaskBeyond => "mask_beyond",
            Codelet::SoftmaxGrad { .. } => "softmax_grad",
            Codelet::RowMaxSum { .. } => "row_max_sum",
            Codelet::JoinLogSumExp => "join_logsumexp",
            Codelet::PickLabel { .. } => "pick_label",
            Codelet::RowLoss => "row_loss",
            Codelet::CrossEntropyGrad { .. } => "cross_entropy_grad",
            Codelet::Gather { .. } => "gather",
            Codelet::ScatterAdd { .. } => "scatter_add",
            Codelet::WriteRows => "write_rows",
            Codelet::Dropout { .. } => "dropout",
            Codelet::Transpose => "transpose",
            Codelet::Cast => "cast",
            Codelet::Stash => "stash",
            Codelet::Restore => "restore",
            Codelet::Advance => "advance",
        }
    }

    /// True when the codelet also reads what its outputs held before.
    pub const fn reads_output(&self) -> bool {
        matches!(
            self,
            Codelet::Matmul {
                accumulate: true,
                ..
            } | Codelet::SumPartials { accumulate: true }
                | Codelet::ScatterAdd { .. }
                | Codelet::WriteRows
                | Codelet::Stash
                | Codelet::Advance
        )
    }

    /// True when an output block may lie exactly on an input block of the same extents and element type.
    pub const fn may_run_in_place(&self) -> bool {
        matches!(
            self,
            Codelet::Map(_)
                | Codelet::Softmax { .. }
                | Codelet::CausalMask
                | Codelet::MaskBeyond
                | Codelet::SoftmaxGrad { .. }
                | Codelet::CrossEntropyGrad { .. }
                | Codelet::Dropout { .. }
        )
    }
}
