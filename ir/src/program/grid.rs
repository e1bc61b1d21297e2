//! Grids: regular arrangements of tiles of one IPU.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::ids::{IpuId, TileId};

/// One axis of a grid: `extent` steps, each `stride` tiles on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Axis {
    pub name: String,
    pub extent: u32,
    pub stride: u32,
}

/// `tile(i, j, …) = (base + i·stride_i + j·stride_j + …) mod tiles`, on one IPU. Different points are different tiles.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    pub name: String,
    pub ipu: IpuId,
    pub base: u32,
    /// Tiles of the IPU: the modulus.
    pub tiles: u32,
    pub axes: SmallVec<[Axis; 4]>,
}

/// Index of a point, one number an axis.
pub type Point = SmallVec<[u32; 4]>;

impl Grid {
    /// A dense grid: the last axis innermost, extents in the order given.
    pub fn dense(
        name: impl Into<String>,
        ipu: IpuId,
        base: u32,
        tiles: u32,
        axes: &[(&str, usize)],
    ) -> Grid {
        let mut stride = 1u32;
        let mut list: SmallVec<[Axis; 4]> = SmallVec::new();
        for &(name, extent) in axes.iter().rev() {
            list.insert(
                0,
                Axis {
                    name: name.into(),
                    extent: extent as u32,
                    stride,
                },
            );
            stride = stride.saturating_mul(extent as u32);
        }
        Grid {
            name: name.into(),
            ipu,
            base,
            tiles,
            axes: list,
        }
    }

    /// Number of points, each on a tile of its own.
    pub fn points(&self) -> usize {
        self.axes.iter().map(|a| a.extent as usize).product()
    }

    /// The `i`-th point, last axis fastest.
    pub fn point(&self, i: usize) -> Point {
        let mut rest = i;
        let mut point: Point = SmallVec::from_elem(0, self.axes.len());
        for (slot, axis) in point.iter_mut().zip(&self.axes).rev() {
            *slot = (rest % axis.extent as usize) as u32;
            rest /= axis.extent as usize;
        }
        point
    }

    /// The number of a point: the `i` of [`Grid::point`].
    pub fn number(&self, point: &[u32]) -> usize {
        let axes = point.iter().zip(&self.axes);
        axes.fold(0, |number, (&i, axis)| {
            number * axis.extent as usize + i as usize
        })
    }

    /// The tile of a point.
    pub fn tile(&self, point: &[u32]) -> TileId {
        let offset: u64 = point
            .iter()
            .zip(&self.axes)
            .map(|(&i, a)| u64::from(i) * u64::from(a.stride))
            .sum();
        TileId(((u64::from(self.base) + offset) % u64::from(self.tiles)) as u32)
    }

    /// All points with their tiles, last axis fastest.
    pub fn iter(&self) -> impl Iterator<Item = (Point, TileId)> + '_ {
        let mut next = Odometer::new(self);
        (0..self.points()).map(move |_| {
            let here = (Point::from_slice(&next.point), next.tile());
            next.advance();
            here
        })
    }

    /// The tiles of all points, last axis fastest.
    pub fn tile_ids(&self) -> impl Iterator<Item = TileId> + '_ {
        let mut next = Odometer::new(self);
        (0..self.points()).map(move |_| {
            let tile = next.tile();
            next.advance();
            tile
        })
    }
}

/// A point that steps through a grid. Grids are walked for every variable and vertex group, so without a division for each axis.
struct Odometer<'g> {
    grid: &'g Grid,
    point: Point,
    /// Tiles from the first point's, before they wrap round.
    offset: u64,
}

impl Odometer<'_> {
    fn new(grid: &Grid) -> Odometer<'_> {
        Odometer {
            grid,
            point: SmallVec::from_elem(0, grid.axes.len()),
            offset: 0,
        }
    }

    fn tile(&self) -> TileId {
        let (tile, tiles) = (
            u64::from(self.grid.base) + self.offset,
            u64::from(self.grid.tiles),
        );
        TileId(if tile < tiles { tile } else { tile % tiles } as u32)
    }

    fn advance(&mut self) {
        for (at, axis) in self.point.iter_mut().zip(&self.grid.axes).rev() {
            *at += 1;
            self.offset += u64::from(axis.stride);
            if *at < axis.extent {
                return;
            }
            self.offset -= u64::from(axis.stride) * u64::from(*at);
            *at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walking_a_grid_is_counting_its_points() {
        let mut strided = Grid::dense("", IpuId(0), 5, 60, &[("a", 3), ("b", 1), ("c", 4)]);
        strided.axes[0].stride = 17;
        for grid in [
            strided,
            Grid::dense("", IpuId(0), 7, 8, &[]),
            Grid::dense("", IpuId(0), 7, 8, &[("a", 8)]),
        ] {
            let counted = (0..grid.points()).map(|i| {
                let point = grid.point(i);
                let tile = grid.tile(&point);
                (point, tile)
            });
            assert!(counted.eq(grid.iter()));
            assert!(grid.iter().map(|(_, tile)| tile).eq(grid.tile_ids()));
        }
    }
}
