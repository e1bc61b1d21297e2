//! The bytes that a vertex may touch: its operands, and nothing else.
//!
//! While a vertex runs, other threads may read what *they* were sent from the same tile, so a vertex must not even hold an exclusive
//! reference to bytes beyond its outputs. This type hands out slices of single operands, each for no longer than the borrow rules
//! allow.

#![allow(unsafe_code)] // slices of operands from the start of a tile; see the SAFETY notes

use std::marker::PhantomData;

use superstep_ir::random::Stream;

use super::vertex::{Home, Operand, Vertex};

/// How a vertex rounds what it stores as f16 where it is not to nearest: see [`superstep_ir::program::Rounding::Stochastic`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtRandom {
    /// What the tile's random number generator has been set to.
    pub(crate) seed: [u32; 2],
    pub(crate) step: u32,
    pub(crate) group: u8,
}

impl AtRandom {
    /// The random numbers of output `o`, by row-major index in its variable.
    pub(crate) fn numbers(&self, o: usize) -> Stream {
        Stream::rounding(
            self.seed,
            self.step,
            u16::from_le_bytes([o as u8, self.group]),
        )
    }
}

/// Access to the operands of one vertex.
pub(crate) struct VertexMemory<'a, 'v> {
    /// Memory of the operands that are not on any tile, and its length in bytes.
    work: (*mut u8, usize),
    at_random: Option<AtRandom>,
    vertex: &'a Vertex<'v>,
    tile_is_borrowed: PhantomData<&'a mut [u8]>,
}

impl<'a, 'v> VertexMemory<'a, 'v> {
    /// # Safety
    /// For `'a`: the ranges of all operands of `vertex` are memory, aligned for their element types; nobody else writes to them,
    /// and nobody else reads or writes the outputs.
    pub(crate) unsafe fn new(
        vertex: &'a Vertex<'v>,
        at_random: Option<AtRandom>,
    ) -> VertexMemory<'a, 'v> {
        VertexMemory {
            work: (std::ptr::null_mut(), 0),
            at_random,
            vertex,
            tile_is_borrowed: PhantomData,
        }
    }

    /// The same vertex with some operands in work space: `vertex` has the operands of this one, each where it was or in `work`.
    ///
    /// # Panics
    /// When an operand is not: a mistake of the caller.
    pub(crate) fn with_work_space<'b>(
        &'b mut self,
        vertex: &'b Vertex<'v>,
        work: &'b mut [f32],
    ) -> VertexMemory<'b, 'v> {
        let bytes = size_of_val(work);
        let fits = |(own, other): (&Operand<'_>, &Operand<'_>)| match other.home() {
            Home::Block { .. } => own.home() == other.home() && own.range() == other.range(),
            Home::WorkSpace => {
                other.range().end <= bytes && other.offset.is_multiple_of(size_of::<f32>())
            }
        };
        let inputs = self.vertex.inputs.iter().zip(&vertex.inputs);
        let mut pairs = inputs.chain(self.vertex.outputs.iter().zip(&vertex.outputs));
        assert!(pairs.all(fits), "operands stay where they are or move");
        VertexMemory {
            work: (work.as_mut_ptr().cast(), bytes),
            at_random: None,
            vertex,
            tile_is_borrowed: PhantomData,
        }
    }

    /// `None`: stores round to nearest.
    pub(crate) fn at_random(&self) -> Option<AtRandom> {
        self.at_random
    }

    pub(crate) fn vertex(&self) -> &'a Vertex<'v> {
        self.vertex
    }

    /// Input `i`. Outputs may lie on it, so it cannot be held while one is written.
    pub(crate) fn input<T: bytemuck::AnyBitPattern>(&self, i: usize) -> &[T] {
        let operand = &self.vertex.inputs[i];
        // SAFETY: the operand's range, by the contract of `new`; shared for as long as `self` is.
        numbers(unsafe { std::slice::from_raw_parts(self.at(operand), operand.bytes()) })
    }

    /// The address of input `i`, if it is on another tile: nobody writes it in the superstep.
    pub(crate) fn on_neighbour(&self, i: usize) -> Option<usize> {
        let operand = &self.vertex.inputs[i];
        let elsewhere = match operand.home() {
            Home::Block { own, .. } => !own,
            Home::WorkSpace => false,
        };
        elsewhere.then(|| self.at(operand).addr())
    }

    /// Output `o`.
    pub(crate) fn output<T: bytemuck::Pod>(&mut self, o: usize) -> &mut [T] {
        let operand = &self.vertex.outputs[o];
        // SAFETY: the operand's range, by the contract of `new`; exclusive for as long as `self` is.
        numbers_mut(unsafe { std::slice::from_raw_parts_mut(self.at(operand), operand.bytes()) })
    }

    /// Copies the bytes of input `i` to output `o`, which has as many and may lie on it.
    pub(crate) fn copy_input(&mut self, i: usize, o: usize) {
        let (from, to) = (&self.vertex.inputs[i], &self.vertex.outputs[o]);
        assert_eq!(from.bytes(), to.bytes(), "a copy keeps its size");
        // SAFETY: both ranges are operands; `copy` allows them to overlap.
        unsafe { std::ptr::copy(self.at(from), self.at(to), from.bytes()) }
    }

    /// All inputs, shared, and all outputs, exclusive, at the same time.
    ///
    /// # Panics
    /// In debug builds, when an output overlaps another operand: a mistake of the loader, which refuses such vertices.
    pub(crate) fn split<const I: usize, const O: usize>(&mut self) -> ([&[u8]; I], [&mut [u8]; O]) {
        let Vertex {
            inputs, outputs, ..
        } = self.vertex;
        for (o, output) in outputs.iter().enumerate() {
            let others = inputs.iter().chain(&outputs[o + 1..]);
            debug_assert!(others.into_iter().all(|other| apart(output, other)));
        }
        // SAFETY: ranges of operands, by the contract of `new`; outputs overlap nothing, as the loader has seen, and each is taken once.
        unsafe {
            (
                std::array::from_fn(|i| {
                    std::slice::from_raw_parts(self.at(&inputs[i]), inputs[i].bytes())
                }),
                std::array::from_fn(|o| {
                    std::slice::from_raw_parts_mut(self.at(&outputs[o]), outputs[o].bytes())
                }),
            )
        }
    }

    fn at(&self, operand: &Operand<'_>) -> *mut u8 {
        match operand.home() {
            Home::Block { start, .. } => start.wrapping_add(operand.offset),
            Home::WorkSpace => {
                assert!(operand.range().end <= self.work.1, "inside work space");
                self.work.0.wrapping_add(operand.offset)
            }
        }
    }
}

/// True when two operands share no byte.
pub(crate) fn apart(a: &Operand<'_>, b: &Operand<'_>) -> bool {
    let elsewhere = (a.home() == Home::WorkSpace) != (b.home() == Home::WorkSpace);
    let (a, b) = (a.range(), b.range());
    elsewhere || a.is_empty() || b.is_empty() || a.end <= b.start || b.end <= a.start
}

/// Tile bytes as numbers; operands are aligned to 16 bytes, or to their elements where they are an entry.
pub(crate) fn numbers<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> &[T] {
    if bytes.is_empty() {
        return &[];
    }
    bytemuck::cast_slice(bytes)
}

/// Tile bytes as numbers, to write.
pub(crate) fn numbers_mut<T: bytemuck::Pod>(bytes: &mut [u8]) -> &mut [T] {
    if bytes.is_empty() {
        return &mut [];
    }
    bytemuck::cast_slice_mut(bytes)
}
