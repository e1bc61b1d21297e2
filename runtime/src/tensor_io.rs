//! Whole tensors in and out of tile memory: the host's row-major order on one side, blocks on the other.

use crate::layout::{Block, GridTiles, Layout};
use crate::tile_memory::{Home, TileMemory};

/// A variable as host transfers see it.
#[derive(Clone, Copy)]
pub(crate) struct Tensor<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) grid: &'a GridTiles,
    pub(crate) home: Home,
}

impl Tensor<'_> {
    /// Bytes of the whole tensor.
    pub(crate) fn bytes(&self) -> usize {
        self.layout.shape.elements() * self.layout.dtype.bytes()
    }

    /// Writes all copies of all blocks; `bytes` has the tensor's length.
    pub(crate) fn write(&self, memory: &mut TileMemory, bytes: &[u8]) {
        for (point, &tile) in self.grid.tiles.iter().enumerate() {
            let number = memory.number(self.grid.ipu.0, tile);
            let block = &self.layout.blocks[point];
            let held = memory.block_mut(self.home, number, self.block_bytes(block));
            self.runs(block, |tensor, at, len| {
                held[at..at + len].copy_from_slice(&bytes[tensor..tensor + len]);
            });
        }
    }

    /// Reads the first copy of all blocks; `bytes` has the tensor's length.
    pub(crate) fn read(&self, memory: &TileMemory, bytes: &mut [u8]) {
        for &point in &self.layout.first_copies {
            let number = memory.number(self.grid.ipu.0, self.grid.tiles[point as usize]);
            let block = &self.layout.blocks[point as usize];
            let held = memory.block(self.home, number, self.block_bytes(block));
            self.runs(block, |tensor, at, len| {
                bytes[tensor..tensor + len].copy_from_slice(&held[at..at + len]);
            });
        }
    }

    fn block_bytes(&self, block: &Block) -> usize {
        block.elements() * self.layout.dtype.bytes()
    }

    /// Calls `each(byte in the tensor, byte in the block, length)` for every contiguous run of a block.
    fn runs(&self, block: &Block, mut each: impl FnMut(usize, usize, usize)) {
        if block.elements() == 0 {
            return;
        }
        let dims = self.layout.shape.dims();
        let (start, extent) = (block.start(), block.extent());
        // Trailing dimensions that are whole belong to the run, and so does the one before them.
        let whole = (0..dims.len())
            .rev()
            .take_while(|&d| extent[d] as usize == dims[d])
            .count();
        let outer = dims.len().saturating_sub(whole + 1);
        let element = self.layout.dtype.bytes();
        let run = extent[outer..]
            .iter()
            .map(|&e| e as usize)
            .product::<usize>()
            * element;
        let strides = self.layout.shape.strides();
        let first: usize = start
            .iter()
            .zip(&strides)
            .map(|(&s, &stride)| s as usize * stride)
            .sum();
        let turns: usize = extent[..outer].iter().map(|&e| e as usize).product();
        for turn in 0..turns {
            let (mut rest, mut at) = (turn, first);
            for d in (0..outer).rev() {
                at += rest % extent[d] as usize * strides[d];
                rest /= extent[d] as usize;
            }
            each(at * element, turn * run, run);
        }
    }
}
