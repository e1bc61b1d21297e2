//! What each codelet asks of the blocks of one tile: the checkable side of the documentation of [`Codelet`].
//!
//! Extents that a codelet combines must agree. Where two dimensions that belong together are also dimensions of equally large tensors,
//! the blocks must start at the same element too: equal extents at different places would be equal by accident.

use smallvec::SmallVec;

use crate::program::Codelet;
use crate::types::DType;

/// One dimension of a block and of the tensor it is cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dimension {
    /// Extent of the tensor.
    pub(super) size: usize,
    /// First element of the block.
    pub(super) start: usize,
    /// Extent of the block.
    pub(super) len: usize,
}

/// The block of an operand on one tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OperandBlock {
    pub(super) dtype: DType,
    pub(super) dims: SmallVec<[Dimension; 4]>,
}

type Check = Result<(), String>;

impl OperandBlock {
    fn elements(&self) -> usize {
        self.dims.iter().map(|d| d.len).product()
    }

    /// The last dimension; a scalar is one column.
    fn columns(&self) -> Dimension {
        self.dims.last().copied().unwrap_or(Dimension {
            size: 1,
            start: 0,
            len: 1,
        })
    }

    /// All dimensions but the last.
    fn row_dims(&self) -> &[Dimension] {
        self.dims.split_last().map_or(&[], |(_, rows)| rows)
    }

    /// Product of the extents of all dimensions but the last.
    fn rows(&self) -> usize {
        self.row_dims().iter().map(|d| d.len).product()
    }

    fn text(&self) -> String {
        let extents: Vec<String> = self.dims.iter().map(|d| d.len.to_string()).collect();
        format!("{}[{}]", self.dtype, extents.join(", "))
    }
}

/// Checks the blocks of one vertex, operands in the order of the codelet's documentation.
pub(super) fn check(codelet: &Codelet, inputs: &[OperandBlock], outputs: &[OperandBlock]) -> Check {
    let v = Vertex { inputs, outputs };
    let (takes, gives) = counts(codelet);
    need(inputs.len() == takes && outputs.len() == gives, || {
        let (i, o) = (inputs.len(), outputs.len());
        format!("takes {takes} inputs and gives {gives} outputs, has {i} and {o}")
    })?;
    match codelet {
        Codelet::Matmul {
            transpose_a,
            transpose_b,
            ..
        } => v.matmul(*transpose_a, *transpose_b),
        Codelet::Map(expr) => {
            need(expr.is_well_formed(), || "malformed expression".into())?;
            v.map()
        }
        Codelet::Fill { .. } => Ok(()),
        Codelet::Reduce { .. } | Codelet::SumPartials { .. } => {
            v.floats(&[0])?;
            v.reduces(0, &outputs[0])
        }
        Codelet::LayerNorm { .. } | Codelet::LayerNormGrad | Codelet::LayerNormParamGrad => {
            v.layer_norm(codelet)
        }
        Codelet::Softmax { causal, .. } => {
            v.floats(&[0])?;
            v.whole_rows(0)?;
            need(!causal || inputs[0].dims.len() >= 2, || {
                "rows of a causal softmax need a second dimension".into()
            })?;
            same_block("output", &inputs[0], &outputs[0])
        }
        Codelet::CausalMask => {
            v.floats(&[0])?;
            need(inputs[0].dims.len() >= 2, || {
                "a mask needs two dimensions".into()
            })?;
            same_block("output", &inputs[0], &outputs[0])
        }
        Codelet::MaskBeyond => {
            v.floats(&[0])?;
            v.dtype(1, DType::I32)?;
            leading("last columns", &inputs[1], &inputs[0])?;
            same_block("output", &inputs[0], &outputs[0])
        }
        Codelet::SoftmaxGrad { .. } => {
            v.floats(&[0, 1])?;
            v.whole_rows(0)?;
            same_block("input 1", &inputs[0], &inputs[1])?;
            same_block("output", &inputs[0], &outputs[0])
        }
        Codelet::Cast => same_block("output", &inputs[0], &outputs[0]),
        Codelet::Transpose => v.transpose(),
        Codelet::Dropout { .. } => {
            v.floats(&[0])?;
            v.dtype(1, DType::U32)?;
            vector("the seed", &inputs[1], 2)?;
            same_block("output", &inputs[0], &outputs[0])
        }
        Codelet::Gather { .. } | Codelet::ScatterAdd { .. } => v.table(codelet),
        Codelet::WriteRows => v.write_rows(),
        Codelet::Stash => v.ring(&inputs[1], &outputs[0]),
        Codelet::Restore => v.ring(&outputs[0], &inputs[1]),
        Codelet::Advance => need(outputs[0].dtype == DType::U32, || "a counter is u32".into()),
        Codelet::RowMaxSum { .. }
        | Codelet::JoinLogSumExp
        | Codelet::PickLabel { .. }
        | Codelet::RowLoss
        | Codelet::CrossEntropyGrad { .. } => v.loss(codelet),
    }
}

