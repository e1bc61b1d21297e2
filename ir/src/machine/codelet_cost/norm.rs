//! Layer norm, from the passes over the block that PopLibs' group norm makes (mk2.md §3.9). Statistics are f32.

use super::super::Machine;
use super::{Share, Spent, Vectors, Work, vector};
use crate::types::DType;

/// Cycles of layer norm: sums of x and x² over each row (two reductions), inverse deviation (`6 + R·(4 + 5)` wc), then four broadcast
/// ops: less mean, times deviation, times scale, plus shift. About 2.5 wc an element in f16, 5 in f32.
pub fn layer_norm(machine: &Machine, share: &Share) -> Spent {
    let deviation = share.per_row(6, 9);
    let work = 2 * share.reduce_rows() + deviation + 4 * share.broadcast();
    work.vertex(machine, 7 * 11)
}

/// Cycles of the gradient to the input: normalise again (two broadcasts), times scale (one), the product with the normalised input and two row
/// sums, and `rstd·(gs − mean − x̂·mean)` (three broadcasts, one subtraction).
pub fn layer_norm_grad(machine: &Machine, share: &Share) -> Spent {
    let work = 6 * share.broadcast() + 2 * share.binary() + 2 * share.reduce_rows();
    work.vertex(machine, 10 * 11)
}

/// Cycles of the gradients to scale and shift: normalise again (two broadcasts), the product with `g`, and two sums over the rows,
/// each worker taking a part of the columns: `16 + ⌈outs/V⌉·(12 + 3 + (m − 1))` wc for each sum (PopLibs strided reduction, §3.8).
pub fn layer_norm_param_grad(machine: &Machine, dtype: DType, rows: u64, columns: u64) -> Spent {
    let Vectors { busiest, even } = Vectors::of_vectors(machine, vector(dtype), columns);
    let column_sum = Work::units(16, busiest, even, 12 + 3 + rows.saturating_sub(1));
    Share::least(machine, dtype, rows, columns, |share| {
        let work = 2 * share.broadcast() + share.binary() + 2 * column_sum;
        work.vertex(machine, 5 * 11)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_costs_about_what_the_passes_over_it_cost() {
        let mk2 = Machine::mk2();
        let per_element = |spent: Spent| spent.cycles as f64 / (24.0 * 768.0);
        let f16 = Share::of(&mk2, DType::F16, 24, 768);
        assert!((2.5..2.7).contains(&per_element(layer_norm(&mk2, &f16))));
        let f32 = Share::of(&mk2, DType::F32, 24, 768);
        assert!((5.0..5.3).contains(&per_element(layer_norm(&mk2, &f32))));
        let both = per_element(layer_norm_grad(&mk2, &f16))
            + per_element(layer_norm_param_grad(&mk2, DType::F16, 24, 768));
        assert!((7.0..8.0).contains(&both));
    }

    #[test]
    fn four_rows_by_hand() {
        // Each of four workers has a row of 8 f32, 4 vectors: reduce 17 + 16, deviation 15, broadcast 15 + 15.
        let mk2 = Machine::mk2();
        let share = Share::of(&mk2, DType::F32, 4, 8);
        assert_eq!(
            layer_norm(&mk2, &share).cycles,
            6 * (2 * 33 + 15 + 4 * 30) + 77
        );
        // Binary 15 + 7 + 12.
        assert_eq!(
            layer_norm_grad(&mk2, &share).cycles,
            6 * (6 * 30 + 2 * 34 + 2 * 33) + 110
        );
        // The sum of four rows: one vector of the four for a worker, 16 + 12 + 3 + 3.
        assert_eq!(
            layer_norm_param_grad(&mk2, DType::F32, 4, 8).cycles,
            6 * (2 * 30 + 34 + 2 * 34) + 55
        );
        // One row of 768 is shared by all six workers: 128 elements, 64 vectors each; six numbers of a row are joined twice.
        let one = Share::in_pieces(&mk2, DType::F32, 1, 768, 6);
        assert_eq!((one.rows, one.vectors), (1, 64));
        let least = Share::least(&mk2, DType::F32, 1, 768, |s| layer_norm(&mk2, s));
        assert_eq!(least, layer_norm(&mk2, &one));
        assert_eq!(
            least.cycles,
            6 * (2 * (17 + 12 + 64) + 2 * (19 + 12 + 6) + 15 + 4 * (15 + 7 + 128)) + 77
        );
    }
}
