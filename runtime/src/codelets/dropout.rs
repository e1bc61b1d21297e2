//! `(x, seed: u32[2]) → y`: inverted dropout, also in place.
//!
//! The mask is a function of the seed, the op's key and the element's row-major index in the whole tensor, so a tile draws its own
//! part of it, and the backward pass draws the same mask again.

use superstep_ir::op::dropout::dropout_keep_run;

use super::vertex::{expect_elements, expect_rows};
use super::{Kernel, Mismatch, Scratch, Vertex, VertexMemory};

/// Elements whose mask is drawn at once.
const CHUNK: usize = 256;

pub(super) struct Dropout {
    pub(super) p: f64,
    pub(super) key: u32,
}

impl Kernel for Dropout {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        expect_elements("seed", &vertex.inputs[1], 2)?;
        expect_rows("y", &vertex.outputs[0], vertex.inputs[0].rows())
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.outputs[0].elements() as f64 * 3.0
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let x = &vertex.inputs[0];
        let seed: [u32; 2] = match memory.input(1) {
            &[low, high] => [low, high],
            _ => [0; 2],
        };
        let gain = (1.0 / (1.0 - self.p)) as f32;
        memory.copy_input(0, 0);
        let y: &mut [f32] = memory.output(0);
        let (rows, c) = x.rows();
        let mut keep = [false; CHUNK];
        for r in 0..rows {
            let first = x.row_index(r);
            for start in (0..c).step_by(CHUNK) {
                let len = CHUNK.min(c - start);
                dropout_keep_run(
                    seed,
                    self.key,
                    first + start as u64,
                    self.p,
                    &mut keep[..len],
                );
                for (y, &keep) in y[r * c + start..][..len].iter_mut().zip(&keep) {
                    *y = if keep { *y * gain } else { 0.0 };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use superstep_ir::op::dropout::dropout_keep;
    use superstep_ir::types::DType;

    use super::*;
    use crate::codelets::testing::{block, integers, numbers as random, run_in_place};

    #[test]
    fn the_mask_counts_from_the_whole_tensor() {
        let (dims, start, extent) = ([4, 9, 700], [1, 2, 30], [2, 3, 600]);
        let x = random(extent.iter().product(), 1);
        let inputs = [
            block(&dims, &start, &extent, &x),
            integers(DType::U32, &[2], &[7, 9]),
        ];
        let kernel = Dropout { p: 0.25, key: 3 };
        for on in [0, usize::MAX] {
            let y = &run_in_place(&kernel, &inputs, &inputs[..1], &[on])[0];
            for (i, &y) in y.iter().enumerate() {
                let at = [i / 1800 + 1, i / 600 % 3 + 2, i % 600 + 30];
                let index = (at[0] * 9 + at[1]) * 700 + at[2];
                let keep = dropout_keep([7, 9], 3, index as u64, 0.25);
                assert_eq!(y, if keep { x[i] * (4.0 / 3.0) } else { 0.0 });
            }
        }
    }
}
