//! Supersteps: steps that need no meeting of the tiles between them, run tile by tile.
//!
//! A tile receives its copies and runs its vertices in program order, while their operands are still in the host's cache; then the
//! next tile has its turn. That gives the results of the steps run one after another as long as no byte that the superstep sends from
//! a tile is written by it, and none is used for two variables: then it does not matter which of two tiles is further on. The loader
//! cuts supersteps by that rule, which at the same time is what makes it sound to run tiles on several threads.

#![allow(unsafe_code)] // threads share tile memory; the invariants are stated at `Phase::run`

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use superstep_ir::ids::VarId;

use crate::codelets::{AtRandom, Scratch, VertexMemory};
use crate::compute::Group;
use crate::exchange::{LoadedMove, Pieces, Place, prefetch};
use crate::layout::GridTiles;
use crate::load::homes::Array;
use crate::phase::Tile;
use crate::tile_memory::{SharedTiles, Store};

/// So much of an operand is asked for before its vertex runs; the rest follows in lines that the processor expects.
const BYTES_OF_AN_OPERAND: usize = 4 << 10;

/// What a tile does in a superstep.
pub(crate) enum Action {
    /// Receives its part of a move.
    Receive(LoadedMove),
    /// Runs its vertex of a group.
    Compute(Group),
    /// Sets its random number generator from two words.
    SetSeed {
        variable: VarId,
        grid: Arc<GridTiles>,
        place: Place,
    },
}

/// The bytes of a variable on all its tiles.
pub(crate) struct Span {
    pub(crate) grid: Arc<GridTiles>,
    /// Of a tile.
    pub(crate) bytes: Range<usize>,
    /// Where the host has them.
    pub(crate) array: Array,
}

impl Span {
    /// True when some byte is of both.
    pub(crate) fn meets(&self, other: &Span) -> bool {
        if !self.array.is(&other.array) {
            return self.array.clashes(&other.array);
        }
        let (a, b) = (&self.bytes, &other.bytes);
        self.grid.ipu == other.grid.ipu
            && a.start < b.end
            && b.start < a.end
            && self
                .grid
                .tiles
                .iter()
                .any(|&tile| other.grid.point(tile).is_some())
    }
}

/// A step before it is added to a superstep. What it sends, it does not write.
#[derive(Default)]
pub(crate) struct Actions {
    pub(crate) actions: Vec<Action>,
    /// Sources of moves, and what vertices of other tiles read.
    pub(crate) sent: Vec<Span>,
    /// Destinations of moves, results of vertices.
    pub(crate) written: Vec<Span>,
    /// Where the host has all variables that are named.
    pub(crate) arrays: Vec<Array>,
}

/// Consecutive steps without a cut between them.
#[derive(Default)]
pub(crate) struct Superstep {
    pub(crate) actions: Vec<Action>,
    sent: Vec<Span>,
    written: Vec<Span>,
    arrays: Vec<Array>,
    /// Steps of the program that it stands for.
    pub(crate) steps: u64,
}

impl Superstep {
    /// True when a step may follow without a cut.
    pub(crate) fn takes(&self, step: &Actions) -> bool {
        let meet = |a: &[Span], b: &[Span]| a.iter().any(|a| b.iter().any(|b| a.meets(b)));
        let clash = |a: &Array| step.arrays.iter().any(|b| a.clashes(b));
        !(meet(&self.sent, &step.written)
            || meet(&step.sent, &self.written)
            || self.arrays.iter().any(clash))
    }

    /// Takes out the move that brings `variable`, if `allowed`.
    pub(crate) fn take_move(
        &mut self,
        variable: VarId,
        allowed: impl FnOnce(&LoadedMove) -> bool,
    ) -> Option<LoadedMove> {
        let brings = |a: &Action| matches!(a, Action::Receive(mv) if mv.into == variable);
        let at = self.actions.iter().position(brings)?;
        match &self.actions[at] {
            Action::Receive(mv) if allowed(mv) => {}
            _ => return None,
        }
        match self.actions.remove(at) {
            Action::Receive(mv) => Some(mv),
            _ => None,
        }
    }

