//! Phases: consecutive supersteps that clusters of tiles run through by themselves.
//!
//! Tiles that receive from each other what is written in the phase are of one cluster; clusters know nothing of each other, so they may
//! be run in any order and on any thread. A cluster goes through all supersteps while what its tiles give each other is still in the
//! host's cache, and what nobody needs after the phase lies in an arena that the next cluster uses again, and never reaches the host's
//! memory. The loader finds clusters and what may lie in the arena (`load/phases.rs`, `load/arena.rs`).

#![allow(unsafe_code)] // threads share tile memory; the invariants are stated at `run`

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::crew::{AtEnd, Crew, look_for};
use crate::superstep::Superstep;
use crate::tile_memory::{SharedTiles, SlotMemory, SlotPlan, TileMemory};

/// A share of clusters that a thread takes at once takes about this long.
pub(crate) const NANOSECONDS_A_SHARE: f64 = 20_000.0;

/// Numbers what is run in this process; see [`Scratch::superstep`](crate::codelets::Scratch).
static RUNS: AtomicU64 = AtomicU64::new(1);

/// A tile: IPU and number on it.
pub(crate) type Tile = (u32, u32);

/// Consecutive supersteps, and the clusters that run them.
pub(crate) struct Phase {
    pub(crate) supersteps: Vec<Superstep>,
    /// All tiles that do anything, cluster by cluster.
    pub(crate) tiles: Vec<Tile>,
    /// Cluster `c` is `tiles[starts[c] .. starts[c + 1]]`.
    pub(crate) starts: Vec<u32>,
    /// The clusters that a thread takes at once.
    pub(crate) shares: Vec<Range<usize>>,
    /// Those that come after.
    pub(crate) joint: Vec<Joint>,
    /// Of the largest cluster.
    pub(crate) arena: SlotPlan,
    pub(crate) shelf: Arc<SlotPlan>,
}

/// A cluster that all threads run together, superstep by superstep.
pub(crate) struct Joint {
    pub(crate) cluster: usize,
    /// By superstep: tiles that take their turns one after the other.
    pub(crate) chains: Vec<Vec<Vec<Tile>>>,
}

/// How far threads are with a superstep of a joint cluster.
#[derive(Default)]
struct Progress {
    /// The chain that is taken next.
    next: AtomicUsize,
    done: AtomicUsize,
}

thread_local! {
    static ARENA: RefCell<SlotMemory> = RefCell::default();
}

impl Phase {
    /// Steps of the program that it stands for.
    pub(crate) fn steps(&self) -> u64 {
        self.supersteps.iter().map(|s| s.steps).sum()
    }

    /// Runs all supersteps on all clusters, on the threads of a crew.
    ///
    /// Invariants, established by the loader:
    ///
    /// 1. all operands and all ends of copies lie inside their block, which is the tile's part of an array, or in its slot of the arena, and
    ///    no two arrays share bytes;
    /// 2. no byte that a move of a superstep reads, or a vertex of another tile, is written by a move or a vertex of it, nor, if both tiles
    ///    are not of one cluster, by any of the phase;
    /// 3. a tile is written, and its seed used and set, only by its own turns, except for sums of partial results, to which tiles of its cluster
    ///    add in their turns, and is in one cluster;
    /// 4. what lies in the arena is written in the phase before it is read, and read by tiles of the same cluster only.
    ///
    /// So bytes that are written are touched by one thread only, in a joint cluster by one in a superstep.
    pub(crate) fn run(&self, memory: &mut TileMemory, crew: &mut Crew<'_>) {
        let arena = (!self.joint.is_empty()).then_some(&self.arena);
        let shared = memory.share(&self.shelf, arena);
        let numbers = (self.starts.len() * self.supersteps.len()) as u64;
        let first = RUNS.fetch_add(numbers, Ordering::Relaxed);
        let next = AtomicUsize::new(0);
        let mut progress: Vec<Progress> = Vec::new();
        progress.resize_with(self.joint.len() * self.supersteps.len(), Progress::default);
        let work = || {
            ARENA.with_borrow_mut(|arena| {
                let memory = shared.with_arena(arena.slots(&self.arena));
                while let Some(share) = self.shares.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for cluster in share.clone() {
                        // SAFETY: the invariants above; each cluster is taken once.
                        unsafe { self.run_cluster(cluster, first, memory) }
                    }
                }
            });
            for (joint, progress) in self
                .joint
                .iter()
                .zip(progress.chunks(self.supersteps.len()))
            {
                // SAFETY: the invariants above; every thread is here.
                unsafe { self.run_joint(joint, progress, first, shared) }
            }
        };
        match self.shares.len() + self.joint.len() {
            0 | 1 => work(),
            // A thread that comes late finds nothing left to do, and nobody waits for it.
            _ => crew.run(&work),
        }
    }

    /// All supersteps on the tiles of a cluster.
    ///
    /// # Safety
    /// The invariants of [`Phase::run`]; nobody else runs this cluster.
    unsafe fn run_cluster(&self, cluster: usize, first: u64, memory: SharedTiles<'_>) {
        let tiles = &self.tiles[self.starts[cluster] as usize..self.starts[cluster + 1] as usize];
        let first = self.number(cluster, first);
        let next_cluster = self.tiles.get(self.starts[cluster + 1] as usize);
        for (s, (superstep, number)) in self.supersteps.iter().zip(first..).enumerate() {
            for (i, &tile) in tiles.iter().enumerate() {
                let next = match (tiles.get(i + 1), self.supersteps.get(s + 1)) {
                    (Some(&next), _) => Some((superstep, next)),
                    (None, Some(following)) => Some((following, tiles[0])),
                    (None, None) => next_cluster.map(|&next| (&self.supersteps[0], next)),
                };
                if let Some((superstep, next)) = next {
                    superstep.ask_for_operands(next, memory);
                }
                // SAFETY: the contract of this function.
                unsafe { superstep.run_tile(number, tile, memory) }
            }
        }
    }

    /// The number of a cluster's first superstep; `first` is that of the phase.
    fn number(&self, cluster: usize, first: u64) -> u64 {
        // The same place in the arena holds something else in every cluster.
        match self.arena.bytes {
            0 => first,
            _ => first + (cluster * self.supersteps.len()) as u64,
        }
    }

    /// A thread's part of a joint cluster. Nobody goes on to the next superstep before all turns of this one have been taken.
    ///
    /// # Safety
    /// The invariants of [`Phase::run`]; `memory` has one arena for all threads, and nobody else runs this cluster.
    unsafe fn run_joint(
        &self,
        joint: &Joint,
        progress: &[Progress],
        first: u64,
        memory: SharedTiles<'_>,
    ) {
        let first = self.number(joint.cluster, first);
        let supersteps = self.supersteps.iter().zip(&joint.chains).zip(progress);
        for (number, ((superstep, chains), Progress { next, done })) in (first..).zip(supersteps) {
            while let Some(chain) = chains.get(next.fetch_add(1, Ordering::Relaxed)) {
                // Even if it ends in a panic: others would wait for ever.
                let _done = AtEnd(|| _ = done.fetch_add(1, Ordering::Release));
                for &tile in chain {
                    // SAFETY: the contract of this function; each chain is taken once, and tiles of two chains write nothing in common.
                    unsafe { superstep.run_tile(number, tile, memory) }
                }
            }
            let all = || (done.load(Ordering::Acquire) == chains.len()).then_some(());
            while look_for(&all).is_none() {}
        }
    }
}
