//! Embedding tables: look-up and update-add (PopLibs `multiSlice`, `multiUpdateOp`; mk2.md §3.9).
//!
//! How many ids fall into a tile's entries depends on the text, timing must not. The busiest tile decides, and with natural text it holds the
//! few commonest tokens; so all ids count as hits, shared out evenly over the workers.

use super::super::Machine;
use crate::types::DType;
use crate::units::Cycles;

/// Cycles to look up `ids` rows of `columns` elements: `W·(30 + ⌈ids/W⌉·(19 + 2·⌈r/2⌉))`.
pub fn gather(machine: &Machine, ids: u64, columns: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    workers * (30 + ids.div_ceil(workers) * (19 + 2 * columns.div_ceil(2)))
}

/// Cycles to add `ids` rows of `columns` elements into the table: f16 `W·(3 + 30 + ⌈ids/W⌉·(12 + 3·(⌈r/2⌉ − 1)))`,
/// f32 `W·(3 + 29 + ⌈ids/W⌉·(11 + 3·(r − 1)))`.
pub fn scatter_add(machine: &Machine, dtype: DType, ids: u64, columns: u64) -> Cycles {
    let workers = u64::from(machine.workers);
    let share = ids.div_ceil(workers);
    let (setup, row, atoms) = match dtype {
        DType::F16 => (30, 12, columns.div_ceil(2)),
        _ => (29, 11, columns),
    };
    workers * (3 + setup + share * (row + 3 * atoms.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let mk2 = Machine::mk2();
        assert_eq!(gather(&mk2, 12, 32), 6 * (30 + 2 * 51));
        assert_eq!(scatter_add(&mk2, DType::F32, 12, 32), 6 * (32 + 2 * 104));
        assert_eq!(scatter_add(&mk2, DType::F16, 12, 32), 6 * (33 + 2 * 57));
    }
}
