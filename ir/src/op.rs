//! The op set of the tensor graph: every op a person would draw, declared once with its meaning.
//!
//! Operands are listed in the order in which an op takes them. `infer.rs` gives result types, `interpret/` gives the meaning.

pub mod dropout;
pub mod infer;
pub mod map;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::types::{DType, Real, Shape, TensorType};
pub use map::{MapExpr, MapNode};

/// One argument, elementwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UnaryOp {
    Neg,
    Exp,
    /// `e^x - 1`, accurate near 0.
    Expm1,
    Log,
    Sqrt,
    /// `1 / √x`
    Rsqrt,
    /// `1 / x`
    Reciprocal,
    Square,
    Abs,
    Tanh,
    Relu,
    /// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`, Hugging Face's `gelu_new`.
    GeluTanh,
    /// `0.5 x (1 + erf(x/√2))`, Hugging Face's `gelu`.
    GeluErf,
}

/// Two arguments, elementwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    /// `(x, g) → g` where `x > 0`, else 0.
    ReluGrad,
    /// `(x, g) → g · d gelu_tanh(x)/dx`
    GeluTanhGrad,
    /// `(x, g) → g · d gelu_erf(x)/dx`
    GeluErfGrad,
}

/// How many values become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReduceKind {
    Sum,
    SumSquares,
    Max,
}

/// What a piece of state is for; decides its initial value, its report category and its fate in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StateKind {
    Weight,
    /// Gradient accumulator; zero at the start of every update period.
    Accumulator,
    /// Optimiser state (moments), zero at the start of training.
    OptimiserState,
    /// Step counter, zero at the start of training.
    Counter,
    /// Keys or values of earlier positions of a text, zero at the start of it.
    Cache,
}

impl StateKind {
    pub const ALL: [StateKind; 5] = [
        StateKind::Weight,
        StateKind::Accumulator,
        StateKind::OptimiserState,
        StateKind::Counter,
        StateKind::Cache,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            StateKind::Weight => "weight",
            StateKind::Accumulator => "accumulator",
            StateKind::OptimiserState => "optimiser_state",
            StateKind::Counter => "counter",
            StateKind::Cache => "cache",
        }
    }
}

