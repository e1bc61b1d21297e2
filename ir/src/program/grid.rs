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
        (0..self.points()).map(|i| {
            let p = self.point(i);
            let t = self.tile(&p);
            (p, t)
        })
    }
}
