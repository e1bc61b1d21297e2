//! `(x: [.., r, c]) → [.., c, r]`: every matrix turned.

use super::turn::turn;
use super::vertex::Operand;
use super::{Isa, Kernel, Mismatch, Scratch, Vertex, VertexMemory};

pub(super) struct Transpose {
    pub(super) isa: Isa,
}

/// Matrices, rows and columns of an operand.
fn matrices(operand: &Operand<'_>) -> (usize, usize, usize) {
    let dims = operand.dims();
    let columns = dims.last().map_or(1, |&c| c as usize);
    let rows = dims.iter().rev().nth(1).map_or(1, |&r| r as usize);
    let each = rows * columns;
    (
        operand.elements().checked_div(each).unwrap_or(0),
        rows,
        columns,
    )
}

impl Kernel for Transpose {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (groups, rows, columns) = matrices(&vertex.inputs[0]);
        let found = matrices(&vertex.outputs[0]);
        if found == (groups, columns, rows) {
            return Ok(());
        }
        Err(Mismatch {
            operand: "the result".into(),
            reason: format!("has {found:?} where {:?} belong", (groups, columns, rows)),
        })
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let (_, rows, columns) = matrices(&memory.vertex().inputs[0]);
        if rows * columns == 0 {
            return;
        }
        let ([x], [y]) = memory.split();
        let x: &[u32] = super::vertex_memory::numbers(x);
        let y: &mut [u32] = super::vertex_memory::numbers_mut(y);
        let each = rows * columns;
        for (x, y) in x.chunks_exact(each).zip(y.chunks_exact_mut(each)) {
            turn(self.isa, (rows, columns), (x, columns), (y, rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codelets::testing::{run, whole};

    #[test]
    fn every_matrix_is_turned() {
        for (groups, rows, columns) in [(1, 1, 1), (1, 7, 24), (3, 24, 7), (2, 17, 33), (5, 1, 9)] {
            let x: Vec<f32> = (0..groups * rows * columns).map(|i| i as f32).collect();
            let out = run(
                &Transpose { isa: Isa::detect() },
                &[whole(&[groups, rows, columns], &x)],
                &[whole(&[groups, columns, rows], &vec![-1.0; x.len()])],
            );
            for g in 0..groups {
                for r in 0..rows {
                    for c in 0..columns {
                        let (from, to) =
                            ((g * rows + r) * columns + c, (g * columns + c) * rows + r);
                        assert_eq!(out[0][to], x[from]);
                    }
                }
            }
        }
    }
}
