//! Cross entropy over a vocabulary that is cut over tiles.
//!
//! Forward in four codelets: every tile takes the maximum and the sum of exponentials of its columns ([`RowMaxSum`]) and the label's
//! logit if it has it ([`PickLabel`]); after an exchange the parts of a row are joined ([`JoinLogSumExp`], [`RowLoss`]). Backward is
//! local: `(e^(logit − logsumexp) − [column = label])·g` ([`CrossEntropyGrad`]).

use super::isa::isa_kernel;
use super::vertex::{expect_elements, expect_rows};
use super::vertex_memory::{numbers, numbers_mut};
use super::{Isa, Kernel, Mismatch, Operand, Scratch, Vertex, VertexMemory, lanes, math};

/// `(logits: [r, c]) → (max: [1, r], sum: [1, r])`
pub(super) struct RowMaxSum {
    pub(super) padding: usize,
    pub(super) isa: Isa,
}

/// Columns of the block that are no padding: the last `padding` columns of the whole tensor are.
fn classes(logits: &Operand<'_>, padding: usize) -> usize {
    let (_, c) = logits.rows();
    let all = logits.tensor_dims().last().copied().unwrap_or(0);
    let left = all
        .saturating_sub(padding)
        .saturating_sub(logits.first_column());
    left.min(c)
}

impl Kernel for RowMaxSum {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (r, _) = vertex.inputs[0].rows();
        expect_elements("max", &vertex.outputs[0], r)?;
        expect_elements("sum", &vertex.outputs[1], r)
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.inputs[0].elements() as f64 * 1.5
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let (_, c) = vertex.inputs[0].rows();
        let classes = classes(&vertex.inputs[0], self.padding);
        let ([logits], [max, sum]) = memory.split();
        let logits: &[f32] = numbers(logits);
        let (max, sum): (&mut [f32], &mut [f32]) = (numbers_mut(max), numbers_mut(sum));
        scratch.floats.resize(scratch.floats.len().max(c), 0.0);
        for r in 0..max.len() {
            let work = &mut scratch.floats[..classes];
            (max[r], sum[r]) = max_sum(self.isa, &logits[r * c..][..classes], work);
        }
    }
}

isa_kernel! {
    /// `(m, Σ e^(x − m))` of a row; `(−∞, 0)` of none.
    fn max_sum(x: &[f32], work: &mut [f32]) -> (f32, f32) {
        let max = lanes::max(x);
        for (w, &x) in work.iter_mut().zip(x) {
            *w = math::exp(x - max);
        }
        (max, lanes::sum(work, f64::from) as f32)
    }
}

/// Parts that are joined into each element of `out`.
fn parts(x: &Operand<'_>, out: &Operand<'_>) -> usize {
    x.elements().checked_div(out.elements()).unwrap_or(0)
}

/// `(max: [p, r], sum: [p, r]) → logsumexp: [r]`
pub(super) struct JoinLogSumExp;

impl Kernel for JoinLogSumExp {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (max, out) = (&vertex.inputs[0], &vertex.outputs[0]);
        expect_elements("sum", &vertex.inputs[1], max.elements())?;
        expect_elements("max", max, parts(max, out) * out.elements())
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let ([max, sum], [out]) = memory.split();
        let (max, sum, out): (&[f32], &[f32], &mut [f32]) =
            (numbers(max), numbers(sum), numbers_mut(out));
        let (parts, r) = (parts(&vertex.inputs[0], &vertex.outputs[0]), out.len());
        for (i, out) in out.iter_mut().enumerate() {
            let largest =
                (0..parts).fold(f32::NEG_INFINITY, |m, p| lanes::larger(max[p * r + i], m));
            let mut total = 0.0f64;
            for p in 0..parts {
                // A tile without columns says −∞, which has no difference to −∞.
                if max[p * r + i] != f32::NEG_INFINITY {
                    total +=
                        f64::from(sum[p * r + i]) * f64::from(math::exp(max[p * r + i] - largest));
                }
            }
            *out = largest + math::log(total as f32);
        }
    }
}

/// Which of the block's columns a label falls into, which counts from `first`.
fn column_of(label: i32, first: u32, logits: &Operand<'_>) -> Option<usize> {
    let (_, c) = logits.rows();
    let class = usize::try_from(label).ok()?.checked_sub(first as usize)?;
    let column = class.checked_sub(logits.first_column())?;
    (column < c).then_some(column)
}

/// `(logits: [r, c], labels: i32[r]) → picked: [1, r]`
pub(super) struct PickLabel {
    pub(super) first: u32,
}

