//! Tile memories: one anonymous mapping for all tiles of all IPUs of the replica.
//!
//! Only as much of each tile as variables use is mapped, so the tiles lie close together and large pages pay: a tile begins where the
//! one before has its variables, in the bytes that would be code. The mapping is reserved,
//! not committed: IPUs that no step touches cost nothing. A fresh page reads as zero.

#![allow(unsafe_code)] // tiles are handed to threads by address

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;

use memmap2::{Advice, MmapMut, MmapOptions};
use rayon::prelude::*;
use superstep_ir::program::{Program, Variable};
use superstep_ir::units::align_up;

use crate::error::EngineError;
use crate::exchange::Place;

/// Tiles start at multiples of a cache line, so that two threads never write the same line.
const TILE_ALIGNMENT: usize = 64;

/// Address space that an engine may reserve, bytes.
const MAX_RESERVED_BYTES: usize = 1 << 42;

/// The bytes of all tiles. Tile `t` of IPU `i` is number `i · tiles_per_ipu + t`.
pub(crate) struct TileMemory {
    map: MmapMut,
    tile_bytes: usize,
    /// Distance of two tiles, bytes.
    stride: usize,
    tiles_per_ipu: usize,
    /// By tile number: what the tile's random number generator has been set to.
    seeds: Vec<[u32; 2]>,
    shelf: SlotMemory,
}

/// Fills memory in poison mode: a NaN as `f32` and as a pair of `f16`, an absurd index as `i32`.
pub(crate) const POISON: [u8; 4] = 0x7ff7_7ff7_u32.to_le_bytes();

impl TileMemory {
    /// Reserves the tiles of all IPUs of a checked program from the lowest to the highest address it uses, all zero.
    pub(crate) fn reserve(program: &Program) -> Result<TileMemory, EngineError> {
        let end = |v: &Variable| v.address as usize + v.tile_bytes(program.grid(v.grid));
        let tile_bytes = program.variables.iter().map(end).max().unwrap_or(0).max(1);
        let (ipus, tiles_per_ipu) = (program.ipus, program.machine.tiles_per_ipu as usize);
        let lowest = program.variables.iter().map(|v| v.address).min();
        let below = lowest.unwrap_or(0) as usize / TILE_ALIGNMENT * TILE_ALIGNMENT;
        let stride = align_up(tile_bytes - below.min(tile_bytes - 1), TILE_ALIGNMENT);
        let tiles = tiles_per_ipu.saturating_mul(ipus as usize);
        let bytes = tiles.saturating_mul(stride).saturating_add(below);
        let refused = |source| EngineError::Memory {
            bytes: bytes as u64,
            source,
        };
        if bytes == 0 || bytes > MAX_RESERVED_BYTES {
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
            tile_bytes,
            stride,
            tiles_per_ipu,
            seeds: vec![[0; 2]; tiles],
            shelf: SlotMemory::default(),
        })
    }

    /// Number of a tile in the mapping.
    pub(crate) fn number(&self, ipu: u32, tile: u32) -> usize {
        ipu as usize * self.tiles_per_ipu + tile as usize
    }

    /// A tile by its number, from address 0; what is below all variables is another tile's.
    pub(crate) fn tile(&self, number: usize) -> &[u8] {
        &self.map[number * self.stride..][..self.tile_bytes]
    }

    pub(crate) fn tile_mut(&mut self, number: usize) -> &mut [u8] {
        &mut self.map[number * self.stride..][..self.tile_bytes]
    }

    /// Sets the random number generators of all tiles to 0.
    pub(crate) fn clear_seeds(&mut self) {
        self.seeds.fill([0; 2]);
    }

    /// Fills every tile with [`POISON`].
    pub(crate) fn poison(&mut self) {
        let tiles = self.map.par_chunks_mut(self.stride);
        tiles.for_each(poison_bytes);
    }

    /// The tiles and slots of the shelf for several threads; exclusive as long as the handles live.
    pub(crate) fn share<'a>(&'a mut self, shelf: &'a SlotPlan) -> SharedTiles<'a> {
        SharedTiles {
            start: self.map.as_mut_ptr(),
            tiles_per_ipu: self.tiles_per_ipu,
            stride: self.stride,
            seeds: self.seeds.as_mut_ptr(),
            arena: Slots::NONE,
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
                let layout = Layout::from_size_align(plan.bytes, TILE_ALIGNMENT);
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
    stride: usize,
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
    pub(crate) fn at(self, place: Place, tile: u32) -> *mut u8 {
        let start = self.start(place.store, place.ipu, tile);
        start.wrapping_add(place.address as usize)
    }

    /// Address 0 of a tile in a store.
    #[inline(always)]
    pub(crate) fn start(self, store: Store, ipu: u32, tile: u32) -> *mut u8 {
        match store {
            Store::Tile => self.tile(ipu, tile),
            Store::Arena => self.arena.start(self.number(ipu, tile)),
            Store::Shelf => self.shelf.start(self.number(ipu, tile)),
        }
    }

    /// Address 0 of a tile; what is below all variables is another tile's.
    pub(crate) fn tile(self, ipu: u32, tile: u32) -> *mut u8 {
        self.start
            .wrapping_add(self.number(ipu, tile) * self.stride)
    }

    /// From a tile to the next, bytes.
    pub(crate) fn stride(self) -> usize {
        self.stride
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
