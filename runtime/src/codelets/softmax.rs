//! Softmax over rows that lie whole on the tile, its gradient, and the masks.
//!
//! `p_j = e^(s·x_j − m) / Σ e^(s·x_i − m)` with `m` the largest `s·x`. With a causal mask only the columns up to the row's own index
//! are looked at: half of the exponentials of a square. Each row is computed in work space and then written, so the result may lie
//! on an operand.

use super::isa::isa_kernel;
use super::vertex::{expect_elements, expect_rows};
use super::{Isa, Kernel, Mismatch, Operand, Scratch, Vertex, VertexMemory, lanes, math};

/// `(x: [.., r, c]) → [.., r, c]`
pub(super) struct Softmax {
    pub(super) scale: f32,
    pub(super) causal: bool,
    pub(super) isa: Isa,
}

/// First element of the block along the rows' axis, and rows before the index starts again (a batch).
fn row_axis(operand: &Operand<'_>) -> (usize, usize) {
    let (_, rows, _) = operand.matrices();
    (operand.first_row(), rows.max(1))
}

/// Ok when whole rows of the tensor are on the tile.
fn expect_whole_rows(operand: &Operand<'_>) -> Result<(), Mismatch> {
    let whole = operand
        .dims()
        .last()
        .zip(operand.tensor_dims().last())
        .is_some_and(|(&d, &t)| d as usize == t);
    if whole || operand.elements() == 0 {
        return Ok(());
    }
    Err(Mismatch {
        operand: "x".into(),
        reason: "holds parts of rows".into(),
    })
}

impl Kernel for Softmax {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        expect_whole_rows(&vertex.inputs[0])?;
        expect_rows("the result", &vertex.outputs[0], vertex.inputs[0].rows())
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.outputs[0].elements() as f64 * 1.5
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let (rows, c) = vertex.inputs[0].rows();
        let (first, period) = row_axis(&vertex.inputs[0]);
        scratch.floats.resize(scratch.floats.len().max(c), 0.0);
        for r in 0..rows {
            let seen = if self.causal {
                c.min(first + r % period + 1)
            } else {
                c
            };
            let work = &mut scratch.floats[..seen];
            let x: &[f32] = memory.input(0);
            let factor = exponentials(self.isa, &x[r * c..][..seen], self.scale, work);
            let y: &mut [f32] = &mut memory.output(0)[r * c..][..c];
            scaled(self.isa, work, factor, &mut y[..seen]);
            y[seen..].fill(0.0);
        }
    }
}

isa_kernel! {
    /// `out = e^(scale·x − m)`; gives `1/Σ out`.
    fn exponentials(x: &[f32], scale: f32, out: &mut [f32]) -> f32 {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = scale * x;
        }
        let largest = lanes::max(out);
        for (out, &x) in out.iter_mut().zip(x) {
            *out = math::exp(scale.mul_add(x, -largest));
        }
        (1.0 / lanes::sum(out, f64::from)) as f32
    }
}

isa_kernel! {
    fn scaled(x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }
}

/// `(p, g: [.., r, c]) → [.., r, c]`: `scale · p ⊙ (g − Σ_j g_j p_j)`
pub(super) struct SoftmaxGrad {
    pub(super) scale: f32,
    pub(super) isa: Isa,
}

impl Kernel for SoftmaxGrad {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        expect_whole_rows(&vertex.inputs[0])?;
        expect_rows("g", &vertex.inputs[1], vertex.inputs[0].rows())?;
        expect_rows("the result", &vertex.outputs[0], vertex.inputs[0].rows())
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let (rows, c) = vertex.inputs[0].rows();
        scratch.floats.resize(scratch.floats.len().max(c), 0.0);
        for r in 0..rows {
            let work = &mut scratch.floats[..c];
            let p: &[f32] = memory.input(0);
            let g: &[f32] = memory.input(1);
            gradient_row(
                self.isa,
                &p[r * c..][..c],
                &g[r * c..][..c],
                self.scale,
                work,
            );
            let out: &mut [f32] = memory.output(0);
            out[r * c..][..c].copy_from_slice(work);
        }
    }
}

isa_kernel! {
    fn gradient_row(p: &[f32], g: &[f32], scale: f32, out: &mut [f32]) {
        let dot = lanes::sum2(p, g, |p, g| f64::from(p) * f64::from(g)) as f32;
        for ((out, &p), &g) in out.iter_mut().zip(p).zip(g) {
            *out = scale * p * (g - dot);
        }
    }
}

/// `(x: [.., r, c]) → [.., r, c]`: `−∞` where the column index exceeds the row index in the whole tensor.
pub(super) struct CausalMask;

impl Kernel for CausalMask {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        expect_rows("the result", &vertex.outputs[0], vertex.inputs[0].rows())
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let x = &vertex.inputs[0];
        let (rows, c) = x.rows();
        let (first, period) = row_axis(x);
        let first_column = x.first_column();
        memory.copy_input(0, 0);
        let y: &mut [f32] = memory.output(0);
        for r in 0..rows {
            let seen = (first + r % period + 1).saturating_sub(first_column).min(c);
            y[r * c..][seen..c].fill(f32::NEG_INFINITY);
        }
    }
}

/// `(x: [n, .., c], last: i32[n]) → [n, .., c]`: `−∞` where the column index in the whole tensor exceeds `last`.
pub(super) struct MaskBeyond;

impl Kernel for MaskBeyond {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let x = &vertex.inputs[0];
        expect_rows("the result", &vertex.outputs[0], x.rows())?;
        let entries = x.dims().first().map_or(1, |&n| n as usize);
        expect_elements("the last columns", &vertex.inputs[1], entries)
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let x = &vertex.inputs[0];
        let (rows, c) = x.rows();
        let entries = vertex.inputs[1].elements();
        let first_column = x.first_column() as i64;
        memory.copy_input(0, 0);
        for entry in 0..entries {
            let last = i64::from(memory.input::<i32>(1)[entry]);
            let seen = (last + 1 - first_column).clamp(0, c as i64) as usize;
            let y: &mut [f32] = memory.output(0);
            for row in entry * rows / entries..(entry + 1) * rows / entries {
                y[row * c..][seen..c].fill(f32::NEG_INFINITY);
            }
        }
    }
}

#[cfg(test)]
mod tests;
