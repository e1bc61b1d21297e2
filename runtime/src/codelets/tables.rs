//! Rows of a table that is cut over tiles: every tile serves the ids that fall into its own entries.

use std::marker::PhantomData;

use superstep_ir::types::DType;

use super::vertex::{expect_elements, expect_rows};
use super::vertex_memory::{numbers, numbers_mut};
use super::{Kernel, Mismatch, Operand, Scratch, Vertex, VertexMemory};

/// The ids that fall into a block of a table that counts from `first`, each with its place among `ids` and the block's own row.
fn own_rows<'a>(
    ids: &'a [i32],
    first: u32,
    table: &Operand<'_>,
) -> impl Iterator<Item = (usize, usize)> + 'a {
    let (v, _) = table.rows();
    let first = i64::from(first) + table.first_row() as i64;
    let ids = ids.iter().enumerate();
    ids.filter_map(move |(i, &id)| {
        let row = i64::from(id).wrapping_sub(first) as u64;
        (row < v as u64).then_some((i, row as usize))
    })
}

/// `(table: [v, d], ids: i32[n]) → [1, n, d]`: rows of other tiles' ids are 0.
struct Gather<T> {
    first: u32,
    element: PhantomData<T>,
}

/// The kernel for a table and rows of `dtype`, whose bits are all that matters.
pub(super) fn gather(dtype: DType, first: u32) -> Box<dyn Kernel> {
    match dtype.bytes() {
        2 => Box::new(Gather::<u16>::from(first)),
        _ => Box::new(Gather::<u32>::from(first)),
    }
}

impl<T> From<u32> for Gather<T> {
    fn from(first: u32) -> Self {
        let element = PhantomData;
        Gather { first, element }
    }
}

impl<T: bytemuck::Pod + Send + Sync> Kernel for Gather<T> {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (_, d) = vertex.inputs[0].rows();
        expect_rows(
            "the result",
            &vertex.outputs[0],
            (vertex.inputs[1].elements(), d),
        )
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.outputs[0].elements() as f64 * 0.3
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let operand = &vertex.inputs[0];
        let (_, d) = operand.rows();
        let ([table, ids], [out]) = memory.split();
        let (table, ids, out): (&[T], &[i32], &mut [T]) =
            (numbers(table), numbers(ids), numbers_mut(out));
        // Most ids are other tiles'.
        out.fill(T::zeroed());
        for (i, row) in own_rows(ids, self.first, operand) {
            out[i * d..][..d].copy_from_slice(&table[row * d..][..d]);
        }
    }
}

/// `(ids: i32[n], updates: [n, d]) → table: [v, d]` in place, in the order of the ids.
pub(super) struct ScatterAdd {
    pub(super) first: u32,
}

impl Kernel for ScatterAdd {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (_, d) = vertex.outputs[0].rows();
        expect_rows(
            "updates",
            &vertex.inputs[1],
            (vertex.inputs[0].elements(), d),
        )
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.inputs[0].elements() as f64 * 2.0 + 100.0
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let operand = &vertex.outputs[0];
        let (_, d) = operand.rows();
        let ([ids, updates], [table]) = memory.split();
        let (ids, updates, table): (&[i32], &[f32], &mut [f32]) =
            (numbers(ids), numbers(updates), numbers_mut(table));
        for (i, row) in own_rows(ids, self.first, operand) {
            for (t, &u) in table[row * d..][..d].iter_mut().zip(&updates[i * d..][..d]) {
                *t += u;
            }
        }
    }
}

/// `(first: i32[n], rows: [n, r, d]) → base: [n, s, d]` in place: rows that fall into this tile's part of a matrix replace what is there.
struct WriteRows<T>(PhantomData<T>);

/// The kernel for rows of `dtype`, whose bits are all that matters.
pub(super) fn write_rows(dtype: DType) -> Box<dyn Kernel> {
    match dtype.bytes() {
        2 => Box::new(WriteRows::<u16>(PhantomData)),
        _ => Box::new(WriteRows::<u32>(PhantomData)),
    }
}

