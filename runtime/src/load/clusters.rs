//! Clusters of tiles while they grow: disjoint sets, joined where one tile reads on another.

use std::ops::Range;

use super::disjoint_sets::DisjointSets;
use super::phases::Context;
use crate::compute::{Group, GroupOperand};
use crate::exchange::LoadedMove;
use crate::phase::{NANOSECONDS_A_SHARE, Tile};
use crate::superstep::Action;
use crate::tile_memory::SlotPlan;

/// No cluster may be more than such a part of its phase: threads would wait for the one that runs it.
const LARGEST_CLUSTER: f64 = 1.0 / FEWEST as f64;

/// So many clusters of equal cost are enough.
pub(super) const FEWEST: usize = 12;

/// Disjoint sets of tiles, with what they cost.
#[derive(Clone)]
pub(super) struct Clusters {
    tiles_per_ipu: usize,
    /// Of tile numbers.
    sets: DisjointSets,
    /// By tile number, nanoseconds.
    costs: Vec<f64>,
    total: f64,
}

impl Clusters {
    pub(super) fn new(context: &Context<'_>) -> Clusters {
        let tiles_per_ipu = context.program.machine.tiles_per_ipu as usize;
        let ipus = context.program.ipus as usize;
        Clusters {
            tiles_per_ipu,
            sets: DisjointSets::new(tiles_per_ipu * ipus),
            costs: vec![0.0; tiles_per_ipu * ipus],
            total: 0.0,
        }
    }

    pub(super) fn number(&self, (ipu, tile): Tile) -> u32 {
        ipu * self.tiles_per_ipu as u32 + tile
    }

    fn link(&mut self, a: Tile, b: Tile) {
        let (a, b) = (self.number(a), self.number(b));
        self.sets.join(a, b);
    }

    pub(super) fn link_move(&mut self, mv: &LoadedMove) {
        for (i, &tile) in mv.expansion.tiles.iter().enumerate() {
            for region in mv.expansion.received(i) {
                self.link(
                    (mv.destination.ipu, tile),
                    (mv.source.ipu, region.source_tile),
                );
            }
        }
    }

    pub(super) fn link_sharing(&mut self, group: &Group, input: &GroupOperand) {
        let tile = |point: usize| (group.grid.ipu.0, group.grid.tiles[point]);
        for (point, &first) in input.layout.first_copy_of.iter().enumerate() {
            self.link(tile(point), tile(first as usize));
        }
    }

    pub(super) fn add_cost(&mut self, action: &Action) {
        let (ipu, tiles) = action.tiles();
        let each = action.nanoseconds() / tiles.len().max(1) as f64;
        for &tile in tiles {
            let number = self.number((ipu, tile));
            self.costs[number as usize] += each.max(f64::MIN_POSITIVE);
        }
        self.total += action.nanoseconds();
    }

    /// Costs by cluster, at the first tile.
    fn sums(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.costs.len()];
        for (tile, cost) in self.costs.iter().enumerate() {
            sums[self.sets.find(tile as u32) as usize] += cost;
        }
        sums
    }

    pub(super) fn are_enough(&self) -> bool {
        let largest = self.sums().into_iter().fold(0.0, f64::max);
        self.total < 2.0 * NANOSECONDS_A_SHARE || largest <= LARGEST_CLUSTER * self.total
    }

    /// Tiles by cluster, where each cluster starts, and clusters by share.
    pub(super) fn finish(&self) -> (Vec<Tile>, Vec<u32>, Vec<Range<usize>>) {
        let sums = self.sums();
        let busy = (0..self.costs.len() as u32).filter(|&t| self.costs[t as usize] > 0.0);
        let busy: Vec<u32> = busy.collect();
        let mut keyed: Vec<(u32, u32)> = busy.into_iter().map(|t| (self.sets.find(t), t)).collect();
        keyed.sort_unstable();
        let mut starts = Vec::new();
        let mut shares = Vec::new();
        let (mut from, mut cost) = (0, 0.0);
        for (i, &(root, _)) in keyed.iter().enumerate() {
            if i > 0 && keyed[i - 1].0 == root {
                continue;
            }
            starts.push(i as u32);
            cost += sums[root as usize];
            if cost >= NANOSECONDS_A_SHARE {
                shares.push(from..starts.len());
                (from, cost) = (starts.len(), 0.0);
            }
        }
        if from < starts.len() {
            shares.push(from..starts.len());
        }
        starts.push(keyed.len() as u32);
        let tiles_per_ipu = self.tiles_per_ipu as u32;
        let tile = |(_, t): (u32, u32)| (t / tiles_per_ipu, t % tiles_per_ipu);
        (keyed.into_iter().map(tile).collect(), starts, shares)
    }

    /// By tile number: its place in its cluster.
    pub(super) fn slots(&self, tiles: &[Tile], starts: &[u32]) -> Vec<u32> {
        let mut slots = vec![SlotPlan::NO_SLOT; self.sets.len()];
        for ends in starts.windows(2) {
            for (slot, &tile) in (0..).zip(&tiles[ends[0] as usize..ends[1] as usize]) {
                slots[self.number(tile) as usize] = slot;
            }
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tiles: u32, each: f64) -> Clusters {
        Clusters {
            tiles_per_ipu: tiles as usize / 2,
            sets: DisjointSets::new(tiles as usize),
            costs: vec![each; tiles as usize],
            total: each * f64::from(tiles),
        }
    }

    #[test]
    fn linked_tiles_are_of_one_cluster_and_shares_hold_each_cluster_once() {
        let mut clusters = of(8, NANOSECONDS_A_SHARE / 2.0);
        clusters.link((0, 3), (1, 2));
        clusters.link((0, 1), (0, 3));
        clusters.costs[5] = 0.0;
        let (tiles, starts, shares) = clusters.finish();
        // Tile 1 of IPU 1 has nothing to do.
        let expected = [(0, 0), (0, 1), (0, 3), (1, 2), (0, 2), (1, 0), (1, 3)];
        assert_eq!(tiles, expected);
        assert_eq!(starts, [0, 1, 4, 5, 6, 7]);
        assert_eq!(shares, [0..2, 2..4, 4..5]);
        let slots = clusters.slots(&tiles, &starts);
        const NO: u32 = SlotPlan::NO_SLOT;
        assert_eq!(slots, [0, 0, 0, 1, 0, NO, 2, 0]);
    }

    #[test]
    fn a_cluster_that_others_would_wait_for_is_too_large() {
        let mut clusters = of(24, NANOSECONDS_A_SHARE);
        for pair in 0..6 {
            clusters.link((0, 2 * pair), (0, 2 * pair + 1));
        }
        assert!(clusters.are_enough());
        clusters.link((0, 0), (0, 2));
        assert!(!clusters.are_enough());
        // What one thread does in no time may be in one cluster.
        clusters.total = NANOSECONDS_A_SHARE;
        assert!(clusters.are_enough());
    }
}
