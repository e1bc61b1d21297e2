//! Turning an operand of the matrix unit, block by block.

use super::super::Machine;
use super::super::calibration::{TRANSPOSE_CYCLES_PER_BLOCK, TRANSPOSE_OVERHEAD};
use crate::types::DType;
use crate::units::Cycles;

/// Cycles to transpose `groups` matrices `[rows, columns]`: `W·(20 + 4·⌈blocks/W⌉)`, in blocks of 4 × 4 (f16) or 2 × 2 (f32)
/// elements; blocks at the edges count whole. Estimated after mk2.md §3.5.
pub fn transpose(machine: &Machine, dtype: DType, groups: u64, rows: u64, columns: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    let side = super::vector(dtype);
    let blocks = groups * rows.div_ceil(side) * columns.div_ceil(side);
    workers * (TRANSPOSE_OVERHEAD + TRANSPOSE_CYCLES_PER_BLOCK * blocks.div_ceil(workers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_shared_out_over_the_workers() {
        let mk2 = Machine::mk2();
        // 24 blocks of 4 × 4, four for each worker.
        assert_eq!(transpose(&mk2, DType::F16, 1, 16, 24), 6 * (20 + 16));
        // 96 blocks of 2 × 2, sixteen for each worker.
        assert_eq!(transpose(&mk2, DType::F32, 1, 16, 24), 6 * (20 + 64));
        assert_eq!(transpose(&mk2, DType::F32, 1, 1, 1), 6 * 24);
    }
}
