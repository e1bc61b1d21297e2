//! Reduction over the leading dimension: partial sums after a split of the contraction, sums over rows, norms (mk2.md §3.4, §3.8).

use super::super::Machine;
use super::vector;
use crate::types::DType;
use crate::units::Cycles;

/// Bytes of a memory element: what partials are rounded up to before they are compared with the tile's memory.
const MEMORY_ELEMENT: u64 = 16 << 10;

/// Cycles to reduce `partials` blocks of `outputs` elements, in element types `[input, output]`. Many partials of few outputs go the way of a
/// reduction to a scalar, all others that of `ReduceAdd`.
pub fn reduce(machine: &Machine, [from, to]: [DType; 2], outputs: u64, partials: u64) -> Cycles {
    if outputs < vector(from) {
        to_few(machine, from, outputs, partials)
    } else {
        reduce_add(machine, [from, to], outputs, partials)
    }
}

/// Cycles of PopLibs' `ReduceAdd` (mk2.md §3.4), `A` = 8 (f16) or 4 (f32) outputs at a time, `d` partials:
///
/// ```text
/// one contiguous input:  33 + W·(20 + (2·(d − 1) + e')·⌈⌈out/A⌉/W⌉)      e' = 9 f16→f16, 10 f16→f32, 7 f32→f16, 8 f32→f32
/// several inputs:        W·(32 + (3·d + e)·⌈⌈out/A⌉/W⌉)                  e  = e' − 1
/// ```
/// The first applies when `out` is a multiple of `A` and the partials fill less than 1/16 of the tile's memory. A tail costs the second
/// way `2·d + 11` (13 f32) more, once.
/// out 1536, d 4, f16: 3,033 and 4,032.
pub fn reduce_add(
    machine: &Machine,
    [from, to]: [DType; 2],
    outputs: u64,
    partials: u64,
) -> Cycles {
    let workers = u64::from(machine.workers);
    let at_once = 2 * vector(from);
    let per_worker = (outputs / at_once).div_ceil(workers);
    let bytes = outputs * partials * from.bytes() as u64;
    let whole = outputs.is_multiple_of(at_once);
    let overhead = match (from, to) {
        (DType::F16, DType::F16) => 8,
        (DType::F16, _) => 9,
        (_, DType::F16) => 6,
        _ => 7,
    };
    if whole && bytes.next_multiple_of(MEMORY_ELEMENT) < u64::from(machine.tile_memory) / 16 {
        let loop_cycles = 2 * partials.saturating_sub(1) + overhead + 1;
        return 33 + workers * (20 + loop_cycles * per_worker);
    }
    let tail = match (whole, from) {
        (true, _) => 0,
        (false, DType::F16) => 2 * partials + 11,
        (false, _) => 2 * partials + 13,
    };
    workers * (32 + (3 * partials + overhead) * per_worker + tail)
}

/// Cycles to reduce a long run to one number (or a few): every worker reduces a share in `14 + n/V + (n mod 2V) + 8` worker cycles,
/// then one worker joins the workers' results (mk2.md §3.8).
pub fn to_few(machine: &Machine, dtype: DType, outputs: u64, partials: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    let v = vector(dtype);
    let run = |n: u64| 14 + n / v + n % (2 * v) + 3 + 5;
    workers * outputs * (run(partials.div_ceil(workers)) + run(workers.min(partials)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduce_add_has_the_published_check_values() {
        let mk2 = Machine::mk2();
        let f16 = [DType::F16; 2];
        assert_eq!(reduce_add(&mk2, f16, 1536, 4), 3_033);
        // A tile with less memory may not hold the partials together.
        let small = Machine {
            tile_memory: 200_000,
            ..mk2
        };
        assert_eq!(reduce_add(&small, f16, 1536, 4), 4_032);
    }

    #[test]
    fn f32_takes_four_outputs_at_a_time() {
        // 1536/4 = 384, 64 a worker: 33 + 6·(20 + (2·3 + 8)·64).
        assert_eq!(reduce(&Machine::mk2(), [DType::F32; 2], 1536, 4), 5_529);
        // A tail of one: 24 outputs in whole vectors, one a worker: 6·(32 + (3·4 + 7) + 2·4 + 13).
        assert_eq!(reduce(&Machine::mk2(), [DType::F32; 2], 25, 4), 432);
    }

    #[test]
    fn a_scalar_is_reduced_by_all_workers() {
        // Each worker 1000 elements: 14 + 500 + 0 + 8; then six: 14 + 3 + 2 + 8.
        let cycles = reduce(&Machine::mk2(), [DType::F32; 2], 1, 6000);
        assert_eq!(cycles, 6 * (522 + 27));
    }
}
