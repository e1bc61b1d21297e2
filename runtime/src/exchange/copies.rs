//! The copies themselves.
//!
//! Several threads write into tile memory at the same time and read what others own, which no safe slice can express; the invariants
//! are those of [`Phase::run`](crate::phase::Phase::run).

#![allow(unsafe_code)]

use smallvec::SmallVec;

use super::LoadedMove;
use super::expansion::{Loops, Pattern, Region};
use crate::tile_memory::SharedTiles;

impl LoadedMove {
    /// Which of the receiving tiles a tile is.
    pub(crate) fn receiver(&self, ipu: u32, tile: u32) -> Option<usize> {
        if ipu != self.destination.ipu {
            return None;
        }
        self.expansion.receiver(tile)
    }

    /// All copies to receiving tile `i`.
    ///
    /// # Safety
    /// Nobody else writes the bytes that are read, or touches the bytes that are written. (That both are inside their tiles, and apart,
    /// was checked when the move was loaded.)
    pub(crate) unsafe fn receive(&self, i: usize, memory: SharedTiles<'_>) {
        let own = memory.at(self.destination, self.expansion.tiles[i]);
        self.each_region(i, memory, |from, at, pattern| {
            // SAFETY: the contract of this function.
            unsafe { copy_region(from, own.wrapping_add(at), pattern) }
        });
    }

    /// Calls `each` with the regions that receiving tile `i` gets, in order: where each is read, its first byte at the destination, and its
    /// form. They are short and far apart, so nobody but us can know what comes next: it is asked for ahead.
    #[inline]
    pub(super) fn each_region(
        &self,
        i: usize,
        memory: SharedTiles<'_>,
        mut each: impl FnMut(*const u8, usize, &Pattern),
    ) {
        let expansion = &*self.expansion;
        let copies = expansion.copies_to(i);
        let mut later = copies.iter();
        let mut ahead = 0;
        for copy in copies {
            while ahead < BYTES_AHEAD
                && let Some(later) = later.next()
            {
                let ask = &expansion.asks[later.pattern as usize];
                ahead += ask.bytes;
                for region in later.regions(&expansion.patterns[later.pattern as usize]) {
                    ask_for(self.start(&region, memory), &ask.loops, ask.span);
                }
            }
            ahead = ahead.saturating_sub(expansion.asks[copy.pattern as usize].bytes);
            for region in copy.regions(&expansion.patterns[copy.pattern as usize]) {
                let at = region.destination_offset as usize;
                each(self.start(&region, memory), at, region.pattern);
            }
        }
    }

    /// The first byte of a region where it is read.
    #[inline]
    fn start(&self, region: &Region<'_>, memory: SharedTiles<'_>) -> *const u8 {
        let block = memory.at(self.source, region.source_tile);
        block
            .wrapping_add(region.source_offset as usize)
            .cast_const()
    }
}

/// So much is asked for before it is read, or a copy more: many regions, and less than half of the smallest L1.
const BYTES_AHEAD: u64 = 16 << 10;
const CACHE_LINE: usize = 64;

/// How a region is asked for.
#[derive(Debug)]
pub(super) struct Ask {
    /// Extents and distances of spans, innermost first.
    loops: SmallVec<[(u32, u32); 2]>,
    /// Bytes of a span, all of whose lines are asked for.
    span: u32,
    /// Bytes read by a copy: of its regions on all their tiles.
    bytes: u64,
}

impl Ask {
    /// Runs with less than a line between them are of one span.
    pub(super) fn of(pattern: &Pattern) -> Ask {
        let mut ask = Ask {
            loops: SmallVec::new(),
            span: pattern.run_bytes,
            bytes: pattern.bytes() * u64::from(pattern.across.tiles),
        };
        for inner in pattern.loops.iter().rev() {
            let dense = inner.source_stride <= ask.span.saturating_add(CACHE_LINE as u32);
            if ask.loops.is_empty() && dense {
                ask.span += (inner.extent - 1) * inner.source_stride;
            } else {
                ask.loops.push((inner.extent, inner.source_stride));
            }
        }
        ask
    }
}

/// Asks for the spans of a loop nest, innermost loop first.
#[inline]
fn ask_for(from: *const u8, loops: &[(u32, u32)], span: u32) {
    match loops {
        [] => prefetch(from, span as usize),
        &[(extent, stride)] => {
            for i in 0..extent as usize {
                prefetch(from.wrapping_add(i * stride as usize), span as usize);
            }
        }
        &[ref inner @ .., (extent, stride)] => {
            for i in 0..extent as usize {
                ask_for(from.wrapping_add(i * stride as usize), inner, span);
            }
        }
    }
}

/// Asks for the cache lines of so many bytes, at most [`BYTES_AHEAD`], to be brought to L2: more of them are on their way at a time there than
/// to L1 (4 to 5 % of a step of the narrow model).
#[inline]
pub(crate) fn prefetch(from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let in_line = from.addr() % CACHE_LINE;
        let bytes = in_line + bytes.min(BYTES_AHEAD as usize);
        for line in (0..bytes).step_by(CACHE_LINE) {
            let line = from.wrapping_sub(in_line).wrapping_add(line);
            // SAFETY: a prefetch reads nothing that the program could see, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
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
            128 => copy_loops::<128>(from, to, &pattern.loops, 128),
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
            [] => copy_run::<RUN>(from, to, run),
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
            let to = to.add(i * inner.destination_stride as usize);
            copy_run::<RUN>(from, to, run);
        }
    }
}

/// Runs up to this long are copied without a call.
const SHORT: usize = 256;
const CHUNK: usize = 16;

/// # Safety
/// `run` bytes from `from` on can be read and from `to` on written, and lie apart.
#[inline(always)]
unsafe fn copy_run<const RUN: usize>(from: *const u8, to: *mut u8, run: usize) {
    // SAFETY: the contract of this function; chunks are inside the run, the last one perhaps over the one before it.
    unsafe {
        if RUN > 0 || !(CHUNK..=SHORT).contains(&run) {
            return to.copy_from_nonoverlapping(from, run);
        }
        let chunk = |at: usize| {
            let bytes = from.add(at).cast::<[u8; CHUNK]>().read_unaligned();
            to.add(at).cast::<[u8; CHUNK]>().write_unaligned(bytes);
        };
        for at in (0..run - CHUNK).step_by(CHUNK) {
            chunk(at);
        }
        chunk(run - CHUNK);
    }
}
