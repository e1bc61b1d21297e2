//! Cross entropy in parts: what each tile does with its columns, and the joining of the parts. Built from the passes of mk2.md §3.6–3.9;
//! no such vertices are published, so all of these are estimates.

use super::super::Machine;
use super::super::calibration::{LABEL_CYCLES, MAP_OVERHEAD};
use super::softmax::scaled_exponentials;
use super::{Share, Spent, Work, vector};
use crate::types::DType;

/// Cycles to join the maxima and sums of `parts` tiles for `rows` rows: the maximum of the maxima (a load and 3 a part), then for each part
/// two loads, a subtraction, an exponential and a multiply-add, and a logarithm at the end.
pub fn join_logsumexp(machine: &Machine, dtype: DType, parts: u64, rows: u64) -> Spent {
    let (exp, log) = if dtype == DType::F16 { (4, 4) } else { (6, 12) };
    joined_parts(
        machine,
        dtype,
        [parts, rows],
        1 + 3 + 2 + 1 + exp + 1,
        log + 2,
    )
}

/// Cycles to join `parts` numbers of each of `rows` rows, `part` cycles for a vector of them and `row` at the end of a vector of rows. A vector
/// is of rows, or of the parts of a single row. Workers share out the rows, or pieces of the parts where that leaves less to the busiest
/// worker; then what the pieces gave is joined the same way.
fn joined_parts(
    machine: &Machine,
    dtype: DType,
    [parts, rows]: [u64; 2],
    part: u64,
    row: u64,
) -> Spent {
    let workers = u64::from(machine.workers);
    // Rows of an odd number are no vectors: every other part would not be aligned.
    let v = match vector(dtype) {
        v if rows == 1 || rows.is_multiple_of(v) => v,
        _ => 1,
    };
    // Of one row, the elements of the last vector are parts yet to be joined.
    let (runs, long, lanes) = match rows {
        1 => (1, parts.div_ceil(v), v.min(parts)),
        _ => (rows.div_ceil(v), parts, 1),
    };
    let even = rows as f64 / (v * workers) as f64;
    let whole = |pieces: u64| {
        let joined = if pieces * lanes == 1 {
            0
        } else {
            pieces * lanes
        };
        let busiest = (runs * pieces).div_ceil(workers) * long.div_ceil(pieces) * part
            + runs.div_ceil(workers) * (joined * part + row);
        let passes = if pieces == 1 { 1 } else { 2 };
        let work = Work {
            fixed: passes * MAP_OVERHEAD,
            busiest,
            even: (even * (parts * part + row) as f64).min(busiest as f64),
        };
        work.vertex(machine, 0)
    };
    let most = workers.min(long).max(1);
    (2..=most).map(whole).fold(whole(1), Spent::less)
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

/// Cycles of the loss of each row: sum of the `parts` picked logits (a load and an addition), a subtraction, and selects by the labels
/// (5 wc each).
pub fn row_loss(machine: &Machine, parts: u64, rows: u64) -> Spent {
    joined_parts(machine, DType::F32, [parts, rows], 2, 3 + 2 * 5)
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
        assert_eq!(row_loss(&mk2, 4, 12).cycles, 6 * (30 + 8 + 13));
        // One row of 792 parts: 66 vectors for each worker, then six times two parts.
        assert_eq!(
            join_logsumexp(&mk2, DType::F32, 792, 1).cycles,
            6 * (60 + 66 * 14 + 12 * 14 + 14)
        );
        assert_eq!(
            row_loss(&mk2, 792, 1).cycles,
            6 * (60 + 66 * 2 + 12 * 2 + 13)
        );
        // Three rows, one by one: two pieces of the parts for each.
        assert_eq!(
            join_logsumexp(&mk2, DType::F32, 300, 3).cycles,
            6 * (60 + 150 * 14 + 2 * 14 + 14)
        );
        // Two rows of 8 f32 for each worker: binary 15 + 2·19, exp 33 + 2·4·6.
        let share = Share::of(&mk2, DType::F32, 12, 8);
        assert_eq!(
            cross_entropy_grad(&mk2, 12, &share).cycles,
            6 * (2 * 53 + 81 + 30 + 42) + 44
        );
    }
}
