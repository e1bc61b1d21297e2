//! What a tile would receive, read where it is sent from: for vertices that go through an operand once, in order, and so need no copy of it.

#![allow(unsafe_code)] // reads other tiles' memory; the invariants are those of `Phase::run`

use bytemuck::cast_slice;

use super::LoadedMove;
use super::expansion::{Copy, Expansion, Loops};

use crate::codelets::{Isa, widen};
use crate::tile_memory::SharedTiles;

/// How many copies ahead are asked for.
const AHEAD: usize = 4;
const MOST_PREFETCHED: usize = 1024;
const CACHE_LINE: usize = 64;

/// The operand of one vertex in pieces on other tiles.
pub(crate) struct Pieces<'a> {
    mv: &'a LoadedMove,
    receiver: Option<usize>,
    memory: SharedTiles<'a>,
    bytes_per_element: usize,
}

impl<'a> Pieces<'a> {
    /// What a tile would get by `mv`; elements are `f32`, or `f16` where they have two bytes.
    ///
    /// # Safety
    /// For `'a`, nobody writes the bytes that the move reads.
    pub(crate) unsafe fn new(
        mv: &'a LoadedMove,
        ipu: u32,
        tile: u32,
        memory: SharedTiles<'a>,
        bytes_per_element: usize,
    ) -> Pieces<'a> {
        Pieces {
            mv,
            receiver: mv.receiver(ipu, tile),
            memory,
            bytes_per_element,
        }
    }

    /// Calls `each` with all pieces as floats and the index of their first element in the operand, in the order in which they are received.
    pub(crate) fn each(&self, isa: Isa, work: &mut Vec<f32>, each: &mut impl FnMut(usize, &[f32])) {
        let (mv, expansion) = (self.mv, &*self.mv.expansion);
        let copies = self.receiver.map_or(&[][..], |i| expansion.received(i));
        let start = |copy: &Copy| {
            let block = self.memory.at(mv.source, copy.source_tile);
            block.wrapping_add(copy.source_offset as usize)
        };
        for (i, copy) in copies.iter().enumerate() {
            // Pieces are short and far apart, so nobody but us can know what comes next.
            if let Some(later) = copies.get(i + AHEAD) {
                let run = expansion.patterns[later.pattern as usize].run_bytes as usize;
                prefetch(start(later), run);
            }
            let from = start(copy);
            let pattern = &expansion.patterns[copy.pattern as usize];
            let run = pattern.run_bytes as usize;
            let mut piece = |from: *const u8, at: usize| {
                // SAFETY: a run of the pattern, inside its block; by the contract of `new` nobody writes it.
                let bytes = unsafe { std::slice::from_raw_parts(from, run) };
                let first = at / self.bytes_per_element;
                if self.bytes_per_element == size_of::<f32>() {
                    return each(first, cast_slice(bytes));
                }
                let halves: &[u16] = cast_slice(bytes);
                if work.len() < halves.len() {
                    work.resize(halves.len(), 0.0);
                }
                widen(isa, halves, &mut work[..halves.len()]);
                each(first, &work[..halves.len()]);
            };
            runs(
                from,
                copy.destination_offset as usize,
                &pattern.loops,
                &mut piece,
            );
        }
    }
}

/// Asks for the first bytes of a piece.
fn prefetch(from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes.min(MOST_PREFETCHED)).step_by(CACHE_LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program could see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}

/// All runs of a loop nest: where they are, and their offset at the destination.
fn runs(from: *const u8, at: usize, loops: &[Loops], each: &mut impl FnMut(*const u8, usize)) {
    let [outer, rest @ ..] = loops else {
        return each(from, at);
    };
    for i in 0..outer.extent as usize {
        let from = from.wrapping_add(i * outer.source_stride as usize);
        let at = at + i * outer.destination_stride as usize;
        match rest {
            [] => each(from, at),
            rest => runs(from, at, rest, each),
        }
    }
}

/// True when `tile` receives each of `bytes` bytes exactly once, and what it gets comes row by row, `row_bytes` each.
pub(crate) fn in_row_order(
    expansion: &Expansion,
    tile: u32,
    (element_bytes, row_bytes, bytes): (usize, usize, usize),
) -> bool {
    let receiver = expansion.receiver(tile);
    let (Some(receiver), true) = (receiver, bytes > 0) else {
        return receiver.is_none() && bytes == 0;
    };
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for copy in expansion.received(receiver) {
        let pattern = &expansion.patterns[copy.pattern as usize];
        let (run, first) = (pattern.run_bytes as usize, copy.destination_offset as usize);
        let last = first + pattern.spans().1 as usize - 1;
        // Copies are sorted by their first byte, so one row is complete before the next begins.
        if first / row_bytes != last / row_bytes || !run.is_multiple_of(element_bytes) {
            return false;
        }
        runs(std::ptr::null(), first, &pattern.loops, &mut |_, at| {
            parts.push((at, run))
        });
    }
    parts.sort_unstable();
    let end = parts
        .iter()
        .try_fold(0, |end, &(at, run)| (at == end).then_some(end + run));
    end == Some(bytes)
}
