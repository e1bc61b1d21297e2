//! Reduction over the leading dimension: partial sums after a split of the contraction, sums over rows, norms (mk2.md §3.4, §3.8).

use super::super::Machine;
use super::{Spent, Vectors, Work, vector};
use crate::types::DType;

/// Bytes of a memory element: what partials are rounded up to before they are compared with the tile's memory.
const MEMORY_ELEMENT: u64 = 16 << 10;

/// Cycles to reduce `partials` blocks of `outputs` elements, in element types `[input, output]`. Many partials of few outputs go the way of a
/// reduction to a scalar, all others that of `ReduceAdd`.
pub fn reduce(machine: &Machine, types: [DType; 2], outputs: u64, partials: u64) -> Spent {
    if outputs < vector(types[0]) {
        to_few(machine, types, outputs, partials)
    } else {
        reduce_add(machine, types, outputs, partials)
    }
}

/// How `ReduceAdd` finds its partials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partials {
    /// Anywhere: a pointer for each.
    Scattered,
    /// One after the other.
    Contiguous,
    /// One after the other in interleaved memory, read 128 bits at a time.
    Interleaved,
}

/// Cycles of PopLibs' `ReduceAdd` in the form that fits: the partials of a vertex lie one after the other, and may be read so when the
/// outputs are a multiple of `A` and the partials fill less than 1/16 of the tile's memory.
/// out 1536, d 4, f16: 3,033.
pub fn reduce_add(machine: &Machine, [from, to]: [DType; 2], outputs: u64, partials: u64) -> Spent {
    let bytes = outputs * partials * from.bytes() as u64;
    let whole = outputs.is_multiple_of(2 * vector(from));
    let fits = bytes.next_multiple_of(MEMORY_ELEMENT) < u64::from(machine.tile_memory) / 16;
    let how = if whole && fits {
        Partials::Contiguous
    } else {
        Partials::Scattered
    };
    reduce_add_from(machine, how, [from, to], outputs, partials)
}

/// Cycles of PopLibs' `ReduceAdd` (mk2.md §3.4), `A` = 8 (f16) or 4 (f32) outputs at a time, `d` partials:
///
/// ```text
/// scattered:    W·(32 + (3·d + e)·⌈⌊out/A⌋/W⌉ + tail)            e  = 8 f16→f16, 9 f16→f32, 6 f32→f16, 7 f32→f32
/// contiguous:   33 + W·(20 + (2·(d − 1) + e')·⌈⌊out/A⌋/W⌉)       e' = e + 1
/// interleaved:  33 + W·(20 + (d − 1 + e')·⌈⌊out/A⌋/W⌉)
/// ```
/// A tail of outputs that do not make an `A` costs `2·d + 11` (13 f32) more, once.
/// out 1536, d 4, f16: 4,032, 3,033, 2,457.
pub fn reduce_add_from(
    machine: &Machine,
    how: Partials,
    [from, to]: [DType; 2],
    outputs: u64,
    partials: u64,
) -> Spent {
    let at_once = 2 * vector(from);
    let workers = u64::from(machine.workers);
    let busiest = (outputs / at_once).div_ceil(workers);
    let even = outputs as f64 / (at_once * workers) as f64;
    let overhead = match (from, to) {
        (DType::F16, DType::F16) => 8,
        (DType::F16, _) => 9,
        (_, DType::F16) => 6,
        _ => 7,
    };
    let others = partials.saturating_sub(1);
    let (supervisor, setup, each) = match how {
        Partials::Scattered => (0, 32, 3 * partials + overhead),
        Partials::Contiguous => (33, 20, 2 * others + overhead + 1),
        Partials::Interleaved => (33, 20, others + overhead + 1),
    };
    let mut work = Work::units(setup, busiest, even, each);
    if !outputs.is_multiple_of(at_once) {
        work.busiest += 2 * partials + if from == DType::F16 { 11 } else { 13 };
        work.even = work.even.min(work.busiest as f64);
    }
    work.vertex(machine, supervisor)
}

