//! Filling, converting, masking: codelets that move or make elements without computing much (mk2.md §3.5, §3.9).

use super::super::Machine;
use super::vector;
use crate::types::DType;
use crate::units::Cycles;

/// Cycles to set `elements`: `W·(⌈⌈n/W⌉/V⌉ + 5)` (PopLibs, zeroing of partials).
/// f32 1200 → 630.
pub fn fill(machine: &Machine, dtype: DType, elements: u64) -> Cycles {
    if elements == 0 {
        return 0;
    }
    let workers = u64::from(machine.workers);
    workers * (elements.div_ceil(workers).div_ceil(vector(dtype)) + 5)
}

/// Cycles to convert `elements`: `12 + W·(19 + loop + 18)`; `loop` is one cycle for 2 (stores of f32 bound it), or two cycles for 4 when
/// f16 is written (PopLibs `Cast1D`). Between integers and f32 as for f16 → f32.
pub fn cast(machine: &Machine, _from: DType, to: DType, elements: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    let share = elements.div_ceil(workers);
    let cycles = match to {
        DType::F16 => share.div_ceil(4) * 2,
        _ => share.div_ceil(2),
    };
    12 + workers * (19 + cycles + 18)
}

/// Cycles of dropout: `6 + 144 + 2·⌈n/V⌉` (PopLibs). The seed sets up a counter in the fixed part.
/// f16 3072 → 1,686.
pub fn dropout(_machine: &Machine, dtype: DType, elements: u64) -> Cycles {
    6 + 144 + 2 * elements.div_ceil(vector(dtype))
}

/// Cycles to blank a part of every row: one load and one store a vector, as a unary op `W·(17 + 2·⌈n/W/V⌉) + 20`. Estimated.
pub fn mask(machine: &Machine, dtype: DType, elements: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    let vectors = elements.div_ceil(workers).div_ceil(vector(dtype));
    workers * (17 + 2 * vectors) + 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values() {
        let mk2 = Machine::mk2();
        assert_eq!(fill(&mk2, DType::F32, 1200), 630);
        assert_eq!(fill(&mk2, DType::F32, 0), 0);
        assert_eq!(dropout(&mk2, DType::F16, 3072), 1_686);
        // 512 a worker: 19 + 256 + 18 to f32, the same to f16.
        assert_eq!(cast(&mk2, DType::F16, DType::F32, 3072), 12 + 6 * 293);
        assert_eq!(cast(&mk2, DType::F32, DType::F16, 3072), 12 + 6 * 293);
        assert_eq!(mask(&mk2, DType::F32, 12), 6 * 19 + 20);
    }
}
