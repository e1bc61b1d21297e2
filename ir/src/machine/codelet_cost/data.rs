//! Filling, converting, masking: codelets that move or make elements without computing much (mk2.md §3.5, §3.9).

use super::super::Machine;
use super::{Spent, Vectors, Work, vector};
use crate::types::DType;
use crate::units::Cycles;

/// Cycles to set the random number generators of a tile: `14 + 162` (mk2.md §3.9).
pub const SET_SEED: Cycles = 14 + 162;

/// Cycles to set `elements`: `W·(⌈⌈n/W⌉/V⌉ + 5)` (PopLibs, zeroing of partials).
/// f32 1200 → 630.
pub fn fill(machine: &Machine, dtype: DType, elements: u64) -> Spent {
    if elements == 0 {
        return Spent::default();
    }
    let Vectors { busiest, even } = Vectors::of(machine, vector(dtype), elements);
    Work::units(5, busiest, even, 1).vertex(machine, 0)
}

/// Cycles to convert `elements`: `12 + W·(19 + loop + 18)`; `loop` is one cycle for 2 (stores of f32 bound it), or two cycles for 4 when
/// f16 is written (PopLibs `Cast1D`). Between integers and f32 as for f16 → f32.
pub fn cast(machine: &Machine, _from: DType, to: DType, elements: u64) -> Spent {
    let (at_once, each) = if to == DType::F16 { (4, 2) } else { (2, 1) };
    let Vectors { busiest, even } = Vectors::of(machine, at_once, elements);
    Work::units(19 + 18, busiest, even, each).vertex(machine, 12)
}

/// Cycles of dropout: `6 + 144 + 2·⌈n/V⌉` (PopLibs). The seed sets up a counter in the fixed part.
/// f16 3072 → 1,686.
pub fn dropout(_machine: &Machine, dtype: DType, elements: u64) -> Spent {
    let v = vector(dtype);
    Spent {
        cycles: 6 + 144 + 2 * elements.div_ceil(v),
        fixed: 6 + 144,
        even: 2.0 * elements as f64 / v as f64,
    }
}

/// Cycles to blank a part of every row: one load and one store a vector, as a unary op `W·(17 + 2·⌈n/W/V⌉) + 20`. Estimated.
pub fn mask(machine: &Machine, dtype: DType, elements: u64) -> Spent {
    let Vectors { busiest, even } = Vectors::of(machine, vector(dtype), elements);
    Work::units(17, busiest, even, 2).vertex(machine, 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_at_small_odd_and_large_sizes() {
        let mk2 = Machine::mk2();
        let cycles = |dtype, n| fill(&mk2, dtype, n).cycles;
        assert_eq!(cycles(DType::F32, 0), 0);
        assert_eq!(cycles(DType::F32, 1), 6 * 6);
        assert_eq!(cycles(DType::F32, 13), 6 * (2 + 5));
        assert_eq!(cycles(DType::F32, 1200), 630);
        assert_eq!(cycles(DType::F16, 1200), 6 * (50 + 5));
    }

    #[test]
    fn casts_at_small_odd_and_large_sizes() {
        let mk2 = Machine::mk2();
        let cycles = |from, to, n| cast(&mk2, from, to, n).cycles;
        // 512 a worker: 19 + 256 + 18 to f32, the same to f16.
        assert_eq!(cycles(DType::F16, DType::F32, 3072), 12 + 6 * 293);
        assert_eq!(cycles(DType::F32, DType::F16, 3072), 12 + 6 * 293);
        // One element: a vector of 2 in one cycle, a vector of 4 in two.
        assert_eq!(cycles(DType::F16, DType::F32, 1), 12 + 6 * 38);
        assert_eq!(cycles(DType::F32, DType::F16, 1), 12 + 6 * 39);
        assert_eq!(cycles(DType::F32, DType::F16, 31), 12 + 6 * (37 + 4));
    }

    #[test]
    fn dropout_and_mask_at_small_odd_and_large_sizes() {
        let mk2 = Machine::mk2();
        assert_eq!(dropout(&mk2, DType::F16, 3072).cycles, 1_686);
        assert_eq!(dropout(&mk2, DType::F32, 3072).cycles, 3_222);
        assert_eq!(dropout(&mk2, DType::F32, 7).cycles, 158);
        assert_eq!(mask(&mk2, DType::F32, 12).cycles, 6 * 19 + 20);
        assert_eq!(mask(&mk2, DType::F16, 3072).cycles, 6 * (17 + 256) + 20);
    }
}
