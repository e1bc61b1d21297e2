//! `(x: [.., r, c]) → [.., c, r]`, any element type: bits are moved, not read.

use superstep_ir::types::DType;

use super::vertex::{expect_dims, numbers, numbers_mut};
use super::{Kernel, Mismatch, Scratch, Vertex};

/// Rows and columns moved together: a square whose rows and columns both stay in L1.
const SQUARE: usize = 16;

/// By the size of an element.
struct Transpose<T>(std::marker::PhantomData<fn() -> T>);

/// `None` when the types differ.
pub(super) fn kernel(from: DType, to: DType) -> Option<Box<dyn Kernel>> {
    if from != to {
        return None;
    }
    Some(match from.bytes() {
        4 => Box::new(Transpose::<u32>(std::marker::PhantomData)),
        2 => Box::new(Transpose::<u16>(std::marker::PhantomData)),
        _ => Box::new(Transpose::<u8>(std::marker::PhantomData)),
    })
}

impl<T: bytemuck::Pod> Kernel for Transpose<T> {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let [batch @ .., r, c] = vertex.inputs[0].dims() else {
            return Err(Mismatch { operand: "x".into(), reason: "is no matrix".into() });
        };
        expect_dims("the result", &vertex.outputs[0], &[batch, &[*c, *r]].concat())
    }

    fn run(&self, vertex: &Vertex<'_>, tile: &mut [u8], _: &mut Scratch) {
        let (_, r, c) = vertex.inputs[0].matrices();
        let ([x], [out]) = vertex.split(tile);
        let (x, out): (&[T], &mut [T]) = (numbers(x), numbers_mut(out));
        if r * c == 0 {
            return;
        }
        for (x, out) in x.chunks_exact(r * c).zip(out.chunks_exact_mut(r * c)) {
            transpose(x, r, c, out);
        }
    }
}

/// `x` is `[r, c]`, `out` is `[c, r]`.
fn transpose<T: Copy>(x: &[T], r: usize, c: usize, out: &mut [T]) {
    for i in (0..r).step_by(SQUARE) {
        let rows = SQUARE.min(r - i);
        for j in (0..c).step_by(SQUARE) {
            let columns = SQUARE.min(c - j);
            for b in j..j + columns {
                let to = &mut out[b * r + i..][..rows];
                for (a, to) in to.iter_mut().enumerate() {
                    *to = x[(i + a) * c + b];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codelets::testing::{numbers as random, run, whole};

    #[test]
    fn odd_shapes() {
        for (batch, r, c) in [(1, 1, 1), (1, 7, 24), (3, 33, 17), (1, 64, 16), (2, 0, 5)] {
            let x = random(batch * r * c, 1);
            let kernel = kernel(DType::F32, DType::F32).expect("same types");
            let zeros = vec![0.0; x.len()];
            let out = run(&*kernel, &[whole(&[batch, r, c], &x)], &[whole(&[batch, c, r], &zeros)]);
            for b in 0..batch {
                for i in 0..r {
                    for j in 0..c {
                        assert_eq!(out[0][(b * c + j) * r + i], x[(b * r + i) * c + j]);
                    }
                }
            }
        }
    }
}