impl<T: bytemuck::Pod + Send + Sync> Kernel for WriteRows<T> {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (n, _, d) = vertex.outputs[0].matrices();
        let (_, written, _) = vertex.inputs[1].matrices();
        expect_elements("the first rows", &vertex.inputs[0], n)?;
        expect_rows("the rows", &vertex.inputs[1], (n * written, d))
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.inputs[1].elements() as f64 * 0.3
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let operand = &vertex.outputs[0];
        let (_, s, d) = operand.matrices();
        let (_, written, _) = vertex.inputs[1].matrices();
        let ([first, rows], [base]) = memory.split();
        let (first, rows, base): (&[i32], &[T], &mut [T]) =
            (numbers(first), numbers(rows), numbers_mut(base));
        if s * d * written == 0 {
            return;
        }
        let matrices = base.chunks_exact_mut(s * d);
        for ((matrix, &first), rows) in matrices.zip(first).zip(rows.chunks_exact(written * d)) {
            // Where the first row would be in this block, perhaps before it.
            let at = i64::from(first) - operand.first_row() as i64;
            let from = (-at).clamp(0, written as i64) as usize;
            let to = (s as i64 - at).clamp(from as i64, written as i64) as usize;
            if from < to {
                let at = (at + from as i64) as usize;
                matrix[at * d..][..(to - from) * d].copy_from_slice(&rows[from * d..to * d]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codelets::testing::{block, integers, numbers as random, run, whole};

    #[test]
    fn gather_serves_its_own_rows_only() {
        let table = random(3 * 5, 1);
        let ids = [4, 6, -1, 7, 5, 4, 100, i32::MIN, i32::MAX];
        let inputs = [
            block(&[24, 5], &[4, 0], &[3, 5], &table),
            integers(DType::I32, &[9], &ids),
        ];
        let out = run(
            &*gather(DType::F32, 0),
            &inputs,
            &[whole(&[1, 9, 5], &[7.0; 45])],
        );
        for (i, &id) in ids.iter().enumerate() {
            let row = &out[0][i * 5..][..5];
            match id {
                4..=6 => assert_eq!(row, &table[(id as usize - 4) * 5..][..5]),
                _ => assert_eq!(row, [0.0; 5]),
            }
        }
    }

    #[test]
    fn scatter_adds_in_order() {
        let (table, updates) = (random(3 * 7, 1), random(5 * 7, 2));
        let ids = [6, 4, 6, -3, 9];
        let inputs = [integers(DType::I32, &[5], &ids), whole(&[5, 7], &updates)];
        let out = run(
            &ScatterAdd { first: 0 },
            &inputs,
            &[block(&[24, 7], &[4, 0], &[3, 7], &table)],
        );
        for j in 0..7 {
            assert_eq!(out[0][j], table[j] + updates[7 + j]);
            assert_eq!(out[0][7 + j], table[7 + j]);
            assert_eq!(out[0][14 + j], table[14 + j] + updates[j] + updates[14 + j]);
        }
    }

    #[test]
    fn rows_are_written_where_they_fall_into_the_block() {
        // Rows 4..7 of two matrices of 24.
        let (base, rows) = (random(2 * 3 * 5, 1), random(2 * 2 * 5, 2));
        for first in [[4, 5], [3, 6], [2, 7], [5, -1], [i32::MIN, i32::MAX]] {
            let inputs = [integers(DType::I32, &[2], &first), whole(&[2, 2, 5], &rows)];
            let place = block(&[2, 24, 5], &[0, 4, 0], &[2, 3, 5], &base);
            let out = run(&*write_rows(DType::F32), &inputs, &[place]);
            for (matrix, &first) in first.iter().enumerate() {
                for row in 0..3i64 {
                    let written = row + 4 - i64::from(first);
                    let (wanted, at) = match written {
                        0 | 1 => (&rows, (matrix * 2 + written as usize) * 5),
                        _ => (&base, (matrix * 3 + row as usize) * 5),
                    };
                    let found = &out[0][(matrix * 3 + row as usize) * 5..][..5];
                    assert_eq!(found, &wanted[at..][..5], "{first} {row}");
                }
            }
        }
    }

    #[test]
    fn ids_count_from_the_first_of_a_slice() {
        let table = random(3 * 5, 1);
        let ids = [4, 6, 7, 5, 0, -1, i32::MIN, i32::MAX];
        let shifted = ids.map(|id: i32| id.wrapping_add(1000));
        let slice = block(&[24, 5], &[4, 0], &[3, 5], &table);
        let updates = whole(&[8, 5], &random(8 * 5, 2));
        let both = |ids: &[i32], first| {
            let ids = integers(DType::I32, &[8], ids);
            let inputs = [slice.clone(), ids.clone()];
            let out = whole(&[1, 8, 5], &[7.0; 40]);
            let rows = run(&*gather(DType::F32, first), &inputs, &[out]);
            let inputs = [ids, updates.clone()];
            let table = run(&ScatterAdd { first }, &inputs, std::slice::from_ref(&slice));
            (rows, table)
        };
        assert_eq!(both(&shifted, 1000), both(&ids, 0));
    }

    #[test]
    fn empty_blocks() {
        let ids = integers(DType::I32, &[2], &[0, 1]);
        let out = run(
            &*gather(DType::F32, 0),
            &[block(&[4, 3], &[4, 0], &[0, 3], &[]), ids.clone()],
            &[whole(&[1, 2, 3], &[7.0; 6])],
        );
        assert_eq!(out[0], [0.0; 6]);
        let out = run(
            &ScatterAdd { first: 0 },
            &[ids, whole(&[2, 3], &[1.0; 6])],
            &[block(&[4, 3], &[4, 0], &[0, 3], &[])],
        );
        assert!(out[0].is_empty());
    }
}