/// Inputs and outputs of a codelet.
fn counts(codelet: &Codelet) -> (usize, usize) {
    match codelet {
        Codelet::Fill { .. } | Codelet::Advance => (0, 1),
        Codelet::Map(expr) => (expr.operands as usize, expr.outputs.len()),
        Codelet::Reduce { .. }
        | Codelet::SumPartials { .. }
        | Codelet::Softmax { .. }
        | Codelet::CausalMask
        | Codelet::Transpose
        | Codelet::Cast => (1, 1),
        Codelet::RowMaxSum { .. } => (1, 2),
        Codelet::Matmul { .. }
        | Codelet::SoftmaxGrad { .. }
        | Codelet::MaskBeyond
        | Codelet::WriteRows
        | Codelet::JoinLogSumExp
        | Codelet::PickLabel { .. }
        | Codelet::Gather { .. }
        | Codelet::ScatterAdd { .. }
        | Codelet::Stash
        | Codelet::Restore
        | Codelet::Dropout { .. } => (2, 1),
        Codelet::RowLoss => (3, 1),
        Codelet::LayerNorm { .. } => (3, 3),
        Codelet::CrossEntropyGrad { .. } => (4, 1),
        Codelet::LayerNormParamGrad => (4, 2),
        Codelet::LayerNormGrad => (5, 1),
    }
}

struct Vertex<'a> {
    inputs: &'a [OperandBlock],
    outputs: &'a [OperandBlock],
}

