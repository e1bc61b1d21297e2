//! Variables: tensors cut into rectangular blocks over the tiles of a grid.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::grid::Grid;
use crate::ids::GridId;
use crate::types::{Shape, TensorType};
use crate::units::align_up;

/// How one dimension is cut: by the product of some grid axes (outermost first), in whole grains. No axes: not cut.
///
/// With `P` parts and `G = ⌈size/grain⌉` grains, part `i` starts at element `grain·⌊i·G/P⌋`. Cutting by `(a, b)` therefore refines
/// cutting by `(a)` with the same grain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cut {
    pub axes: SmallVec<[u8; 2]>,
    pub grain: u32,
}

impl Cut {
    /// Not cut.
    pub fn none() -> Cut {
        Cut {
            axes: SmallVec::new(),
            grain: 1,
        }
    }

    pub fn by(axes: &[u8], grain: usize) -> Cut {
        Cut {
            axes: SmallVec::from_slice(axes),
            grain: grain as u32,
        }
    }

    /// Elements `start..end` of part `i` of `parts`, of a dimension of `size`.
    pub fn range(&self, size: usize, parts: usize, i: usize) -> Range<usize> {
        let grain = self.grain as usize;
        let grains = size.div_ceil(grain);
        let start = |i: usize| (i * grains / parts * grain).min(size);
        start(i)..start(i + 1)
    }

    /// The part that holds element `at`.
    pub fn part_of(&self, size: usize, parts: usize, at: usize) -> usize {
        let grain = self.grain as usize;
        let grains = size.div_ceil(grain);
        // Inverse of start(i) = ⌊i·G/P⌋: the last i with ⌊i·G/P⌋ ≤ g.
        ((at / grain + 1) * parts - 1) / grains
    }

    /// Number of parts: the product of the extents of the axes.
    pub fn parts(&self, grid: &Grid) -> usize {
        self.axes
            .iter()
            .map(|&a| grid.axes[a as usize].extent as usize)
            .product()
    }

    /// Which part a grid point holds.
    pub fn part_at(&self, grid: &Grid, point: &[u32]) -> usize {
        self.axes.iter().fold(0, |i, &a| {
            i * grid.axes[a as usize].extent as usize + point[a as usize] as usize
        })
    }
}

/// What a variable is for, as memory reports group it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Category {
    Weight,
    Accumulator,
    OptimiserState,
    /// A value of the graph that lives from one op to others.
    Activation,
    /// Made and used up inside the lowering of one op: received operands, partials.
    Temporary,
    /// What a pipeline keeps for later stages: rings of activations, buffers of what comes from other IPUs, counters.
    Stash,
    /// Keys and values of earlier positions of a text.
    Cache,
    /// Host stream buffers.
    Stream,
}

impl Category {
    pub const ALL: [Category; 8] = [
        Category::Weight,
        Category::Accumulator,
        Category::OptimiserState,
        Category::Activation,
        Category::Temporary,
        Category::Stash,
        Category::Cache,
        Category::Stream,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Category::Weight => "weight",
            Category::Accumulator => "accumulator",
            Category::OptimiserState => "optimiser_state",
            Category::Activation => "activation",
            Category::Temporary => "temporary",
            Category::Stash => "stash",
            Category::Cache => "cache",
            Category::Stream => "stream",
        }
    }
}

/// A tensor in a layout, at one address on every tile that holds a block of it. Grid axes that cut no dimension hold copies.
/// A block lies in its tile row-major, without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub name: String,
    pub ty: TensorType,
    pub grid: GridId,
    /// One cut a dimension.
    pub cuts: SmallVec<[Cut; 4]>,
    /// Byte address in tile memory, a multiple of [`Variable::ALIGNMENT`].
    pub address: u32,
    pub category: Category,
    /// First and last step (in the numbering of [`crate::program::Program::walk`]) at which the value is needed; `None`: always live.
    pub live: Option<(u32, u32)>,
}

/// The part of a tensor that a tile holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// First element in each dimension.
    pub start: SmallVec<[usize; 4]>,
    pub shape: Shape,
}

impl Variable {
    /// Alignment of a block in tile memory, bytes (the machine's widest access is 16).
    pub const ALIGNMENT: u32 = 16;

    /// The block held at a grid point.
    pub fn block(&self, grid: &Grid, point: &[u32]) -> Block {
        let mut block = Block {
            start: SmallVec::new(),
            shape: Shape::scalar(),
        };
        for (cut, &size) in self.cuts.iter().zip(self.ty.shape.dims()) {
            let range = cut.range(size, cut.parts(grid), cut.part_at(grid, point));
            block.start.push(range.start);
            block.shape.0.push(range.len());
        }
        block
    }

    /// The largest block: every dimension's largest part.
    pub fn largest_block(&self, grid: &Grid) -> Shape {
        let largest = |(cut, &size): (&Cut, &usize)| {
            let grain = cut.grain as usize;
            size.div_ceil(grain)
                .div_ceil(cut.parts(grid))
                .saturating_mul(grain)
                .min(size)
        };
        Shape(
            self.cuts
                .iter()
                .zip(self.ty.shape.dims())
                .map(largest)
                .collect(),
        )
    }

    /// Bytes set aside on each tile of the grid.
    pub fn tile_bytes(&self, grid: &Grid) -> usize {
        align_up(
            self.largest_block(grid).elements() * self.ty.dtype.bytes(),
            Variable::ALIGNMENT as usize,
        )
    }

    /// Grid axes that cut no dimension: the variable has a copy at each of their indices.
    pub fn copy_axes<'a>(&'a self, grid: &'a Grid) -> impl Iterator<Item = usize> + 'a {
        (0..grid.axes.len()).filter(|&a| !self.cuts.iter().any(|c| c.axes.contains(&(a as u8))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_each_element_once_and_part_of_inverts() {
        for size in [1usize, 7, 24, 100, 1472] {
            for parts in [1usize, 2, 3, 7, 46, 1472] {
                for grain in [1u32, 2, 8, 16] {
                    let cut = Cut {
                        axes: SmallVec::new(),
                        grain,
                    };
                    let mut next = 0;
                    for i in 0..parts {
                        let r = cut.range(size, parts, i);
                        assert_eq!(r.start, next);
                        next = r.end;
                        for at in r {
                            assert_eq!(
                                cut.part_of(size, parts, at),
                                i,
                                "size {size} parts {parts} grain {grain} at {at}"
                            );
                        }
                    }
                    assert_eq!(next, size);
                }
            }
        }
    }
}