/// What a node computes. Attributes are inside; operands and result types are in the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    // --- sources and sinks -------------------------------------------------------------------------------------
    /// A tensor filled with one value. `()`
    Constant {
        value: Real,
        ty: TensorType,
    },
    /// The value of a piece of state when the graph starts to run. At most one per state and graph. `()`
    Parameter {
        state: String,
        kind: StateKind,
        ty: TensorType,
        /// It rests in streaming memory, and is on tiles only while the graph works on it.
        remote: bool,
    },
    /// The value a piece of state takes when the graph has run. `(value)`, no result. At most one per state and graph.
    Assign {
        state: String,
    },
    /// A tensor streamed in from the host. `()`
    Input {
        stream: String,
        ty: TensorType,
    },
    /// A tensor streamed out to the host. `(value)`, no result.
    Output {
        stream: String,
    },

    // --- products ----------------------------------------------------------------------------------------------
    /// `(a, b[, acc])`: `a·b [+ acc]`. Rank 2 `[m,k]·[k,n]`, or rank 3 with equal leading extents (a batch).
    /// `transpose_a`: `a` is stored `[.., k, m]`; `transpose_b`: `b` is stored `[.., n, k]`. Operands have one element type; `out` is that
    /// of the result and of `acc` where it is another one (f32 for f16 operands: "f16.32").
    Matmul {
        transpose_a: bool,
        transpose_b: bool,
        out: Option<DType>,
    },

    // --- elementwise -------------------------------------------------------------------------------------------
    Unary(UnaryOp),
    /// `(a, b)` broadcast like numpy, limited to: equal shapes, a scalar operand, or one operand whose shape is the
    /// trailing axes of the other's.
    Binary(BinaryOp),
    /// A whole elementwise expression as one op, one result per output of the expression; operands broadcast as in
    /// [`Op::Binary`] to the shape of the largest. Their element types may differ when the expression states those of its results.
    Map(MapExpr),
    /// Convert the element type. `(x)`
    Cast {
        to: DType,
    },
    /// `(x, seed: u32[2])`: inverted dropout, `x · keep / (1 − p)`. The mask is a function of `seed`, `key` and the element's
    /// row-major index alone, so the same op on a gradient replays it.
    Dropout {
        p: Real,
        key: u32,
    },

    // --- rows --------------------------------------------------------------------------------------------------
    /// `(x, scale, shift)` over the last axis with biased variance: results `y`, `mean`, `rstd = 1/√(var + ε)`
    /// (both with the last axis dropped, f32). `y` has the type of `x`; `scale` and `shift` may be f32 or f16.
    LayerNorm {
        epsilon: Real,
    },
    /// `(g, x, scale, mean, rstd)`: gradient for `x`.
    LayerNormGrad,
    /// `(g, x, mean, rstd)`: gradients for `scale` and `shift`, summed over all rows, of the element type of `g`.
    LayerNormParamGrad,
    /// `(x)`: `x` where `column ≤ row`, else `−∞`; row and column are the last two axes.
    CausalMask,
    /// `(x: [n, .., c], last: i32[n])`: `x` where `column ≤ last` of its leading index, else `−∞`.
    MaskBeyond,
    /// `(x)`: softmax of `scale · x` over the last axis; with `causal`, columns beyond the row index count as `−∞`.
    Softmax {
        scale: Real,
        causal: bool,
    },
    /// `(p, g)`: `scale · p ⊙ (g − Σ_j g_j p_j)`.
    SoftmaxGrad {
        scale: Real,
    },
    /// `(logits: [n, v], …, labels: i32[n])`: results `loss[n]` and `logsumexp[n]`, f32; a negative label gives loss 0. The logits may come in
    /// column slices of any widths; the last `padding` columns of all count as `−∞` and are no classes.
    CrossEntropy {
        padding: usize,
    },
    /// `(logits, labels, logsumexp, g: f32[n])`: `(softmax(logits) − onehot) · g`, 0 in rows with a negative label. The logits are the columns
    /// from `first` on of all classes; their last `padding` columns are none and have gradient 0.
    CrossEntropyGrad {
        first: usize,
        padding: usize,
    },

    // --- tables ------------------------------------------------------------------------------------------------
    /// `(table: [v, d], ids: i32[n])`: rows `[n, d]`. With `first` the table is a slice of a larger one, whose entries from `first` on it
    /// has: ids of other entries give rows of 0.
    Gather {
        first: Option<usize>,
    },
    /// `(base: [v, d], ids: i32[n], updates: [n, d])`: `base` with every update row added at its id, in row order. The result has the
    /// element type of `base`; the updates may have the other float type. With `first`, rows for entries of other slices are left out.
    ScatterAdd {
        first: Option<usize>,
    },
    /// `(base: [n, s, d], first: i32[n], rows: [n, r, d])`: `base` where rows `first .. first + r` of each of its `n` matrices are replaced.
    WriteRows,

    // --- reductions --------------------------------------------------------------------------------------------
    /// `(x)`: reduces the first `leading` axes away (all of them when `leading` is the rank: a scalar). `out`: the element type of the
    /// result where it is not that of `x`.
    Reduce {
        kind: ReduceKind,
        leading: usize,
        out: Option<DType>,
    },

    // --- between replicas --------------------------------------------------------------------------------------
    /// `(x)`: the sum over all replicas, on each of them; the order of the sum is that of a ring.
    AllReduce,
    /// `(x: [R, ..rest])`: entry `r` of the sum over all replicas, on replica `r` of `R`.
    ReduceScatter,
    /// `(x: [R, ..rest])`: entry `r` of `x`, on replica `r` of `R`.
    Shard,
    /// `(x: [..rest])`: `[R, ..rest]`, entry `r` from replica `r` of `replicas`.
    AllGather {
        replicas: usize,
    },

    // --- views -------------------------------------------------------------------------------------------------
    /// `(x)`: same elements in row-major order under another shape.
    Reshape {
        shape: Shape,
    },
    /// `(x)`: axis `i` of the result is axis `perm[i]` of `x`.
    Transpose {
        perm: SmallVec<[usize; 4]>,
    },
    /// `(x)`: `len` entries of `axis` from `start`.
    Slice {
        axis: usize,
        start: usize,
        len: usize,
    },
    /// `(x0, x1, …)`: joined along `axis`.
    Concat {
        axis: usize,
    },
    /// `(x)`: `x`, a scalar or the trailing axes of `shape`, repeated to `shape`.
    Broadcast {
        shape: Shape,
    },
}