impl Vertex<'_> {
    fn dtype(&self, input: usize, dtype: DType) -> Check {
        let block = &self.inputs[input];
        need(block.dtype == dtype, || {
            format!("input {input} is {}, expected {dtype}", block.text())
        })
    }

    /// These inputs and all outputs hold floats of any width.
    fn floats(&self, inputs: &[usize]) -> Check {
        let blocks = inputs.iter().map(|&i| &self.inputs[i]).chain(self.outputs);
        for block in blocks {
            need(block.dtype.is_float(), || {
                format!("{} is not a float block", block.text())
            })?;
        }
        Ok(())
    }

    fn whole_rows(&self, input: usize) -> Check {
        let columns = self.inputs[input].columns();
        need(columns.len == columns.size, || {
            format!(
                "input {input} has {} of {} columns, rows must be whole",
                columns.len, columns.size
            )
        })
    }

    fn matmul(&self, transpose_a: bool, transpose_b: bool) -> Check {
        self.floats(&[0, 1])?;
        let (a, b, out) = (&self.inputs[0], &self.inputs[1], &self.outputs[0]);
        need(a.dtype == b.dtype, || {
            format!("operands are {} and {}", a.text(), b.text())
        })?;
        let (a_batch, m, k) = matrix(a, transpose_a)?;
        let (b_batch, k2, n) = matrix(b, transpose_b)?;
        let (out_batch, m2, n2) = matrix(out, false)?;
        need(a_batch == b_batch && a_batch == out_batch, || {
            format!("batches of {a_batch}, {b_batch} and {out_batch} matrices")
        })?;
        agree("contracted extents", k, k2)?;
        agree("rows", m, m2)?;
        agree("columns", n, n2)
    }

    fn transpose(&self) -> Check {
        let (x, out) = (&self.inputs[0], &self.outputs[0]);
        self.floats(&[0])?;
        let (batch, rows, columns) = matrix(x, true)?;
        let (out_batch, out_rows, out_columns) = matrix(out, false)?;
        need(batch == out_batch, || {
            format!("{batch} matrices become {out_batch}")
        })?;
        agree("rows", rows, out_rows)?;
        agree("columns", columns, out_columns)
    }

    fn map(&self) -> Check {
        let out = &self.outputs[0];
        let all: Vec<usize> = (0..self.inputs.len()).collect();
        self.floats(&all)?;
        for other in &self.outputs[1..] {
            same_block("another output", out, other)?;
        }
        for (i, operand) in self.inputs.iter().enumerate() {
            broadcasts(i, operand, out)?;
        }
        Ok(())
    }

    /// The output holds a trailing part of the dimensions of input `i`.
    fn reduces(&self, i: usize, out: &OperandBlock) -> Check {
        let x = &self.inputs[i];
        let wanted = out.elements();
        // Products of ever more trailing extents.
        let mut product = 1;
        let mut products = x.dims.iter().rev().map(|d| {
            product *= d.len;
            product
        });
        let found = match wanted {
            0 => x.elements() == 0,
            1 => true,
            _ => products.any(|p| p == wanted),
        };
        need(found, || {
            let (x, out) = (x.text(), out.text());
            format!("input {i} is {x}, of which {out} is no trailing part")
        })?;
        trailing_dims_agree(&x.dims, &out.dims)
    }

    fn layer_norm(&self, codelet: &Codelet) -> Check {
        let all: Vec<usize> = (0..self.inputs.len()).collect();
        self.floats(&all)?;
        let inputs = self.inputs;
        match codelet {
            Codelet::LayerNorm { .. } => {
                let x = &inputs[0];
                self.whole_rows(0)?;
                per_column("scale", x, &inputs[1])?;
                per_column("shift", x, &inputs[2])?;
                same_block("output", x, &self.outputs[0])?;
                per_row("mean", x, &self.outputs[1])?;
                per_row("rstd", x, &self.outputs[2])
            }
            Codelet::LayerNormGrad => {
                let x = &inputs[1];
                self.whole_rows(1)?;
                same_block("input 0", x, &inputs[0])?;
                per_column("scale", x, &inputs[2])?;
                per_row("mean", x, &inputs[3])?;
                per_row("rstd", x, &inputs[4])?;
                same_block("output", x, &self.outputs[0])
            }
            _ => {
                let x = &inputs[1];
                same_block("input 0", x, &inputs[0])?;
                per_row("mean", x, &inputs[2])?;
                per_row("rstd", x, &inputs[3])?;
                per_column("dscale", x, &self.outputs[0])?;
                per_column("dshift", x, &self.outputs[1])
            }
        }
    }

    fn table(&self, codelet: &Codelet) -> Check {
        let (table, ids, rows) = match codelet {
            Codelet::Gather { .. } => (&self.inputs[0], 1, &self.outputs[0]),
            _ => (&self.outputs[0], 0, &self.inputs[1]),
        };
        self.dtype(ids, DType::I32)?;
        self.floats(&[if ids == 0 { 1 } else { 0 }])?;
        agree("widths of table and rows", table.columns(), rows.columns())?;
        per_row("ids", rows, &self.inputs[ids])
    }

    /// Matrices of a block, the rows to be written into them, and where.
    fn write_rows(&self) -> Check {
        let (first, rows, base) = (&self.inputs[0], &self.inputs[1], &self.outputs[0]);
        self.dtype(0, DType::I32)?;
        self.floats(&[1])?;
        need(rows.dtype == base.dtype, || {
            format!("rows are {} and their place {}", rows.text(), base.text())
        })?;
        let [n, all, _] = rows.dims[..] else {
            return Err(format!("{} are no rows of matrices", rows.text()));
        };
        need(base.dims.len() == 3, || {
            format!("{} is not several matrices", base.text())
        })?;
        need(all.len == all.size, || {
            format!("{} of {} rows are on the tile", all.len, all.size)
        })?;
        leading("first rows", first, base)?;
        agree("matrices", n, base.dims[0])?;
        agree("widths of rows", rows.columns(), base.columns())
    }

    /// A counter, and a ring of entries that are blocks like `x`.
    fn ring(&self, x: &OperandBlock, ring: &OperandBlock) -> Check {
        self.dtype(0, DType::U32)?;
        vector("the counter", &self.inputs[0], 1)?;
        need(x.dtype == ring.dtype, || {
            format!("entry {} and ring {}", x.text(), ring.text())
        })?;
        let Some((entries, entry)) = ring.dims.split_first() else {
            return Err("a ring has a dimension of entries".into());
        };
        need(entries.len == entries.size, || {
            "a ring has all its entries on each tile".into()
        })?;
        let entry = OperandBlock {
            dtype: ring.dtype,
            dims: SmallVec::from_slice(entry),
        };
        same_block("entry", x, &entry)
    }

    fn loss(&self, codelet: &Codelet) -> Check {
        let (inputs, out) = (self.inputs, &self.outputs[0]);
        match codelet {
            Codelet::RowMaxSum { .. } | Codelet::PickLabel { .. } => self.floats(&[0])?,
            Codelet::CrossEntropyGrad { .. } => self.floats(&[0, 2, 3])?,
            _ => self.floats(&[0, 1])?,
        }
        match codelet {
            Codelet::RowMaxSum { .. } => {
                per_row("maxima", &inputs[0], out)?;
                per_row("sums", &inputs[0], &self.outputs[1])
            }
            Codelet::JoinLogSumExp => {
                same_block("sums", &inputs[0], &inputs[1])?;
                self.reduces(0, out)
            }
            Codelet::PickLabel { .. } => {
                self.dtype(1, DType::I32)?;
                per_row("labels", &inputs[0], &inputs[1])?;
                per_row("output", &inputs[0], out)
            }
            Codelet::RowLoss => {
                self.dtype(2, DType::I32)?;
                vector("logsumexp", &inputs[1], out.elements())?;
                vector("labels", &inputs[2], out.elements())?;
                trailing_dims_agree(&out.dims, &inputs[1].dims)?;
                trailing_dims_agree(&out.dims, &inputs[2].dims)?;
                self.reduces(0, out)
            }
            _ => {
                self.dtype(1, DType::I32)?;
                let names = ["labels", "logsumexp", "gradients"];
                for (name, rows) in names.iter().zip(&inputs[1..]) {
                    per_row(name, &inputs[0], rows)?;
                }
                same_block("output", &inputs[0], out)
            }
        }
    }
}

