//! Clusters that all threads run together: where clusters are few and do not go round, the last ones, for which the other threads would wait.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::disjoint_sets::DisjointSets;
use crate::phase::{Joint, Tile};
use crate::superstep::{Action, Superstep};

/// Takes the clusters that `threads` run together out of the shares.
pub(crate) fn take_last(shares: &mut Vec<Range<usize>>, threads: usize) -> Vec<usize> {
    let mut taken = Vec::new();
    while shares.len() > threads
        && !shares.len().is_multiple_of(threads)
        && let Some(share) = shares.pop_if(|share| share.len() == 1)
    {
        taken.push(share.start);
    }
    taken
}

/// A cluster of these tiles, run by all threads.
pub(crate) fn joint(cluster: usize, tiles: &[Tile], supersteps: &[Superstep]) -> Joint {
    let numbers: FxHashMap<Tile, u32> = tiles.iter().copied().zip(0..).collect();
    let chains = supersteps
        .iter()
        .map(|superstep| chains(superstep, tiles, &numbers));
    Joint {
        cluster,
        chains: chains.collect(),
    }
}

/// Tiles that add to the same sum take their turns in order; each other tile is a chain by itself.
fn chains(superstep: &Superstep, tiles: &[Tile], numbers: &FxHashMap<Tile, u32>) -> Vec<Vec<Tile>> {
    let mut sets = DisjointSets::new(tiles.len());
    for action in &superstep.actions {
        let Action::Compute(group) = action else {
            continue;
        };
        for sum in group.outputs.iter().filter(|output| output.shared) {
            let number = |point: usize| numbers.get(&(group.grid.ipu.0, group.grid.tiles[point]));
            for point in 0..group.grid.tiles.len() {
                if let (Some(&adds), Some(&holds)) = (number(point), number(sum.home(point))) {
                    sets.join(adds, holds);
                }
            }
        }
    }
    let mut chains: Vec<Vec<Tile>> = vec![Vec::new(); tiles.len()];
    for (number, &tile) in (0..).zip(tiles) {
        chains[sets.find(number) as usize].push(tile);
    }
    chains.retain(|chain| !chain.is_empty());
    chains
}
