//! Embedding tables: look-up and update-add (after PopLibs `multiSlice`, `multiUpdateOp`; mk2.md §3.9).
//!
//! Every tile sees all ids and serves those of its own entries. How many these are depends on the text, timing must not: what is counted is
//! the fullest tile of *typical text*, from shares that were measured once. A text that says the same word all the time takes longer.
//! [`Machine::table_hit_factor`] scales the shares, up to the worst case that all ids are of one tile.

use super::super::Machine;
use super::{Spent, Vectors, Work, vector};
use crate::types::DType;

/// Of 1,024 tokens of a text, the greatest share that falls into so many consecutive entries of the vocabulary: a novel in English through
/// GPT-2's tokenizer, whose entries come in the order in which they were found to be common. On average over all samples of the text.
pub const CONSECUTIVE: [(u64, f64); 10] = [
    (1, 0.075),
    (32, 0.116),
    (64, 0.153),
    (128, 0.235),
    (512, 0.488),
    (1_024, 0.644),
    (4_096, 0.802),
    (16_384, 0.929),
    (32_768, 0.976),
    (50_257, 1.0),
];

/// Of the same tokens, the share that falls into the entries from this one on.
pub const FROM: [(u64, f64); 9] = [
    (0, 1.0),
    (256, 0.800),
    (1_024, 0.356),
    (4_096, 0.198),
    (8_192, 0.134),
    (16_384, 0.071),
    (25_136, 0.041),
    (37_704, 0.017),
    (50_257, 0.0),
];

/// Between the points of a table of shares: a straight line, and the share at the nearest end beyond them.
fn share(points: &[(u64, f64)], at: u64) -> f64 {
    let next = points.partition_point(|&(x, _)| x < at);
    match (next.checked_sub(1).map(|i| points[i]), points.get(next)) {
        (Some((x, y)), Some(&(to, end))) => y + (end - y) * (at - x) as f64 / (to - x) as f64,
        (_, Some(&(_, y))) | (Some((_, y)), _) => y,
        (None, None) => 1.0,
    }
}

/// How many of `ids` fall into the `entries` of the tile that gets most of them, where the table begins with entry `first` of the vocabulary.
/// One more than the share of them: few ids are less evenly spread.
pub fn hits(machine: &Machine, ids: u64, entries: u64, first: u64) -> u64 {
    if entries == 0 {
        return 0;
    }
    let share = share(&CONSECUTIVE, entries).min(share(&FROM, first)) * machine.table_hit_factor;
    ids.min((ids as f64 * share).ceil() as u64 + 1)
}

/// Cycles to look up those rows of `columns` elements that `hits` of `ids` ask for, and blank the others:
/// `W·(30 + in·(19 + 2·⌈r/2⌉) + out·(8 + ⌈r/V⌉))` with `in` and `out` of a worker, which share out the ids.
pub fn gather(machine: &Machine, dtype: DType, ids: u64, hits: u64, columns: u64) -> Spent {
    let workers = u64::from(machine.workers);
    let found = 19 + 2 * columns.div_ceil(2);
    let blank = 8 + columns.div_ceil(vector(dtype));
    let (share, own) = (ids.div_ceil(workers), hits.div_ceil(workers));
    let even = |n: u64| n as f64 / workers as f64;
    let work = Work::units(30, own, even(hits), found)
        + Work::units(0, share - own, even(ids - hits), blank);
    work.vertex(machine, 0)
}

