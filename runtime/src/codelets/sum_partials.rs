//! `(x: [p, ..rest]) → [..rest]`: partial results of a product added up; `p` is what is left when the result's elements are taken out
//! of those of `x`.
//!
//! Computed: `sum = ((x[0] + x[1]) + x[2]) + …` in `f32`, and `out = sum`, or `out + sum` with `accumulate`.
//! Order:    a chain for each element, over ascending `p`. So partials may be added up one by one, as they are made.

use super::isa::isa_kernel;
use super::vertex::expect_rows_of_result;
use super::vertex_memory::{numbers, numbers_mut};
use super::{Isa, Kernel, Mismatch, Scratch, Vertex, VertexMemory};
use crate::exchange::{Pieces, Runs};

pub(super) struct SumPartials {
    pub(super) accumulate: bool,
    pub(super) isa: Isa,
}

impl SumPartials {
    /// Lets `add_up` make the sum, either in `out` or beside it.
    fn around(&self, out: &mut [f32], work: &mut Vec<f32>, add_up: impl FnOnce(&mut [f32])) {
        if !self.accumulate {
            return add_up(out);
        }
        if work.len() < out.len() {
            work.resize(out.len(), 0.0);
        }
        let sum = &mut work[..out.len()];
        add_up(sum);
        add(self.isa, sum, out);
    }
}

impl Kernel for SumPartials {
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
        let Scratch { floats, sums, .. } = scratch;
        let is_empty = memory.vertex().inputs[0].elements() == 0;
        self.around(memory.output(0), sums, |sum| {
            if is_empty {
                sum.fill(0.0);
            }
            pieces.each(self.isa, floats, &mut |runs| take_runs(self.isa, runs, sum));
        });
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let ([x], [out]) = memory.split();
        let (x, out): (&[f32], &mut [f32]) = (numbers(x), numbers_mut(out));
        self.around(out, &mut scratch.sums, |sum| add_up(self.isa, x, sum));
    }
}

isa_kernel! {
    fn add_up(x: &[f32], sum: &mut [f32]) {
        let mut rows = x.chunks_exact(sum.len().max(1));
        match rows.next() {
            Some(first) => sum.copy_from_slice(first),
            None => sum.fill(0.0),
        }
        for row in rows {
            add_row(row, sum);
        }
    }
}

isa_kernel! {
    fn add(x: &[f32], sum: &mut [f32]) {
        add_row(x, sum);
    }
}

isa_kernel! {
    fn take_runs(runs: &Runs<'_>, sum: &mut [f32]) {
        // All of them are of one row.
        let width = sum.len();
        let (is_first, first) = (runs.at < width, runs.at % width);
        for i in 0..runs.count {
            let (from, to) = (i * runs.step, first + i * runs.stride);
            let x = &runs.floats[from..from + runs.run];
            let sum = &mut sum[to..to + runs.run];
            // The most frequent width; its length is known to the compiler.
            match (is_first, x.first_chunk::<16>(), runs.run) {
                (true, Some(x), 16) => sum.copy_from_slice(x),
                (false, Some(x), 16) => add_row(x, sum),
                (true, ..) => sum.copy_from_slice(x),
                (false, ..) => add_row(x, sum),
            }
        }
    }
}

#[inline(always)]
fn add_row(x: &[f32], sum: &mut [f32]) {
    for (s, &x) in sum.iter_mut().zip(x) {
        *s += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codelets::testing::{isas, numbers as random, run, whole};

    #[test]
    fn a_chain_from_the_first_partial_and_then_onto_the_old_result() {
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
            for (accumulate, isa) in [false, true]
                .into_iter()
                .flat_map(|a| isas().into_iter().map(move |isa| (a, isa)))
            {
                let expected: Vec<f32> = (0..width)
                    .map(|i| {
                        let column = (0..p).map(|q| x[q * width + i]);
                        let sum = column.reduce(|sum, x| sum + x).unwrap_or(0.0);
                        if accumulate { old[i] + sum } else { sum }
                    })
                    .collect();
                let kernel = SumPartials { accumulate, isa };
                let found = run(&kernel, &[whole(&dims, &x)], &[whole(&rest, &old)]);
                assert_eq!(found[0], expected, "{dims:?}");
            }
        }
    }
}
