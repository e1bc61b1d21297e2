//! The ledger: every cycle of a step is booked to exactly one cause.
//!
//! A superstep of `c` cycles on an IPU of `T` tiles is `c·T` tile cycles. What the tiles do in them is known vertex by vertex: arithmetic
//! at the peak of its unit, what keeps the unit from its peak, waiting for the busiest tile, having no work at all. The ledger books to
//! each cause its share of the `c` cycles, in whole cycles that sum to `c`. So `ideal` is the time that the arithmetic would take if all
//! tiles of the IPU did nothing else, and all else is lost; what a fix of one cause would give back at most is its column.
//!
//! IPUs run one after the other in program order: while one works, the others wait. That waiting is in no column, since the columns
//! share out the cycles of the program, which are those of the IPU at work; [`super::IpuTime`] says how long each IPU works and waits.

use std::ops::{AddAssign, Mul};

use serde::{Deserialize, Serialize};
use superstep_ir::program::cost::compute_set::SetAccount;
use superstep_ir::program::cost::traffic::ExchangeParts;

/// What a cycle goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Arithmetic, at the peak rate of its unit on all tiles of the IPU.
    Ideal,
    /// Matrix unit: coefficients are loaded, the pipeline fills and drains, the output is cleared.
    AmpFill,
    /// Matrix unit: zeroes that round blocks up to its grain.
    Padding,
    /// Transposed operands of the matrix unit are turned.
    Transpose,
    /// Vector unit: loads, stores, functions of many cycles.
    Instructions,
    /// Supervisors start vertices, workers enter and leave loops.
    Overhead,
    /// Workers wait for the one with the largest share; vectors are not full.
    WorkerImbalance,
    /// Partial sums of a split contraction are added up.
    Partials,
    /// Several tiles compute the same.
    Redundant,
    /// Tiles wait for the one with the largest blocks.
    TileImbalance,
    /// Tiles have no vertex.
    IdleTiles,
    /// Words of data pass between tiles, as many as at the busiest tile.
    ExchangeData,
    /// Control words between fragments of data.
    ExchangeFragments,
    /// From sync to the first word.
    ExchangeStart,
    /// Data moves inside tiles.
    Copies,
    Sync,
    /// Data passes between IPUs.
    Links,
    Host,
    /// Data passes between streaming memory and IPUs.
    Streaming,
}

impl Cause {
    pub const COUNT: usize = 19;

    pub const ALL: [Cause; Cause::COUNT] = [
        Cause::Ideal,
        Cause::AmpFill,
        Cause::Padding,
        Cause::Transpose,
        Cause::Instructions,
        Cause::Overhead,
        Cause::WorkerImbalance,
        Cause::Partials,
        Cause::Redundant,
        Cause::TileImbalance,
        Cause::IdleTiles,
        Cause::ExchangeData,
        Cause::ExchangeFragments,
        Cause::ExchangeStart,
        Cause::Copies,
        Cause::Sync,
        Cause::Links,
        Cause::Host,
        Cause::Streaming,
    ];

    /// As machines read it.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Ideal => "ideal",
            Cause::AmpFill => "amp_fill",
            Cause::Padding => "padding",
            Cause::Transpose => "transpose",
            Cause::Instructions => "instructions",
            Cause::Overhead => "overhead",
            Cause::WorkerImbalance => "worker_imbalance",
            Cause::Partials => "partials",
            Cause::Redundant => "redundant",
            Cause::TileImbalance => "tile_imbalance",
            Cause::IdleTiles => "idle_tiles",
            Cause::ExchangeData => "exchange_data",
            Cause::ExchangeFragments => "exchange_fragments",
            Cause::ExchangeStart => "exchange_start",
            Cause::Copies => "copies",
            Cause::Sync => "sync",
            Cause::Links => "links",
            Cause::Host => "host",
            Cause::Streaming => "streaming",
        }
    }
}

/// Cycles by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger {
    /// In the order of [`Cause::ALL`].
    cycles: [u64; Cause::COUNT],
}

impl Ledger {
    /// `cycles` of one cause.
    pub fn of(cause: Cause, cycles: u64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.cycles[cause as usize] = cycles;
        ledger
    }