/// Cycles to add those rows of `columns` elements that `hits` of `ids` ask for into the table, in two passes.
///
/// *Which ids are this tile's*: the workers share out the ids and leave a bit for each, `3 + 30 + ⌈ids/W⌉·7` wc (29 in f32): PopLibs' 5 for an id
/// that is passed over, and 2 for the bit. *Add*: every worker goes through all bits, 4 wc for a word of 32 and 4 for one that is set, and adds its
/// columns of the row, `12 + 3·(⌈⌈r/2⌉/W⌉ − 1)` wc in f16 and `11 + 3·(⌈r/W⌉ − 1)` in f32, as PopLibs does with whole rows. So sums are
/// in the order of the ids, and no worker waits for another that has the common rows.
pub fn scatter_add(machine: &Machine, dtype: DType, ids: u64, hits: u64, columns: u64) -> Spent {
    let workers = u64::from(machine.workers);
    let (setup, row, atoms) = match dtype {
        DType::F16 => (30, 12, columns.div_ceil(2)),
        _ => (29, 11, columns),
    };
    let even = |n: u64| n as f64 / workers as f64;
    let marks = Work::units(3 + setup, ids.div_ceil(workers), even(ids), 7);
    let words = ids.div_ceil(32);
    let add = |atoms: f64| hits as f64 * ((4 + row) as f64 + 3.0 * (atoms - 1.0).max(0.0));
    let sums = Work {
        fixed: setup,
        busiest: words * 4 + add(atoms.div_ceil(workers) as f64) as u64,
        even: (words * 4) as f64 + add(even(atoms)),
    };
    (marks + sums).vertex(machine, 11)
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
        let cycles = |dtype, ids, hits, columns| gather(&mk2, dtype, ids, hits, columns).cycles;
        assert_eq!(cycles(DType::F32, 1, 1, 1), 6 * (30 + 21));
        assert_eq!(cycles(DType::F32, 1, 0, 1), 6 * (30 + 9));
        assert_eq!(cycles(DType::F32, 12, 6, 32), 6 * (30 + 51 + 24));
        assert_eq!(cycles(DType::F32, 1024, 1024, 17), 6 * (30 + 171 * 37));
        // 26 rows of 8 × 2 halves for a worker, 145 of four vectors blanked.
        assert_eq!(
            cycles(DType::F16, 1024, 155, 16),
            6 * (30 + 26 * 35 + 145 * 12)
        );
    }

    #[test]
    fn text_asks_for_the_common_entries() {
        let mk2 = Machine::mk2();
        let of_a_thousand = |entries, first| hits(&mk2, 1000, entries, first);
        assert_eq!(of_a_thousand(0, 0), 0);
        assert_eq!(of_a_thousand(64, 0), 154);
        assert_eq!(of_a_thousand(96, 0), 195);
        assert_eq!(of_a_thousand(50_257, 0), 1000);
        assert_eq!(of_a_thousand(1 << 40, 0), 1000);
        // Behind the common ones there is less than in as many common ones.
        assert_eq!(of_a_thousand(64, 16_384), 72);
        assert_eq!(of_a_thousand(64, 1 << 40), 1);
        assert_eq!(hits(&mk2, 1, 64, 0), 1);
        let all = Machine {
            table_hit_factor: 100.0,
            ..mk2.clone()
        };
        assert_eq!(hits(&all, 1000, 64, 0), 1000);
        let more = |points: &[(u64, f64)]| points.windows(2).all(|w| w[0].0 < w[1].0);
        assert!(more(&CONSECUTIVE) && more(&FROM));
        assert!(CONSECUTIVE.windows(2).all(|w| w[0].1 < w[1].1));
        assert!(FROM.windows(2).all(|w| w[0].1 > w[1].1));
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
        let cycles =
            |dtype, ids, hits, columns| scatter_add(&mk2, dtype, ids, hits, columns).cycles;
        assert_eq!(cycles(DType::F32, 1, 0, 1), 11 + 6 * (32 + 7 + 29 + 4));
        assert_eq!(cycles(DType::F32, 1, 1, 1), 11 + 6 * (32 + 7 + 29 + 4 + 15));
        // Six columns for a worker; in halves three pairs.
        assert_eq!(
            cycles(DType::F32, 12, 2, 32),
            11 + 6 * (32 + 14 + 29 + 4 + 2 * (15 + 15))
        );
        assert_eq!(
            cycles(DType::F16, 12, 2, 32),
            11 + 6 * (33 + 14 + 30 + 4 + 2 * (16 + 6))
        );
        assert_eq!(
            cycles(DType::F16, 1024, 155, 110),
            11 + 6 * (33 + 171 * 7 + 30 + 32 * 4 + 155 * (16 + 27))
        );
    }
}