    /// Adds a step that [`Superstep::takes`] has allowed.
    pub(crate) fn add(&mut self, step: Actions) {
        self.actions.extend(step.actions);
        self.sent.extend(step.sent);
        self.written.extend(step.written);
        self.arrays.extend(step.arrays);
        self.steps += 1;
    }

    /// Asks for the operands that the vertices of a tile have in its own memory, from which they would come one line after another.
    pub(crate) fn ask_for_operands(&self, (ipu, tile): Tile, memory: SharedTiles<'_>) {
        for action in &self.actions {
            let Action::Compute(group) = action else {
                continue;
            };
            let own = group.grid.ipu.0 == ipu;
            let Some(point) = group.grid.point(tile).filter(|_| own) else {
                continue;
            };
            let operands = group.inputs.iter().chain(&group.outputs);
            for operand in
                operands.filter(|o| o.place.store == Store::Tile && !o.shared && o.entry.is_none())
            {
                let layout = &operand.layout;
                let bytes = layout.blocks[point].elements() * layout.dtype.bytes();
                let asked = bytes.min(BYTES_OF_AN_OPERAND);
                prefetch(memory.at(operand.place, tile), asked);
            }
        }
    }

    /// The turn of one tile.
    ///
    /// # Safety
    /// The invariants of [`Phase::run`](crate::phase::Phase::run); nobody else takes this tile's turn.
    pub(crate) unsafe fn run_tile(&self, number: u64, (ipu, tile): Tile, memory: SharedTiles<'_>) {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        SCRATCH.with_borrow_mut(|scratch| scratch.superstep = number);
        for action in &self.actions {
            match action {
                Action::Receive(mv) => {
                    if let Some(i) = mv.receiver(ipu, tile) {
                        // SAFETY: invariants 1 to 3.
                        unsafe { mv.receive(i, memory) }
                    }
                }
                Action::Compute(group) => {
                    let own = group.grid.ipu.0 == ipu;
                    let Some(point) = group.grid.point(tile).filter(|_| own) else {
                        continue;
                    };
                    let vertex =
                        group.vertex(point, |operand, tile| memory.at(operand.place, tile));
                    // SAFETY: the seed is touched by the tile's own turn only (3).
                    let at_random = group.at_random.map(|(step, group)| AtRandom {
                        seed: unsafe { *memory.seed(ipu, tile) },
                        step,
                        group,
                    });
                    // SAFETY: operands lie in memory (1); others read only what is sent, which no output is (2, 3).
                    let mut operands = unsafe { VertexMemory::new(&vertex, at_random) };
                    SCRATCH.with_borrow_mut(|scratch| match &group.forwarded {
                        None => group.kernel.run(&mut operands, scratch),
                        Some(mv) => {
                            let bytes = group.inputs[0].layout.dtype.bytes();
                            // SAFETY: what the move reads is sent (2).
                            let pieces = unsafe { Pieces::new(mv, ipu, tile, memory, bytes) };
                            group.kernel.run_on_pieces(&pieces, &mut operands, scratch);
                        }
                    });
                }
                Action::SetSeed { grid, place, .. } => {
                    if grid.ipu.0 != ipu || grid.point(tile).is_none() {
                        continue;
                    }
                    // SAFETY: the variable lies in the tile (1) and nobody writes it now; the seed is touched by this turn only (3).
                    unsafe {
                        let words = memory.at(*place, tile);
                        *memory.seed(ipu, tile) = words.cast::<[u32; 2]>().read_unaligned();
                    }
                }
            }
        }
    }
}

impl Action {
    /// On one thread, estimated.
    pub(crate) fn nanoseconds(&self) -> f64 {
        match self {
            Action::Receive(mv) => mv.expansion.bytes as f64 * 0.2,
            Action::Compute(group) => group.nanoseconds,
            Action::SetSeed { grid, .. } => grid.tiles.len() as f64,
        }
    }

    /// The IPU and the tiles that have a part in it.
    pub(crate) fn tiles(&self) -> (u32, &[u32]) {
        match self {
            Action::Receive(mv) => (mv.destination.ipu, &mv.expansion.tiles),
            Action::Compute(group) => (group.grid.ipu.0, &group.grid.tiles),
            Action::SetSeed { grid, .. } => (grid.ipu.0, &grid.tiles),
        }
    }
}
