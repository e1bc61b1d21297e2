//! `(x: [p, ..rest]) → [..rest]`: the leading part reduced in ascending order; `p` is what is left when the result's elements are taken
//! out of those of `x`.
//!
//! Sums run in `f64` and round once, when they are written: a gradient norm over a hundred thousand elements of a tile would lose
//! digits in `f32`.

use superstep_ir::op::ReduceKind;

use super::isa::isa_kernel;
use super::lanes::larger;
use super::vertex::expect_rows_of_result;
use super::vertex_memory::{numbers, numbers_mut};
use super::{Isa, Kernel, Mismatch, Scratch, Vertex, VertexMemory};
use crate::exchange::{Pieces, Runs};

/// Columns taken together: their sums stay in L1.
const COLUMNS: usize = 512;

pub(super) struct Reduce {
    pub(super) kind: ReduceKind,
    pub(super) isa: Isa,
}

impl Kernel for Reduce {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        expect_rows_of_result(vertex)
    }

    fn takes_pieces(&self) -> bool {
        true
    }

    fn run_on_pieces(
        &self,
        pieces: &Pieces<'_>,
        memory: &mut VertexMemory<'_, '_>,
        scratch: &mut Scratch,
    ) {
        let &Reduce { kind, isa } = self;
        let out: &mut [f32] = memory.output(0);
        let width = out.len();
        let Scratch {
            floats, doubles, ..
        } = scratch;
        doubles.resize(doubles.len().max(width), 0.0);
        let sums = &mut doubles[..width];
        start(kind, out, sums);
        pieces.each(isa, floats, &mut |runs| {
            take_in_runs(isa, runs, kind, out, sums)
        });
        finish_row(isa, kind, out, sums);
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let ([x], [out]) = memory.split();
        let (x, out): (&[f32], &mut [f32]) = (numbers(x), numbers_mut(out));
        scratch
            .doubles
            .resize(scratch.doubles.len().max(COLUMNS), 0.0);
        reduce(self.isa, x, self.kind, out, &mut scratch.doubles);
    }
}

isa_kernel! {
    fn reduce(x: &[f32], kind: ReduceKind, out: &mut [f32], sums: &mut [f64]) {
        let width = out.len();
        if width == 1 && kind != ReduceKind::Max {
            let squares = kind == ReduceKind::SumSquares;
            let sum = x.iter().map(|&x| f64::from(x)).fold(0.0, |sum, x| {
                sum + if squares { x * x } else { x }
            });
            out[0] = sum as f32;
            return;
        }
        for first in (0..width).step_by(COLUMNS) {
            let columns = COLUMNS.min(width - first);
            let (out, sums) = (&mut out[first..first + columns], &mut sums[..columns]);
            start(kind, out, sums);
            for row in x.chunks_exact(width) {
                take_in(&row[first..first + columns], kind, out, sums);
            }
            finish(kind, out, sums);
        }
    }
}

isa_kernel! {
    fn take_in_runs(runs: &Runs<'_>, kind: ReduceKind, out: &mut [f32], sums: &mut [f64]) {
        // All of them are of one row.
        let first = runs.at % out.len();
        let runs_of = |i: usize| (i * runs.step, first + i * runs.stride);
        for (from, to) in (0..runs.count).map(runs_of) {
            let x = &runs.floats[from..from + runs.run];
            let columns = to..to + runs.run;
            match (kind, x.first_chunk::<16>(), runs.run) {
                // The most frequent width; its length is known to the compiler.
                (ReduceKind::Sum, Some(x), 16) => take_in(x, kind, &mut [], &mut sums[columns]),
                _ => take_in(x, kind, &mut out[columns.clone()], &mut sums[columns]),
            }
        }
    }
}

isa_kernel! {
    fn finish_row(kind: ReduceKind, out: &mut [f32], sums: &[f64]) {
        finish(kind, out, sums);
    }
}

#[inline(always)]
fn start(kind: ReduceKind, out: &mut [f32], sums: &mut [f64]) {
    match kind {
        ReduceKind::Max => out.fill(f32::NEG_INFINITY),
        ReduceKind::Sum | ReduceKind::SumSquares => sums.fill(0.0),
    }
}

/// Takes in one row, or a part of one with the same part of the sums.
#[inline(always)]
fn take_in(x: &[f32], kind: ReduceKind, out: &mut [f32], sums: &mut [f64]) {
    match kind {
        ReduceKind::Max => {
            for (o, &x) in out.iter_mut().zip(x) {
                *o = larger(x, *o);
            }
        }
        ReduceKind::Sum => {
            for (s, &x) in sums.iter_mut().zip(x) {
                *s += f64::from(x);
            }
        }
        ReduceKind::SumSquares => {
            for (s, &x) in sums.iter_mut().zip(x) {
                *s += f64::from(x) * f64::from(x);
            }
        }
    }
}

#[inline(always)]
fn finish(kind: ReduceKind, out: &mut [f32], sums: &[f64]) {
    if kind == ReduceKind::Max {
        return;
    }
    for (o, &s) in out.iter_mut().zip(sums) {
        *o = s as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codelets::testing::{assert_close, bits, isas, numbers as random, run, whole};

    #[test]
    fn every_kind_on_odd_shapes() {
        for (p, rest) in [
            (1, vec![7]),
            (3, vec![]),
            (24, vec![5, 7]),
            (7, vec![1025]),
            (0, vec![4]),
            (4, vec![0]),
        ] {
            let width: usize = rest.iter().product();
            let (x, old) = (random(p * width, 1), random(width, 2));
            let dims = [&[p][..], &rest].concat();
            for kind in [ReduceKind::Sum, ReduceKind::SumSquares, ReduceKind::Max] {
                let expected: Vec<f64> = (0..width)
                    .map(|i| {
                        let column = (0..p).map(|q| f64::from(x[q * width + i]));
                        match kind {
                            ReduceKind::Sum => column.fold(0.0, |s, v| s + v),
                            ReduceKind::SumSquares => column.fold(0.0, |s, v| s + v * v),
                            ReduceKind::Max => column.fold(f64::NEG_INFINITY, f64::max),
                        }
                    })
                    .collect();
                let results: Vec<_> = isas()
                    .into_iter()
                    .map(|isa| {
                        run(
                            &Reduce { kind, isa },
                            &[whole(&dims, &x)],
                            &[whole(&rest, &old)],
                        )
                    })
                    .collect();
                assert_close(
                    &results[0][0],
                    &expected,
                    1e-7,
                    &format!("{kind:?} of {dims:?}"),
                );
                assert!(results.iter().all(|r| bits(r) == bits(&results[0])));
            }
        }
    }
}
