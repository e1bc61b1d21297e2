//! Tile memories: one anonymous mapping for all tiles of all IPUs of the replica.
//!
//! Only what variables use of the tiles is mapped, arranged as the loader says (`load/homes.rs`). The mapping is reserved,
//! not committed: what no step touches costs nothing. A fresh page reads as zero.

#![allow(unsafe_code)] // tiles are handed to threads by address

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;

use memmap2::{Advice, MmapMut, MmapOptions};
use rayon::prelude::*;
use superstep_ir::program::Program;

use crate::error::EngineError;
use crate::exchange::Place;

/// Address space that an engine may reserve, bytes.
const MAX_RESERVED_BYTES: usize = 1 << 42;

/// Where the blocks of a variable are: that of tile number `n` at byte `origin + n · stride`, which wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) origin: usize,
    pub(crate) stride: usize,
}

impl Home {
    /// The first byte on a tile.
    #[inline(always)]
    pub(crate) fn on(self, number: usize) -> usize {
        self.origin.wrapping_add(number.wrapping_mul(self.stride))
    }
}

/// The bytes of all tiles. Tile `t` of IPU `i` is number `i · tiles_per_ipu + t`.
pub(crate) struct TileMemory {
    map: MmapMut,
    tiles_per_ipu: usize,
    /// By tile number: what the tile's random number generator has been set to.
    seeds: Vec<[u32; 2]>,
    shelf: SlotMemory,
    /// Of clusters that all threads run together.
    arena: SlotMemory,
}

/// Fills memory in poison mode: a NaN as `f32` and as a pair of `f16`, an absurd index as `i32`.
pub(crate) const POISON: [u8; 4] = 0x7ff7_7ff7_u32.to_le_bytes();

impl TileMemory {
    /// Reserves so many bytes for the tiles of all IPUs of a program, all zero.
    pub(crate) fn reserve(program: &Program, bytes: usize) -> Result<TileMemory, EngineError> {
        let (ipus, tiles_per_ipu) = (program.ipus, program.machine.tiles_per_ipu as usize);
        let tiles = tiles_per_ipu.saturating_mul(ipus as usize);
        let refused = |source| EngineError::Memory {
            bytes: bytes as u64,
            source,
        };
        let bytes = bytes.max(1);
        if bytes > MAX_RESERVED_BYTES {
            return Err(refused(std::io::Error::from(
                std::io::ErrorKind::InvalidInput,
            )));
        }
        let map = MmapOptions::new()
            .len(bytes)
            .no_reserve_swap()
            .map_anon()
            .map_err(refused)?;
        // Only for speed: where large pages are not to be had, small ones do.
        let _ = map.advise(Advice::HugePage);
        Ok(TileMemory {
            map,
            tiles_per_ipu,
            seeds: vec![[0; 2]; tiles],
            shelf: SlotMemory::default(),
            arena: SlotMemory::default(),
        })
    }

    /// Number of a tile in the mapping.
    pub(crate) fn number(&self, ipu: u32, tile: u32) -> usize {
        ipu as usize * self.tiles_per_ipu + tile as usize
    }

    /// The first bytes of a block on a tile.
    pub(crate) fn block(&self, home: Home, number: usize, bytes: usize) -> &[u8] {
        &self.map[home.on(number)..][..bytes]
    }

    pub(crate) fn block_mut(&mut self, home: Home, number: usize, bytes: usize) -> &mut [u8] {
        &mut self.map[home.on(number)..][..bytes]
    }

    /// Sets the random number generators of all tiles to 0.
    pub(crate) fn clear_seeds(&mut self) {
        self.seeds.fill([0; 2]);
    }

    /// Fills every tile with [`POISON`].
    pub(crate) fn poison(&mut self) {
        let chunks = self.map.par_chunks_mut(POISON.len() << 16);
        chunks.for_each(poison_bytes);
    }

    /// The tiles, and slots of the shelf and of an arena, for several threads; exclusive as long as the handles live.
    pub(crate) fn share<'a>(
        &'a mut self,
        shelf: &'a SlotPlan,
        arena: Option<&'a SlotPlan>,
    ) -> SharedTiles<'a> {
        SharedTiles {
            start: self.map.as_mut_ptr(),
            tiles_per_ipu: self.tiles_per_ipu,
            seeds: self.seeds.as_mut_ptr(),
            arena: arena.map_or(Slots::NONE, |plan| self.arena.slots(plan)),
            shelf: self.shelf.slots(shelf),
            memory: PhantomData,
        }
    }
}