impl Op {
    /// The mnemonic of the textual form.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Constant { .. } => "constant",
            Op::Parameter { .. } => "parameter",
            Op::Assign { .. } => "assign",
            Op::Input { .. } => "input",
            Op::Output { .. } => "output",
            Op::Matmul { .. } => "matmul",
            Op::Unary(u) => u.name(),
            Op::Binary(b) => b.name(),
            Op::Map(_) => "map",
            Op::Cast { .. } => "cast",
            Op::Dropout { .. } => "dropout",
            Op::LayerNorm { .. } => "layer_norm",
            Op::LayerNormGrad => "layer_norm_grad",
            Op::LayerNormParamGrad => "layer_norm_param_grad",
            Op::CausalMask => "causal_mask",
            Op::MaskBeyond => "mask_beyond",
            Op::Softmax { .. } => "softmax",
            Op::SoftmaxGrad { .. } => "softmax_grad",
            Op::CrossEntropy { .. } => "cross_entropy",
            Op::CrossEntropyGrad { .. } => "cross_entropy_grad",
            Op::Gather { .. } => "gather",
            Op::ScatterAdd { .. } => "scatter_add",
            Op::WriteRows => "write_rows",
            Op::Reduce {
                kind: ReduceKind::Sum,
                ..
            } => "reduce_sum",
            Op::Reduce {
                kind: ReduceKind::SumSquares,
                ..
            } => "reduce_sum_squares",
            Op::Reduce {
                kind: ReduceKind::Max,
                ..
            } => "reduce_max",
            Op::AllReduce => "all_reduce",
            Op::ReduceScatter => "reduce_scatter",
            Op::Shard => "shard",
            Op::AllGather { .. } => "all_gather",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Broadcast { .. } => "broadcast",
        }
    }

    /// True for ops that only rename elements: the tile program makes no arithmetic of them.
    pub const fn is_view(&self) -> bool {
        matches!(
            self,
            Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. }
        )
    }

    /// True for ops that must stay even when nobody uses a result.
    pub const fn has_effect(&self) -> bool {
        matches!(self, Op::Assign { .. } | Op::Output { .. })
    }
}

impl UnaryOp {
    pub const ALL: [UnaryOp; 13] = [
        UnaryOp::Neg,
        UnaryOp::Exp,
        UnaryOp::Expm1,
        UnaryOp::Log,
        UnaryOp::Sqrt,
        UnaryOp::Rsqrt,
        UnaryOp::Reciprocal,
        UnaryOp::Square,
        UnaryOp::Abs,
        UnaryOp::Tanh,
        UnaryOp::Relu,
        UnaryOp::GeluTanh,
        UnaryOp::GeluErf,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            UnaryOp::Neg => "neg",
            UnaryOp::Exp => "exp",
            UnaryOp::Expm1 => "expm1",
            UnaryOp::Log => "log",
            UnaryOp::Sqrt => "sqrt",
            UnaryOp::Rsqrt => "rsqrt",
            UnaryOp::Reciprocal => "reciprocal",
            UnaryOp::Square => "square",
            UnaryOp::Abs => "abs",
            UnaryOp::Tanh => "tanh",
            UnaryOp::Relu => "relu",
            UnaryOp::GeluTanh => "gelu_tanh",
            UnaryOp::GeluErf => "gelu_erf",
        }
    }
}

impl BinaryOp {
    pub const ALL: [BinaryOp; 9] = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Max,
        BinaryOp::Min,
        BinaryOp::ReluGrad,
        BinaryOp::GeluTanhGrad,
        BinaryOp::GeluErfGrad,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            BinaryOp::Add => "add",
            BinaryOp::Sub => "sub",
            BinaryOp::Mul => "mul",
            BinaryOp::Div => "div",
            BinaryOp::Max => "max",
            BinaryOp::Min => "min",
            BinaryOp::ReluGrad => "relu_grad",
            BinaryOp::GeluTanhGrad => "gelu_tanh_grad",
            BinaryOp::GeluErfGrad => "gelu_erf_grad",
        }
    }

    pub const fn commutes(self) -> bool {
        matches!(
            self,
            BinaryOp::Add | BinaryOp::Mul | BinaryOp::Max | BinaryOp::Min
        )
    }
}