impl Kernel for PickLabel {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (r, _) = vertex.inputs[0].rows();
        expect_elements("labels", &vertex.inputs[1], r)?;
        expect_elements("picked", &vertex.outputs[0], r)
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.inputs[1].elements() as f64
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let operand = &vertex.inputs[0];
        let (_, c) = operand.rows();
        let ([logits, labels], [picked]) = memory.split();
        let (logits, labels): (&[f32], &[i32]) = (numbers(logits), numbers(labels));
        let picked: &mut [f32] = numbers_mut(picked);
        for (r, (picked, &label)) in picked.iter_mut().zip(labels).enumerate() {
            let column = column_of(label, self.first, operand);
            *picked = column.map_or(0.0, |column| logits[r * c + column]);
        }
    }
}

/// `(picked: [p, r], logsumexp: [r], labels: i32[r]) → loss: [r]`
pub(super) struct RowLoss;

impl Kernel for RowLoss {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (picked, loss) = (&vertex.inputs[0], &vertex.outputs[0]);
        let r = loss.elements();
        expect_elements("picked", picked, parts(picked, loss) * r)?;
        expect_elements("logsumexp", &vertex.inputs[1], r)?;
        expect_elements("labels", &vertex.inputs[2], r)
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let ([picked, logsumexp, labels], [loss]) = memory.split();
        let (picked, logsumexp, labels): (&[f32], &[f32], &[i32]) =
            (numbers(picked), numbers(logsumexp), numbers(labels));
        let loss: &mut [f32] = numbers_mut(loss);
        let r = loss.len();
        for (i, loss) in loss.iter_mut().enumerate() {
            // One part holds the logit, the others 0: the sum is exact.
            let logit: f32 = picked.iter().skip(i).step_by(r).sum();
            *loss = if labels[i] < 0 {
                0.0
            } else {
                logsumexp[i] - logit
            };
        }
    }
}

/// `(logits: [r, c], labels: i32[r], logsumexp: [r], g: [r]) → [r, c]`, also in place on `logits`
pub(super) struct CrossEntropyGrad {
    pub(super) first: u32,
    pub(super) padding: usize,
    pub(super) isa: Isa,
}

impl Kernel for CrossEntropyGrad {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (r, c) = vertex.inputs[0].rows();
        expect_elements("labels", &vertex.inputs[1], r)?;
        expect_elements("logsumexp", &vertex.inputs[2], r)?;
        expect_elements("g", &vertex.inputs[3], r)?;
        expect_rows("the result", &vertex.outputs[0], (r, c))?;
        // The result may replace the logits, but no operand that later rows still need.
        let clash = (1..4).any(|i| {
            vertex.inputs[i].range().start == vertex.outputs[0].range().start
                && vertex.outputs[0].elements() > 0
        });
        if clash {
            return Err(Mismatch {
                operand: "the result".into(),
                reason: "lies on an operand other than the logits".into(),
            });
        }
        Ok(())
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.outputs[0].elements() as f64 * 1.2
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let operand = &vertex.inputs[0];
        let (rows, c) = operand.rows();
        let classes = classes(operand, self.padding);
        scratch.floats.resize(scratch.floats.len().max(c), 0.0);
        for r in 0..rows {
            let work = &mut scratch.floats[..c];
            let label: i32 = memory.input(1)[r];
            let logsumexp: f32 = memory.input(2)[r];
            let g: f32 = memory.input(3)[r];
            if label < 0 {
                work.fill(0.0);
            } else {
                let logits: &[f32] = memory.input(0);
                let column = column_of(label, self.first, operand).filter(|&j| j < classes);
                // The label's column is written last, from its own probability: subtracting 1 after the product would round twice.
                let at_label = column.map(|j| (math::exp(logits[r * c + j] - logsumexp) - 1.0) * g);
                let (work, padding) = work.split_at_mut(classes);
                padding.fill(0.0);
                probabilities(self.isa, &logits[r * c..][..classes], logsumexp, g, work);
                if let (Some(j), Some(value)) = (column, at_label) {
                    work[j] = value;
                }
            }
            let out: &mut [f32] = memory.output(0);
            out[r * c..][..c].copy_from_slice(work);
        }
    }
}

isa_kernel! {
    /// `out = e^(x − logsumexp)·g`
    fn probabilities(x: &[f32], logsumexp: f32, g: f32, out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = math::exp(x - logsumexp) * g;
        }
    }
}

#[cfg(test)]
mod tests;
