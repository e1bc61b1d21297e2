//! Cross entropy in parts: what each tile does with its columns, and the joining of the parts. Built from the passes of mk2.md §3.6–3.9;
//! no such vertices are published, so all of these are estimates.

use super::super::Machine;
use super::super::calibration::{LABEL_CYCLES, MAP_OVERHEAD};
use super::softmax::scaled_exponentials;
use super::{Share, Spent, Vectors, Work, vector};
use crate::types::DType;

/// Cycles to join the maxima and sums of `parts` tiles for `rows` rows: the maximum of the maxima (a load and 3 a part), then for each part
/// two loads, a subtraction, an exponential and a multiply-add, and a logarithm at the end.
pub fn join_logsumexp(machine: &Machine, dtype: DType, parts: u64, rows: u64) -> Spent {
    let (exp, log) = if dtype == DType::F16 { (4, 4) } else { (6, 12) };
    let Vectors { busiest, even } = Vectors::of(machine, vector(dtype), rows);
    let each = parts * (1 + 3 + 2 + 1 + exp + 1) + log + 2;
    Work::units(MAP_OVERHEAD, busiest, even, each).vertex(machine, 0)
}

/// Cycles to pick each row's label out of the columns: every row is compared and costs as much as a look-up of width 1.
pub fn pick_label(machine: &Machine, rows: u64) -> Spent {
    labels(machine, rows).vertex(machine, 0)
}

fn labels(machine: &Machine, rows: u64) -> Work {
    let workers = u64::from(machine.workers);
    let even = rows as f64 / workers as f64;
    Work::units(MAP_OVERHEAD, rows.div_ceil(workers), even, LABEL_CYCLES)
}

/// Cycles of the loss of each row: sum of the `parts` picked logits, a subtraction, and a select by the label (5 wc).
pub fn row_loss(machine: &Machine, parts: u64, rows: u64) -> Spent {
    let workers = u64::from(machine.workers);
    let even = rows as f64 / workers as f64;
    let each = 2 * parts + 3 + 5;
    Work::units(MAP_OVERHEAD, rows.div_ceil(workers), even, each).vertex(machine, 0)
}

/// Cycles of `(e^(x − lse) − onehot)·g` on `rows` rows: three passes over the block, and one element of each row corrected.
pub fn cross_entropy_grad(machine: &Machine, rows: u64, share: &Share) -> Spent {
    (scaled_exponentials(share) + labels(machine, rows)).vertex(machine, 4 * 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let mk2 = Machine::mk2();
        // 12 rows: two for each worker, one vector.
        assert_eq!(
            join_logsumexp(&mk2, DType::F32, 4, 12).cycles,
            6 * (30 + 4 * 14 + 14)
        );
        assert_eq!(pick_label(&mk2, 12).cycles, 6 * (30 + 42));
        assert_eq!(row_loss(&mk2, 4, 12).cycles, 6 * (30 + 2 * 16));
        // Two rows of 8 f32 for each worker: binary 15 + 2·19, exp 33 + 2·4·6.
        let share = Share::of(&mk2, DType::F32, 12, 8);
        assert_eq!(
            cross_entropy_grad(&mk2, 12, &share).cycles,
            6 * (2 * 53 + 81 + 30 + 42) + 44
        );
    }
}