/// Where the bytes of a variable are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// On its tiles.
    Tile,
    /// In the arena of the thread that runs the tile's cluster: what lives no longer than a phase.
    Arena,
    /// On the shelf: what is received before a phase, for it alone.
    Shelf,
}

/// Memory in which tiles have slots.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a> {
    start: *mut u8,
    plan: Option<&'a SlotPlan>,
}

/// Which tile has which slot.
#[derive(Debug, Default)]
pub(crate) struct SlotPlan {
    /// By tile number, [`SlotPlan::NO_SLOT`] for those without.
    pub(crate) slots: Vec<u32>,
    /// Bytes of a slot.
    pub(crate) stride: usize,
    /// Bytes of all slots.
    pub(crate) bytes: usize,
}

impl SlotPlan {
    pub(crate) const NO_SLOT: u32 = u32::MAX;
}

impl<'a> Slots<'a> {
    const NONE: Slots<'static> = Slots {
        start: std::ptr::null_mut(),
        plan: None,
    };

    #[inline(always)]
    fn start(self, tile: usize) -> *mut u8 {
        let offset = self.plan.map_or(0, |plan| {
            let slot = plan.slots[tile];
            assert_ne!(slot, SlotPlan::NO_SLOT, "tile {tile} has no slot");
            slot as usize * plan.stride
        });
        self.start.wrapping_add(offset)
    }
}

/// Memory for slots, as much as was ever needed.
#[derive(Default)]
pub(crate) struct SlotMemory(Option<MmapMut>);

impl SlotMemory {
    /// Slots as planned; what they hold means nothing.
    pub(crate) fn slots<'a>(&mut self, plan: &'a SlotPlan) -> Slots<'a> {
        let there = self.0.as_ref().map_or(0, |map| map.len());
        if there < plan.bytes {
            let Ok(map) = MmapOptions::new().len(plan.bytes).map_anon() else {
                // As every other allocation that is refused.
                let layout = Layout::from_size_align(plan.bytes, 1);
                handle_alloc_error(layout.unwrap_or(Layout::new::<u8>()));
            };
            let _ = map.advise(Advice::HugePage);
            self.0 = Some(map);
        }
        let start = self.0.as_mut().map(|map| map.as_mut_ptr());
        Slots {
            start: start.unwrap_or(std::ptr::null_mut()),
            plan: Some(plan),
        }
    }
}

/// Where tiles are, without a say in who may touch them: that is for the one who dereferences.
#[derive(Clone, Copy)]
pub(crate) struct SharedTiles<'a> {
    start: *mut u8,
    tiles_per_ipu: usize,
    seeds: *mut [u32; 2],
    arena: Slots<'a>,
    shelf: Slots<'a>,
    memory: PhantomData<&'a mut TileMemory>,
}

// SAFETY: a `SharedTiles` only computes addresses.
unsafe impl Send for SharedTiles<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedTiles<'_> {}

impl<'a> SharedTiles<'a> {
    /// The same tiles with an arena.
    pub(crate) fn with_arena(self, arena: Slots<'a>) -> SharedTiles<'a> {
        SharedTiles { arena, ..self }
    }

    /// Byte 0 of a variable's block on a tile.
    #[inline(always)]
    pub(crate) fn at(self, place: Place, tile: u32) -> *mut u8 {
        let number = self.number(place.ipu, tile);
        let start = match place.store {
            Store::Tile => return self.start.wrapping_add(place.home.on(number)),
            Store::Arena => self.arena.start(number),
            Store::Shelf => self.shelf.start(number),
        };
        start.wrapping_add(place.home.origin)
    }

    /// The seed of a tile.
    pub(crate) fn seed(self, ipu: u32, tile: u32) -> *mut [u32; 2] {
        self.seeds.wrapping_add(self.number(ipu, tile))
    }

    fn number(self, ipu: u32, tile: u32) -> usize {
        ipu as usize * self.tiles_per_ipu + tile as usize
    }
}

/// Overwrites `bytes` with [`POISON`].
pub(crate) fn poison_bytes(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(POISON.len()) {
        let len = chunk.len();
        chunk.copy_from_slice(&POISON[..len]);
    }
}