    pub const fn get(&self, cause: Cause) -> u64 {
        self.cycles[cause as usize]
    }

    /// Cycles of all causes.
    pub fn total(&self) -> u64 {
        self.cycles.iter().fold(0, |sum, c| sum.saturating_add(*c))
    }

    /// Every cause with its cycles.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        Cause::ALL.into_iter().map(|cause| (cause, self.get(cause)))
    }

    /// The ledger of a compute set.
    pub(super) fn compute(set: &SetAccount) -> Ledger {
        let spent = &set.spent;
        let working = set.cycles * u64::from(set.tiles);
        let all = set.cycles * set.available;
        let mut shares = [0.0; Cause::COUNT];
        for (cause, tile_cycles) in [
            (Cause::Ideal, spent.ideal),
            (Cause::AmpFill, spent.fill),
            (Cause::Padding, spent.padding),
            (Cause::Transpose, spent.transpose),
            (Cause::Instructions, spent.instructions),
            (Cause::Overhead, spent.overhead),
            (Cause::WorkerImbalance, spent.workers),
            (Cause::Partials, set.partials),
            (Cause::Redundant, set.redundant),
            (
                Cause::TileImbalance,
                working.saturating_sub(set.busy) as f64,
            ),
            (Cause::IdleTiles, all.saturating_sub(working) as f64),
        ] {
            shares[cause as usize] = tile_cycles;
        }
        Ledger {
            cycles: apportion(set.cycles, &shares),
        }
    }

    /// The ledger of an exchange.
    pub(super) fn exchange(parts: &ExchangeParts) -> Ledger {
        let mut ledger = Ledger::default();
        for (cause, cycles) in [
            (Cause::ExchangeStart, parts.start),
            (Cause::ExchangeData, parts.data),
            (Cause::ExchangeFragments, parts.fragments),
            (Cause::Copies, parts.copies),
            (Cause::Links, parts.links),
        ] {
            ledger.cycles[cause as usize] = cycles;
        }
        ledger
    }
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Ledger) {
        for (sum, more) in self.cycles.iter_mut().zip(other.cycles) {
            *sum = sum.saturating_add(more);
        }
    }
}

impl Mul<u64> for Ledger {
    type Output = Ledger;

    fn mul(self, times: u64) -> Ledger {
        Ledger {
            cycles: self.cycles.map(|cycles| cycles.saturating_mul(times)),
        }
    }
}

/// Shares out `total` whole cycles in proportion to `shares`: each gets its part rounded down, and those that lost most by it one more.
fn apportion<const N: usize>(total: u64, shares: &[f64; N]) -> [u64; N] {
    let sum: f64 = shares.iter().sum();
    let mut parts = [0; N];
    if total == 0 || sum <= 0.0 {
        return parts;
    }
    let exact = shares.map(|share| share.max(0.0) / sum * total as f64);
    let mut left = total;
    for (part, exact) in parts.iter_mut().zip(exact) {
        *part = (exact as u64).min(left);
        left -= *part;
    }
    let mut by_loss: [usize; N] = std::array::from_fn(|i| i);
    let loss = |i: usize| exact[i] - parts[i] as f64;
    by_loss.sort_by(|&a, &b| loss(b).total_cmp(&loss(a)));
    for &i in by_loss.iter().cycle().take(left as usize) {
        parts[i] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_in_the_order_of_their_columns() {
        for (i, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, i, "{}", cause.name());
        }
    }

    #[test]
    fn shares_are_whole_and_sum_to_the_total() {
        assert_eq!(apportion(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
        assert_eq!(apportion(10, &[0.0, 2.5, 7.5]), [0, 3, 7]);
        assert_eq!(apportion(0, &[1.0, 2.0]), [0, 0]);
        assert_eq!(apportion(7, &[0.0, 0.0]), [0, 0]);
        for total in [1, 7, 24, 1472, 123_456_789_012] {
            for shares in [[0.1, 0.2, 0.7], [1e-9, 1e9, 3.0], [5.0, 5.0, 5.0]] {
                assert_eq!(apportion(total, &shares).iter().sum::<u64>(), total);
            }
        }
    }
}
