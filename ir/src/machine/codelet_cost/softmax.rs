//! Softmax and its kin, from the passes PopLibs makes over each row (mk2.md §3.9).

use super::super::Machine;
use super::{Share, Spent, Work};
use crate::types::DType;

impl Share {
    /// Worker cycles of `e^x` over the block: 4 cycles for 4 f16, 6 for 2 f32, and 16 more to set up than other functions.
    fn exponentials(&self) -> Work {
        let per_vector = if self.dtype == DType::F16 { 4 } else { 6 };
        self.function(16 + 17, per_vector)
    }

    /// Worker cycles of one number for each row: `17 + 3·R`.
    fn reciprocals(&self) -> Work {
        self.per_row(17, 3)
    }
}

/// Cycles of softmax: row maximum, subtract, exponential, row sum, reciprocal, multiply. About 3 wc an element in f16, 7 in f32.
/// The scale goes with the subtraction; a causal mask leaves out nothing, as hardware would have it.
pub fn softmax(machine: &Machine, share: &Share) -> Spent {
    let work =
        2 * share.reduce_rows() + 2 * share.binary() + share.exponentials() + share.reciprocals();
    work.vertex(machine, 7 * 11)
}

/// Cycles of its gradient: product with the result, row sum, multiply, subtract: about 2.5 wc an element in f16, 5 in f32.
pub fn softmax_grad(machine: &Machine, share: &Share) -> Spent {
    let work = share.reduce_rows() + 3 * share.binary();
    work.vertex(machine, 4 * 11)
}

/// Cycles of the row maximum and the sum of exponentials: softmax without its last two passes.
pub fn row_max_sum(machine: &Machine, share: &Share) -> Spent {
    let work = 2 * share.reduce_rows() + share.binary() + share.exponentials();
    work.vertex(machine, 4 * 11)
}

/// Worker cycles of `e^(x − a)·b` with a number `a` and a number `b` for each row: subtract, exponential, multiply.
pub(super) fn scaled_exponentials(share: &Share) -> Work {
    2 * share.binary() + share.exponentials()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_costs_about_what_the_passes_over_it_cost() {
        let mk2 = Machine::mk2();
        let per_element = |spent: Spent| spent.cycles as f64 / (24.0 * 1024.0);
        let f16 = Share::of(&mk2, DType::F16, 24, 1024);
        assert!((3.0..3.2).contains(&per_element(softmax(&mk2, &f16))));
        assert!((2.5..2.6).contains(&per_element(softmax_grad(&mk2, &f16))));
        let f32 = Share::of(&mk2, DType::F32, 24, 1024);
        assert!((7.0..7.2).contains(&per_element(softmax(&mk2, &f32))));
    }

    #[test]
    fn six_rows_by_hand() {
        // A row of 8 f32 for each worker, 4 vectors: reduce 33, binary 15 + 7 + 12, exp 16 + 17 + 24, reciprocal 20.
        let mk2 = Machine::mk2();
        let share = Share::of(&mk2, DType::F32, 6, 8);
        assert_eq!(softmax(&mk2, &share).cycles, 6 * (66 + 68 + 57 + 20) + 77);
        assert_eq!(softmax_grad(&mk2, &share).cycles, 6 * (33 + 102) + 44);
        assert_eq!(row_max_sum(&mk2, &share).cycles, 6 * (66 + 34 + 57) + 44);
    }
    #[test]
    fn nine_rows_for_six_workers_are_halved() {
        let mk2 = Machine::mk2();
        let spent = |pieces| softmax(&mk2, &Share::in_pieces(&mk2, DType::F16, 9, 1024, pieces));
        // Three halves of 128 vectors for a worker, of every pass; two rows' numbers joined, twice.
        let vectors = 3 * 128 * (2 + 2 * 3 + 4);
        let pieces = 3 * (2 * 12 + 2 * 7);
        let passes = 2 * 17 + 2 * 15 + 33 + (17 + 2 * 3);
        let joins = 2 * (19 + 2 * (12 + 2));
        assert_eq!(
            spent(2).cycles,
            6 * (vectors + pieces + passes + joins) + 77
        );
        let least = Share::least(&mk2, DType::F16, 9, 1024, |s| softmax(&mk2, s));
        assert_eq!(least, spent(2));
        // Twelve rows are two each already.
        let twelve = |share: &Share| softmax(&mk2, share);
        assert_eq!(
            Share::least(&mk2, DType::F16, 12, 1024, twelve),
            twelve(&Share::of(&mk2, DType::F16, 12, 1024))
        );
    }
}
