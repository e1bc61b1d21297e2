//! The copies themselves.
//!
//! Several threads write into tile memory at the same time and read what others own, which no safe slice can express. Invariants,
//! established when the exchange was loaded (see [`super::load`]):
//!
//! 1. every copy stays inside its source block and its destination block, and every block inside its tile;
//! 2. no byte of tile memory is both read and written by the exchange;
//! 3. a destination tile is written by one thread only.
//!
//! So no two threads touch a byte that one of them writes, and no copy overlaps itself.

#![allow(unsafe_code)]

use rayon::prelude::*;

use super::LoadedMove;
use super::expansion::{Copy, Loops, Pattern};
use crate::tile_memory::TileMemory;

/// A stretch of tiles given to a thread receives at least this many bytes; below twice that a move stays on one thread.
const BYTES_A_STRETCH: u64 = 128 << 10;

/// Tile memory as all threads see it during one move.
#[derive(Clone, Copy)]
struct Shared {
    start: *mut u8,
    bytes: usize,
    stride: usize,
    /// First byte of the source variable on tile 0 of its IPU, and of the destination variable.
    source: usize,
    destination: usize,
}

// SAFETY: used under the invariants above; `run` holds the exclusive borrow of the memory for as long as a `Shared` of it lives.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Runs all copies of a move, on the threads of the current pool.
pub(super) fn run(mv: &LoadedMove, memory: &mut TileMemory) {
    let first_byte = |tile: usize, address: u32, stride: usize| tile * stride + address as usize;
    let (source_tile, destination_tile) = (
        memory.number(mv.source.ipu, 0),
        memory.number(mv.destination.ipu, 0),
    );
    let (start, bytes, stride) = memory.raw();
    let shared = Shared {
        start,
        bytes,
        stride,
        source: first_byte(source_tile, mv.source.address, stride),
        destination: first_byte(destination_tile, mv.destination.address, stride),
    };
    let expansion = &*mv.expansion;
    let count = expansion.tiles.len();
    let one = |i: usize| {
        for copy in expansion.received(i) {
            shared.copy(
                expansion.tiles[i],
                copy,
                &expansion.patterns[copy.pattern as usize],
            );
        }
    };
    if expansion.bytes < 2 * BYTES_A_STRETCH {
        return (0..count).for_each(one);
    }
    let stretch = (BYTES_A_STRETCH * count as u64 / expansion.bytes) as usize;
    (0..count)
        .into_par_iter()
        .with_min_len(stretch.max(1))
        .for_each(one);
}

impl Shared {
    /// One region, received by `tile`.
    fn copy(&self, tile: u32, copy: &Copy, pattern: &Pattern) {
        let from =
            self.source + copy.source_tile as usize * self.stride + copy.source_offset as usize;
        let to = self.destination + tile as usize * self.stride + copy.destination_offset as usize;
        let (read, written) = pattern.spans();
        debug_assert!(from + read as usize <= self.bytes && to + written as usize <= self.bytes);
        // SAFETY: invariants 1 to 3 of the module.
        unsafe { copy_region(self.start.add(from), self.start.add(to), pattern) }
    }
}

/// # Safety
/// All bytes of `pattern` from `from` on can be read and from `to` on written, nobody else touches those written, and none is both.
unsafe fn copy_region(from: *const u8, to: *mut u8, pattern: &Pattern) {
    // SAFETY: each branch copies exactly the runs of the pattern.
    unsafe {
        match pattern.run_bytes {
            4 => copy_loops::<4>(from, to, &pattern.loops, 4),
            8 => copy_loops::<8>(from, to, &pattern.loops, 8),
            16 => copy_loops::<16>(from, to, &pattern.loops, 16),
            32 => copy_loops::<32>(from, to, &pattern.loops, 32),
            64 => copy_loops::<64>(from, to, &pattern.loops, 64),
            run => copy_loops::<0>(from, to, &pattern.loops, run as usize),
        }
    }
}

/// All runs of a loop nest; `RUN` is the run's length when it is known to the compiler, else 0.
///
/// # Safety
/// As for [`copy_region`].
unsafe fn copy_loops<const RUN: usize>(from: *const u8, to: *mut u8, loops: &[Loops], run: usize) {
    let run = if RUN > 0 { RUN } else { run };
    // SAFETY: every pointer below is the start of a run of the pattern.
    unsafe {
        match loops {
            [] => to.copy_from_nonoverlapping(from, run),
            [inner] => copy_inner::<RUN>(from, to, *inner, run),
            [outer, rest @ ..] => {
                for i in 0..outer.extent as usize {
                    let from = from.add(i * outer.source_stride as usize);
                    let to = to.add(i * outer.destination_stride as usize);
                    copy_loops::<RUN>(from, to, rest, run);
                }
            }
        }
    }
}

/// # Safety
/// As for [`copy_region`].
#[inline]
unsafe fn copy_inner<const RUN: usize>(from: *const u8, to: *mut u8, inner: Loops, run: usize) {
    let run = if RUN > 0 { RUN } else { run };
    for i in 0..inner.extent as usize {
        // SAFETY: turn `i` of the loop.
        unsafe {
            let from = from.add(i * inner.source_stride as usize);
            to.add(i * inner.destination_stride as usize)
                .copy_from_nonoverlapping(from, run);
        }
    }
}
