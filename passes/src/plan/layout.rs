//! Layouts: a grid and one cut a dimension; and the default layouts for tensors that no plan has an opinion on.

use smallvec::SmallVec;
use superstep_ir::ids::GridId;
use superstep_ir::program::{Cut, Grid, Variable};
use superstep_ir::types::Shape;

/// How a tensor lies on the tiles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    pub grid: GridId,
    pub cuts: SmallVec<[Cut; 4]>,
}

impl Layout {
    pub fn new(grid: GridId, cuts: impl IntoIterator<Item = Cut>) -> Layout {
        Layout {
            grid,
            cuts: cuts.into_iter().collect(),
        }
    }

    pub fn of(variable: &Variable) -> Layout {
        Layout {
            grid: variable.grid,
            cuts: variable.cuts.clone(),
        }
    }

    /// A copy of the whole tensor of `rank` dimensions on every tile of the grid.
    pub fn copies(grid: GridId, rank: usize) -> Layout {
        Layout::new(grid, std::iter::repeat_n(Cut::none(), rank))
    }

    /// Extents of the largest block of a tensor of `shape`.
    pub fn largest_block(&self, grid: &Grid, shape: &Shape) -> Shape {
        let part = |(cut, &size): (&Cut, &usize)| {
            let grain = cut.grain as usize;
            size.div_ceil(grain)
                .div_ceil(cut.parts(grid))
                .saturating_mul(grain)
                .min(size)
        };
        Shape(self.cuts.iter().zip(shape.dims()).map(part).collect())
    }
}

/// Least elements worth a tile of their own: 128 bytes of f32.
const ELEMENTS_PER_TILE: usize = 32;

/// Parts per dimension that spread a tensor over at most `tiles` tiles, outer dimensions first, so that blocks stay contiguous.
pub fn spread_parts(shape: &Shape, tiles: usize) -> SmallVec<[usize; 4]> {
    spread_by(shape, tiles, ELEMENTS_PER_TILE)
}

/// The same with another number of elements that is worth a tile.
pub fn spread_by(shape: &Shape, tiles: usize, elements_per_tile: usize) -> SmallVec<[usize; 4]> {
    let mut left = tiles
        .min(shape.elements().div_ceil(elements_per_tile))
        .max(1);
    let mut parts: SmallVec<[usize; 4]> = SmallVec::new();
    for &extent in shape.dims() {
        let p = extent.min(left).max(1);
        parts.push(p);
        left /= p;
    }
    parts
}

/// Parts per dimension that keep rows (the last dimension) whole.
pub fn row_parts(shape: &Shape, tiles: usize) -> SmallVec<[usize; 4]> {
    let mut left = tiles;
    let mut parts: SmallVec<[usize; 4]> = SmallVec::new();
    let (_, rows) = shape.dims().split_last().unwrap_or((&1, &[]));
    for &extent in rows {
        let p = extent.min(left).max(1);
        parts.push(p);
        left /= p;
    }
    parts.push(1);
    parts
}