/// Cycles to reduce a long run to one number (or a few): every worker reduces a share in `14 + n/V + (n mod 2V) + 3` worker cycles, 5 more
/// if the result is not f32, then one worker joins the workers' results (mk2.md §3.8).
pub fn to_few(machine: &Machine, [from, to]: [DType; 2], outputs: u64, partials: u64) -> Spent {
    let v = vector(from);
    let narrow = if to == DType::F32 { 0 } else { 5 };
    let workers = u64::from(machine.workers);
    let run = |n: u64, result: u64| Work {
        fixed: 14 + 3 + result,
        busiest: n / v + n % (2 * v),
        even: 0.0,
    };
    let Vectors { even, .. } = Vectors::of(machine, v, partials);
    let mut work = run(partials.div_ceil(workers), 0) + run(workers.min(partials), narrow);
    work.even = even.min(work.busiest as f64);
    (outputs * work).vertex(machine, 0)
}

/// Cycles to reduce each of `rows` contiguous runs of `columns` to one number: `W·(17 + R·(12 + ⌈m/V⌉))` (mk2.md §3.8).
pub fn rows(machine: &Machine, dtype: DType, rows: u64, columns: u64) -> Spent {
    super::Share::least(machine, dtype, rows, columns, |share| {
        share.reduce_rows().vertex(machine, 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_from_size_and_place() {
        let mk2 = Machine::mk2();
        let f16 = [DType::F16; 2];
        assert_eq!(reduce_add(&mk2, f16, 1536, 4).cycles, 3_033);
        // A tile with less memory may not hold the partials together.
        let small = Machine {
            tile_memory: 200_000,
            ..mk2
        };
        assert_eq!(reduce_add(&small, f16, 1536, 4).cycles, 4_032);
    }

    #[test]
    fn f32_takes_four_outputs_at_a_time() {
        let mk2 = Machine::mk2();
        let cycles = |outputs, partials| reduce(&mk2, [DType::F32; 2], outputs, partials).cycles;
        // 1536/4 = 384, 64 a worker: 33 + 6·(20 + (2·3 + 8)·64).
        assert_eq!(cycles(1536, 4), 5_529);
        // A tail of one: 24 outputs in whole vectors, one a worker: 6·(32 + (3·4 + 7) + 2·4 + 13).
        assert_eq!(cycles(25, 4), 432);
        // Nothing but a tail.
        assert_eq!(cycles(3, 2), 6 * (32 + 2 * 2 + 13));
    }

    #[test]
    fn mixed_types_have_overheads_of_their_own() {
        let mk2 = Machine::mk2();
        let cycles = |types| reduce(&mk2, types, 1536, 4).cycles;
        assert_eq!(cycles([DType::F16, DType::F32]), 33 + 6 * (20 + 16 * 32));
        assert_eq!(cycles([DType::F32, DType::F16]), 33 + 6 * (20 + 13 * 64));
    }

    #[test]
    fn a_scalar_is_reduced_by_all_workers() {
        let mk2 = Machine::mk2();
        let f32 = [DType::F32; 2];
        // Each worker 1000 elements: 14 + 500 + 0 + 3; then six: 14 + 3 + 2 + 3.
        assert_eq!(reduce(&mk2, f32, 1, 6000).cycles, 6 * (517 + 22));
        // One element: 14 + 0 + 1 + 3, twice.
        assert_eq!(reduce(&mk2, f32, 1, 1).cycles, 6 * 36);
        // f16: 1000 = 125·8 a worker, 250 vectors; the result is rounded to f16 once.
        let f16 = [DType::F16; 2];
        assert_eq!(
            reduce(&mk2, f16, 1, 6000).cycles,
            6 * (267 + 14 + 1 + 6 + 8)
        );
    }

    #[test]
    fn rows_are_shared_out_whole() {
        let mk2 = Machine::mk2();
        assert_eq!(rows(&mk2, DType::F32, 24, 1024).cycles, 6 * (17 + 4 * 524));
        assert_eq!(rows(&mk2, DType::F16, 7, 24).cycles, 6 * (17 + 2 * 18));
    }
}
