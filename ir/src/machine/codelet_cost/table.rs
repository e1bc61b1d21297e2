//! Embedding tables: look-up and update-add (PopLibs `multiSlice`, `multiUpdateOp`; mk2.md §3.9).
//!
//! How many ids fall into a tile's entries depends on the text, timing must not. The busiest tile decides, and with natural text it holds the
//! few commonest tokens; so all ids count as hits, shared out evenly over the workers.

use super::super::Machine;
use super::{Spent, Vectors, Work, vector};
use crate::types::DType;

/// Cycles to look up `ids` rows of `columns` elements: `W·(30 + ⌈ids/W⌉·(19 + 2·⌈r/2⌉))`.
pub fn gather(machine: &Machine, ids: u64, columns: u64) -> Spent {
    let workers = u64::from(machine.workers);
    let each = 19 + 2 * columns.div_ceil(2);
    let even = ids as f64 / workers as f64;
    Work::units(30, ids.div_ceil(workers), even, each).vertex(machine, 0)
}

/// Cycles to add `ids` rows of `columns` elements into the table: f16 `W·(3 + 30 + in·(12 + 3·(⌈r/2⌉ − 1)) + out·5)`,
/// f32 `W·(3 + 29 + in·(11 + 3·(r − 1)) + out·5)`. A worker owns a part of the table: of all ids it adds `in = ⌈ids/W⌉` and passes over
/// the `out` others.
pub fn scatter_add(machine: &Machine, dtype: DType, ids: u64, columns: u64) -> Spent {
    let workers = u64::from(machine.workers);
    let share = ids.div_ceil(workers);
    let (setup, row, atoms) = match dtype {
        DType::F16 => (30, 12, columns.div_ceil(2)),
        _ => (29, 11, columns),
    };
    let each = row + 3 * atoms.saturating_sub(1);
    let even = ids as f64 / workers as f64;
    let passed_over = Work::units(0, ids - share, (ids - share) as f64, 5);
    (Work::units(3 + setup, share, even, each) + passed_over).vertex(machine, 0)
}

/// Cycles to copy one entry of `elements` into or out of a ring at an index known only at run time: `25 + W·(39 + 24 + 2·⌈p/V⌉)` with
/// `p` the share of a worker (PopLibs `DynamicSlice1d`, one row).
/// f16 3072 → 25 + 6·(63 + 256).
pub fn dynamic_slice(machine: &Machine, dtype: DType, elements: u64) -> Spent {
    if elements == 0 {
        return Spent::default();
    }
    let Vectors { busiest, even } = Vectors::of(machine, vector(dtype), elements);
    Work::units(39 + 24, busiest, even, 2).vertex(machine, 25)
}

/// Cycles to replace `elements` elements of rows in `matrices` matrices at a row known only at run time: for each matrix that of a ring's
/// entry, without the supervisor's part, which is there once. All rows count as this tile's: which tile has them depends on the text.
pub fn write_rows(machine: &Machine, dtype: DType, matrices: u64, elements: u64) -> Spent {
    if elements == 0 {
        return Spent::default();
    }
    let Vectors { busiest, even } = Vectors::of(machine, vector(dtype), elements / matrices);
    let each = Work::units(39 + 24, busiest, even, 2).vertex(machine, 0);
    Spent {
        cycles: 25 + matrices * each.cycles,
        fixed: 25 + matrices * each.fixed,
        even: matrices as f64 * each.even,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_at_small_odd_and_large_sizes() {
        let mk2 = Machine::mk2();
        let cycles = |ids, columns| gather(&mk2, ids, columns).cycles;
        assert_eq!(cycles(1, 1), 6 * (30 + 21));
        assert_eq!(cycles(12, 32), 6 * (30 + 2 * 51));
        assert_eq!(cycles(1024, 17), 6 * (30 + 171 * 37));
    }

    #[test]
    fn ring_entries_at_small_odd_and_large_sizes() {
        let mk2 = Machine::mk2();
        let cycles = |dtype, n| dynamic_slice(&mk2, dtype, n).cycles;
        assert_eq!(cycles(DType::F32, 0), 0);
        assert_eq!(cycles(DType::F32, 1), 25 + 6 * 65);
        assert_eq!(cycles(DType::F32, 31), 25 + 6 * (63 + 2 * 3));
        assert_eq!(cycles(DType::F16, 3072), 25 + 6 * (63 + 256));
    }

    #[test]
    fn rows_written_at_small_odd_and_large_sizes() {
        let mk2 = Machine::mk2();
        let cycles = |dtype, n, elements| write_rows(&mk2, dtype, n, elements).cycles;
        assert_eq!(cycles(DType::F32, 1, 0), 0);
        assert_eq!(cycles(DType::F32, 1, 1), 25 + 6 * 65);
        assert_eq!(cycles(DType::F32, 3, 3 * 31), 25 + 3 * 6 * (63 + 2 * 3));
        assert_eq!(cycles(DType::F16, 2, 2 * 3072), 25 + 2 * 6 * (63 + 256));
    }

    #[test]
    fn update_adds_at_small_odd_and_large_sizes() {
        let mk2 = Machine::mk2();
        let cycles = |dtype, ids, columns| scatter_add(&mk2, dtype, ids, columns).cycles;
        assert_eq!(cycles(DType::F32, 1, 1), 6 * (32 + 11));
        assert_eq!(cycles(DType::F32, 12, 32), 6 * (32 + 2 * 104 + 10 * 5));
        assert_eq!(cycles(DType::F16, 12, 32), 6 * (33 + 2 * 57 + 10 * 5));
        assert_eq!(cycles(DType::F32, 1024, 17), 6 * (32 + 171 * 59 + 853 * 5));
    }
}
