//! Compute sets: one vertex a tile, every tile on its own.
//!
//! A thread is handed a tile's bytes as one exclusive slice, and a vertex gets that slice and nothing else: it cannot reach another
//! tile's memory, in whatever order tiles are taken.

use std::cell::RefCell;
use std::sync::Arc;

use rayon::prelude::*;

use crate::codelets::{Kernel, Operand, Scratch, Vertex};
use crate::layout::{GridTiles, Layout};
use crate::tile_memory::TileMemory;

/// A stretch of tiles given to a thread takes at least this long; below twice that a group stays on one thread.
const NANOSECONDS_A_STRETCH: f64 = 20_000.0;

/// A vertex group, resolved and checked.
pub(crate) struct Group {
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) grid: Arc<GridTiles>,
    pub(crate) inputs: Vec<GroupOperand>,
    pub(crate) outputs: Vec<GroupOperand>,
    /// All vertices together on one thread, estimated.
    pub(crate) nanoseconds: f64,
}

/// An operand on all tiles of the group.
pub(crate) struct GroupOperand {
    pub(crate) address: usize,
    pub(crate) entry: Option<u32>,
    pub(crate) layout: Arc<Layout>,
}

impl Group {
    /// The vertex at a grid point.
    pub(crate) fn vertex(&self, point: usize) -> Vertex<'_> {
        Vertex {
            inputs: self
                .inputs
                .iter()
                .map(|o| Operand::new(o.address, o.entry, &o.layout, point))
                .collect(),
            outputs: self
                .outputs
                .iter()
                .map(|o| Operand::new(o.address, o.entry, &o.layout, point))
                .collect(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs every vertex of the group, on the threads of the current pool.
pub(crate) fn run(group: &Group, memory: &mut TileMemory) {
    let first = memory.number(group.grid.ipu.0, group.grid.first);
    let count = group.grid.points.len();
    let one = |i: usize, tile: &mut [u8]| {
        let point = group.grid.points[i];
        if point != GridTiles::NO_POINT {
            let vertex = group.vertex(point as usize);
            SCRATCH.with_borrow_mut(|scratch| group.kernel.run(&vertex, tile, scratch));
        }
    };
    if group.nanoseconds < 2.0 * NANOSECONDS_A_STRETCH {
        return memory
            .tiles_mut(first, count)
            .enumerate()
            .for_each(|(i, tile)| one(i, tile));
    }
    let stretch = (NANOSECONDS_A_STRETCH / group.nanoseconds * count as f64) as usize;
    memory
        .par_tiles_mut(first, count)
        .with_min_len(stretch.max(1))
        .enumerate()
        .for_each(|(i, tile)| one(i, tile));
}
