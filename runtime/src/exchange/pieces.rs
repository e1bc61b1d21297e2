//! What a tile would receive, read where it is sent from: for vertices that go through an operand once, in order, and so need no copy of it.

#![allow(unsafe_code)] // reads other tiles' memory; the invariants are those of `Phase::run`

use bytemuck::cast_slice;

use super::LoadedMove;
use super::expansion::{Expansion, Loops};

use crate::codelets::{Isa, widen};
use crate::tile_memory::SharedTiles;

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

    /// Calls `each` with all pieces as floats, in the order in which they are received.
    pub(crate) fn each(&self, isa: Isa, work: &mut Vec<f32>, each: &mut impl FnMut(&Runs<'_>)) {
        let Some(receiver) = self.receiver else {
            return;
        };
        self.mv
            .each_region(receiver, self.memory, |from, first, pattern| {
                let (outer, inner) = match &pattern.loops[..] {
                    [outer @ .., inner] => (outer, *inner),
                    [] => (&[][..], Loops::ONCE),
                };
                let run = pattern.run_bytes as usize;
                runs(from, first, outer, &mut |from, at| {
                    self.each_run(isa, work, (from, at, run), inner, each);
                });
            });
    }

    /// The runs of one loop.
    fn each_run(
        &self,
        isa: Isa,
        work: &mut Vec<f32>,
        (from, at, run): (*const u8, usize, usize),
        inner: Loops,
        each: &mut impl FnMut(&Runs<'_>),
    ) {
        let element = self.bytes_per_element;
        let (count, source) = (inner.extent as usize, inner.source_stride as usize);
        let stride = inner.destination_stride as usize;
        if element == size_of::<f32>() && source.is_multiple_of(element) {
            // SAFETY: from the first run of the loop to the end of the last one, inside a block; by the contract of `new` nobody writes
            // there. (What lies between two runs is of the same block.)
            let bytes = unsafe { std::slice::from_raw_parts(from, (count - 1) * source + run) };
            return each(&Runs {
                floats: cast_slice(bytes),
                run: run / element,
                count,
                step: source / element,
                at: at / element,
                stride: stride / element,
            });
        }
        for i in 0..count {
            let from = from.wrapping_add(i * source);
            // SAFETY: a run of the pattern, inside its block; by the contract of `new` nobody writes it.
            let halves: &[u16] = cast_slice(unsafe { std::slice::from_raw_parts(from, run) });
            if work.len() < halves.len() {
                work.resize(halves.len(), 0.0);
            }
            widen(isa, halves, &mut work[..halves.len()]);
            each(&Runs {
                floats: &work[..halves.len()],
                run: halves.len(),
                count: 1,
                step: 0,
                at: (at + i * stride) / element,
                stride: 0,
            });
        }
    }
}

/// Pieces of equal length at equal distances.
pub(crate) struct Runs<'a> {
    /// From the first piece to the end of the last one.
    pub(crate) floats: &'a [f32],
    /// Length of a piece.
    pub(crate) run: usize,
    pub(crate) count: usize,
    /// From a piece to the next in `floats`.
    pub(crate) step: usize,
    /// Index of the first piece in the operand.
    pub(crate) at: usize,
    /// From a piece to the next in the operand.
    pub(crate) stride: usize,
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
    for region in expansion.received(receiver) {
        let run = region.pattern.run_bytes as usize;
        let first = region.destination_offset as usize;
        let last = first + region.pattern.spans().1 as usize - 1;
        // Regions are sorted by their first byte, so one row is complete before the next begins.
        if first / row_bytes != last / row_bytes || !run.is_multiple_of(element_bytes) {
            return false;
        }
        runs(
            std::ptr::null(),
            first,
            &region.pattern.loops,
            &mut |_, at| parts.push((at, run)),
        );
    }
    parts.sort_unstable();
    let end = parts
        .iter()
        .try_fold(0, |end, &(at, run)| (at == end).then_some(end + run));
    end == Some(bytes)
}
