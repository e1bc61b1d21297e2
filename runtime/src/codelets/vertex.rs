//! What a kernel is told about its vertex: where its operands lie in tile memory, and which blocks of their tensors they are.

use std::ops::Range;

use smallvec::SmallVec;
use superstep_ir::types::DType;

use crate::layout::{Block, Layout};

/// Where an operand lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// From an address on: on the vertex's `own` tile, or on another: an input that tiles share.
    Block { start: *mut u8, own: bool },
    /// In work space that the kernel around this one has set up.
    WorkSpace,
}

/// One operand on the vertex's tile.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    /// First byte in the block or work space.
    pub(crate) offset: usize,
    home: Home,
    dtype: DType,
    layout: &'a Layout,
    block: &'a Block,
    /// 1 when the operand is one entry of the block's leading dimension, else 0.
    dropped: usize,
    entry: u32,
}

impl<'a> Operand<'a> {
    /// The block at `point` of a variable, which begins at `start`, or one entry of its leading dimension.
    pub(crate) fn new(
        start: *mut u8,
        own: bool,
        entry: Option<u32>,
        layout: &'a Layout,
        point: usize,
    ) -> Operand<'a> {
        let block = &layout.blocks[point];
        let mut operand = Operand {
            offset: 0,
            home: Home::Block { start, own },
            dtype: layout.dtype,
            layout,
            block,
            dropped: usize::from(entry.is_some()),
            entry: entry.unwrap_or(0),
        };
        if let Some(entry) = entry {
            operand.offset = entry as usize * operand.bytes();
        }
        operand
    }

    /// The same block as `dtype` in work space, from byte `offset` on.
    pub(crate) fn in_work_space(&self, offset: usize, dtype: DType) -> Operand<'a> {
        Operand {
            offset,
            home: Home::WorkSpace,
            dtype,
            ..*self
        }
    }

    pub(crate) fn home(&self) -> Home {
        self.home
    }

    /// Element type as stored.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents of the block.
    pub(crate) fn dims(&self) -> &'a [u32] {
        &self.block.extent()[self.dropped..]
    }

    /// First element of the block in each dimension of the tensor.
    pub(crate) fn start(&self) -> &'a [u32] {
        &self.block.start()[self.dropped..]
    }

    /// Extents of the whole tensor.
    pub(crate) fn tensor_dims(&self) -> &'a [usize] {
        &self.layout.shape.dims()[self.dropped..]
    }

    pub(crate) fn elements(&self) -> usize {
        match self.dropped {
            0 => self.block.elements(),
            _ => self.dims().iter().map(|&e| e as usize).product(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// The bytes, in work space or by address.
    pub(crate) fn range(&self) -> Range<usize> {
        let first = match self.home {
            Home::Block { start, .. } => start.addr() + self.offset,
            Home::WorkSpace => self.offset,
        };
        first..first + self.bytes()
    }

    /// `(rows, columns)`: all leading extents taken together, and the last one.
    pub(crate) fn rows(&self) -> (usize, usize) {
        let columns = self.dims().last().map_or(1, |&c| c as usize);
        let rows = self
            .dims()
            .iter()
            .rev()
            .skip(1)
            .map(|&e| e as usize)
            .product();
        (rows, columns)
    }

    /// First row of the block along the second-last axis of the tensor.
    pub(crate) fn first_row(&self) -> usize {
        self.start().iter().rev().nth(1).map_or(0, |&s| s as usize)
    }

    /// First column of the block along the last axis of the tensor.
    pub(crate) fn first_column(&self) -> usize {
        self.start().last().map_or(0, |&s| s as usize)
    }

    /// Row-major index, in the whole tensor, of the first element of row `r` of the block.
    pub(crate) fn row_index(&self, r: usize) -> u64 {
        let (tensor, start, dims) = (self.tensor_dims(), self.start(), self.dims());
        let Some(last) = dims.len().checked_sub(1) else {
            return 0;
        };
        let (mut rest, mut index, mut stride) = (r, u64::from(start[last]), tensor[last] as u64);
        for d in (0..last).rev() {
            let extent = (dims[d] as usize).max(1);
            index += (start[d] as usize + rest % extent) as u64 * stride;
            rest /= extent;
            stride *= tensor[d] as u64;
        }
        index
    }

    /// Row-major index, in the whole variable, of the first element of the tensor that the operand is: that of its entry.
    fn entry_index(&self) -> u64 {
        let each = self
            .tensor_dims()
            .iter()
            .map(|&d| d as u64)
            .product::<u64>();
        u64::from(self.entry) * each
    }

    /// Calls `each(row-major index in the whole variable, length)` for stretches of elements that lie one after the other in both, in the
    /// order of the block.
    pub(crate) fn stretches(&self, mut each: impl FnMut(u64, usize)) {
        let (rows, c) = self.rows();
        if rows == 0 || c == 0 {
            return;
        }
        let base = self.entry_index();
        // From a row to the next along the second-last axis.
        let inner = self.dims().iter().rev().nth(1).map_or(1, |&e| e as usize);
        let step = self.tensor_dims().last().map_or(1, |&d| d as u64);
        let mut open = (base + self.row_index(0), 0);
        for outer in (0..rows).step_by(inner) {
            let first = base + self.row_index(outer);
            for index in (0..inner as u64).map(|r| first + r * step) {
                if open.0 + open.1 as u64 != index {
                    each(open.0, open.1);
                    open = (index, 0);
                }
                open.1 += c;
            }
        }
        each(open.0, open.1);
    }

    /// `(batch, r, c)`: the last two extents, and all others taken together.
    pub(crate) fn matrices(&self) -> (usize, usize, usize) {
        let [batch @ .., r, c] = self.dims() else {
            return (1, 1, self.elements());
        };
        (
            batch.iter().map(|&e| e as usize).product(),
            *r as usize,
            *c as usize,
        )
    }
}

/// The operands of one vertex, in the order in which the codelet documents them.
pub(crate) struct Vertex<'a> {
    pub(crate) inputs: SmallVec<[Operand<'a>; 4]>,
    pub(crate) outputs: SmallVec<[Operand<'a>; 3]>,
    /// What it computes is added to what its result holds: the next term of a sum of partial results.
    pub(crate) adds: bool,
}

/// An operand whose block does not fit the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) operand: String,
    pub(crate) reason: String,
}

/// Ok when `operand` has `(rows, columns)` as [`Operand::rows`] counts them.
pub(crate) fn expect_rows(
    name: &str,
    operand: &Operand<'_>,
    expected: (usize, usize),
) -> Result<(), Mismatch> {
    if operand.rows() == expected {
        return Ok(());
    }
    let (r, c) = expected;
    Err(Mismatch {
        operand: name.into(),
        reason: format!("has extents {:?} where [{r}, {c}] belong", operand.dims()),
    })
}

/// Ok when `operand` has this many elements.
pub(crate) fn expect_elements(
    name: &str,
    operand: &Operand<'_>,
    expected: usize,
) -> Result<(), Mismatch> {
    if operand.elements() == expected {
        return Ok(());
    }
    let reason = format!(
        "has extents {:?} where {expected} elements belong",
        operand.dims()
    );
    Err(Mismatch {
        operand: name.into(),
        reason,
    })
}

/// Ok when the only input is a whole number of blocks as large as the result.
pub(super) fn expect_rows_of_result(vertex: &Vertex<'_>) -> Result<(), Mismatch> {
    let (x, out) = (vertex.inputs[0].elements(), vertex.outputs[0].elements());
    let whole = x.checked_div(out).unwrap_or(0) * out;
    expect_elements("x", &vertex.inputs[0], whole)
}
