//! Turning an operand of the matrix unit, block by block.

use super::super::Machine;
use super::super::calibration::TRANSPOSE_OVERHEAD;
use super::{Spent, Vectors, Work};
use crate::types::DType;

/// Cycles to transpose `groups` matrices `[rows, columns]`. f16 whose extents are multiples of 4 goes in blocks of 4 × 4 elements,
/// `W·(20 + 4·⌈blocks/W⌉)`; all else element by element, `W·(20 + 3·⌈n/W⌉)`. Estimated after mk2.md §3.5 and §8.
pub fn transpose(machine: &Machine, dtype: DType, groups: u64, rows: u64, columns: u64) -> Spent {
    let elements = groups * rows * columns;
    let in_blocks = dtype.bytes() == 2 && rows.is_multiple_of(4) && columns.is_multiple_of(4);
    let (at_once, each) = if in_blocks {
        (16, machine.transpose_block_cycles)
    } else {
        (1, machine.transpose_element_cycles)
    };
    let Vectors { busiest, even } = Vectors::of_vectors(machine, at_once, elements);
    Work::units(TRANSPOSE_OVERHEAD, busiest, even, each).vertex(machine, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_elements_are_shared_out_over_the_workers() {
        let mk2 = Machine::mk2();
        let cycles = |dtype, rows, columns| transpose(&mk2, dtype, 1, rows, columns).cycles;
        // 24 blocks of 4 × 4, four for each worker.
        assert_eq!(cycles(DType::F16, 16, 24), 6 * (20 + 16));
        // 21 · 23 = 483 elements, 81 for the busiest worker.
        assert_eq!(cycles(DType::F16, 21, 23), 6 * (20 + 3 * 81));
        // 384 elements, 64 for each worker: 3 tile cycles an element.
        assert_eq!(cycles(DType::F32, 16, 24), 6 * (20 + 3 * 64));
        assert_eq!(cycles(DType::F32, 1, 1), 6 * 23);
    }
}