fn need(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

/// Two dimensions that a codelet walks together.
fn agree(what: &str, a: Dimension, b: Dimension) -> Check {
    need(a.len == b.len, || {
        format!("{what} differ: {} and {}", a.len, b.len)
    })?;
    need(a.len == 0 || a.size != b.size || a.start == b.start, || {
        format!("{what} start at {} and {}", a.start, b.start)
    })
}

/// Trailing dimensions that are equal on the tile, as far as they are of equally large tensors, start at the same elements.
fn trailing_dims_agree(a: &[Dimension], b: &[Dimension]) -> Check {
    for (x, y) in a.iter().rev().zip(b.iter().rev()) {
        if x.size != y.size || x.len != y.len {
            return Ok(());
        }
        agree("blocks", *x, *y)?;
    }
    Ok(())
}

/// Number of matrices, rows and columns, the two swapped when the matrix is stored transposed.
fn matrix(block: &OperandBlock, transposed: bool) -> Result<(usize, Dimension, Dimension), String> {
    let [batch @ .., rows, columns] = block.dims.as_slice() else {
        return Err(format!("{} is no matrix", block.text()));
    };
    let batch = batch.iter().map(|d| d.len).product();
    Ok(if transposed {
        (batch, *columns, *rows)
    } else {
        (batch, *rows, *columns)
    })
}

/// Extents without leading ones, which do not matter.
fn extents(block: &OperandBlock) -> impl Iterator<Item = usize> + '_ {
    block.dims.iter().map(|d| d.len).skip_while(|&len| len == 1)
}

fn same_block(what: &str, a: &OperandBlock, b: &OperandBlock) -> Check {
    need(extents(a).eq(extents(b)), || {
        format!(
            "{what} is {}, expected the extents of {}",
            b.text(),
            a.text()
        )
    })?;
    trailing_dims_agree(&a.dims, &b.dims)
}

/// The operand is a scalar or the trailing axes of the output.
fn broadcasts(i: usize, operand: &OperandBlock, out: &OperandBlock) -> Check {
    let trailing: SmallVec<[usize; 4]> = extents(operand).collect();
    let into: SmallVec<[usize; 4]> = out.dims.iter().map(|d| d.len).collect();
    need(into.ends_with(&trailing), || {
        let (operand, out) = (operand.text(), out.text());
        format!("input {i} is {operand}, which does not broadcast to {out}")
    })?;
    trailing_dims_agree(&operand.dims, &out.dims)
}

fn vector(what: &str, block: &OperandBlock, elements: usize) -> Check {
    need(block.elements() == elements, || {
        format!("{what} are {}, expected {elements} elements", block.text())
    })
}

/// One element for each leading index of `x`.
fn leading(what: &str, block: &OperandBlock, x: &OperandBlock) -> Check {
    let ([entry], [of_x, _, ..]) = (&block.dims[..], &x.dims[..]) else {
        let (block, x) = (block.text(), x.text());
        return Err(format!("{what} are {block} for {x}"));
    };
    agree(what, *entry, *of_x)
}

/// One element a column of `x`.
fn per_column(what: &str, x: &OperandBlock, block: &OperandBlock) -> Check {
    vector(what, block, x.columns().len)?;
    agree(what, x.columns(), block.columns())
}

/// One element a row of `x`.
fn per_row(what: &str, x: &OperandBlock, block: &OperandBlock) -> Check {
    vector(what, block, x.rows())?;
    trailing_dims_agree(x.row_dims(), &block.dims)
}
