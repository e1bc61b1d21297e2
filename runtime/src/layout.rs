//! Layouts made concrete: the block that every grid point holds, and where every tile stands in a grid.
//!
//! The program keeps layouts symbolic; the engine looks blocks up millions of times, so each distinct layout is expanded once, when
//! the program is loaded, into a table indexed by grid point. Identical layers share tables.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use superstep_ir::ids::{GridId, IpuId, VarId};
use superstep_ir::program::{Cut, Grid, Program, Variable};
use superstep_ir::types::{DType, Shape};

use crate::error::EngineError;

/// Highest rank of a variable that the engine takes: a batch of attention heads with a stash dimension needs five.
pub(crate) const MAX_RANK: usize = 6;

/// The largest tensor the engine takes, bytes. Keeps all index arithmetic far away from overflow.
const MAX_TENSOR_BYTES: u64 = 1 << 40;

/// The part of a tensor that one tile holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    rank: u8,
    /// A tensor may have more than 2³² of them, all on one tile of a program that is refused.
    elements: usize,
    start: [u32; MAX_RANK],
    extent: [u32; MAX_RANK],
}

impl Block {
    pub(crate) fn new(start: &[usize], extent: &[usize]) -> Block {
        let mut block = Block {
            rank: extent.len() as u8,
            elements: extent.iter().product(),
            ..Block::default()
        };
        for d in 0..extent.len() {
            block.start[d] = start[d] as u32;
            block.extent[d] = extent[d] as u32;
        }
        block
    }

    /// First element in each dimension of the tensor.
    pub(crate) fn start(&self) -> &[u32] {
        &self.start[..self.rank as usize]
    }

    pub(crate) fn extent(&self) -> &[u32] {
        &self.extent[..self.rank as usize]
    }

    pub(crate) fn elements(&self) -> usize {
        self.elements
    }
}

/// One way to cut one tensor type over a grid of given extents.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Number in the order of first use; equal layouts of a program have equal numbers.
    pub(crate) id: u32,
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    /// The block of every grid point.
    pub(crate) blocks: Vec<Block>,
    /// Bytes of the largest block.
    pub(crate) max_block_bytes: usize,
    /// Points that hold the first copy of their block.
    pub(crate) first_copies: Vec<u32>,
    /// The point that holds the first copy of the block of every grid point.
    pub(crate) first_copy_of: Vec<u32>,
    /// True when no grid axis cuts the leading dimension.
    pub(crate) leading_uncut: bool,
}

/// The tiles of a grid, in both directions.
#[derive(Debug)]
pub(crate) struct GridTiles {
    pub(crate) ipu: IpuId,
    /// Number in the order of first use of the arrangement of tiles, on whichever IPU.
    pub(crate) arrangement: u32,
    /// Tile of every point.
    pub(crate) tiles: Vec<u32>,
    /// The lowest tile of the grid.
    pub(crate) first: u32,
    /// Point held by tile `first + i`, or [`GridTiles::NO_POINT`].
    pub(crate) points: Vec<u32>,
}

impl GridTiles {
    pub(crate) const NO_POINT: u32 = u32::MAX;

    /// The point on a tile of this grid's IPU.
    pub(crate) fn point(&self, tile: u32) -> Option<usize> {
        let i = tile.checked_sub(self.first)? as usize;
        self.points
            .get(i)
            .copied()
            .filter(|&p| p != GridTiles::NO_POINT)
            .map(|p| p as usize)
    }
}

/// Tables for all grids and variables of a program.
#[derive(Debug)]
pub(crate) struct Layouts {
    pub(crate) grids: Vec<Arc<GridTiles>>,
    /// By variable.
    pub(crate) layouts: Vec<Arc<Layout>>,
}

/// What the blocks of a layout depend on.
type LayoutKey = (Vec<u32>, Vec<Cut>, DType, Shape);

impl Layouts {
    /// Expands every grid and layout of `program`, and checks that every block of every variable lies inside tile memory.
    pub(crate) fn of(program: &Program) -> Result<Layouts, EngineError> {
        let mut grids = Vec::with_capacity(program.grids.len());
        let mut arrangements: FxHashMap<Vec<u32>, u32> = FxHashMap::default();
        for (i, grid) in program.grids.iter().enumerate() {
            let mut tiles = grid_tiles(program, grid).map_err(|reason| EngineError::Grid {
                grid: GridId(i as u32),
                reason,
            })?;
            let next = arrangements.len() as u32;
            tiles.arrangement = *arrangements.entry(tiles.tiles.clone()).or_insert(next);
            grids.push(Arc::new(tiles));
        }
        let mut known: FxHashMap<LayoutKey, Arc<Layout>> = FxHashMap::default();
        let mut layouts = Vec::with_capacity(program.variables.len());
        for (i, variable) in program.variables.iter().enumerate() {
            let layout = variable_layout(program, variable, &mut known)
                .and_then(|layout| check_address(program, variable, &layout).map(|()| layout))
                .map_err(|reason| EngineError::Variable {
                    variable: VarId(i as u32),
                    name: variable.name.clone(),
                    reason,
                })?;
            layouts.push(layout);
        }
        Ok(Layouts { grids, layouts })
    }

    /// The tiles that hold a variable.
    pub(crate) fn grid(&self, program: &Program, variable: VarId) -> &GridTiles {
        &self.grids[program.variable(variable).grid.index()]
    }

    pub(crate) fn layout(&self, variable: VarId) -> &Arc<Layout> {
        &self.layouts[variable.index()]
    }
}

fn grid_tiles(program: &Program, grid: &Grid) -> Result<GridTiles, String> {
    let on_ipu = program.machine.tiles_per_ipu;
    if grid.ipu.0 >= program.ipus {
        return Err(format!("is on {} of {}", grid.ipu, program.ipus));
    }
    if grid.tiles == 0 || grid.tiles > on_ipu {
        return Err(format!(
            "counts {} tiles an IPU where there are {on_ipu}",
            grid.tiles
        ));
    }
    let points = grid
        .axes
        .iter()
        .try_fold(1u64, |n, axis| n.checked_mul(u64::from(axis.extent)));
    let points = points
        .filter(|&n| n > 0 && n <= u64::from(grid.tiles))
        .ok_or("has no points, or more points than tiles")?;
    let tiles: Vec<u32> = (0..points as usize)
        .map(|p| grid.tile(&grid.point(p)).0)
        .collect();
    let first = tiles.iter().copied().min().unwrap_or(0);
    let last = tiles.iter().copied().max().unwrap_or(0);
    let mut by_tile = vec![GridTiles::NO_POINT; (last - first + 1) as usize];
    for (point, &tile) in tiles.iter().enumerate() {
        let slot = &mut by_tile[(tile - first) as usize];
        if *slot != GridTiles::NO_POINT {
            return Err(format!("puts two points on tile {tile}"));
        }
        *slot = point as u32;
    }
    Ok(GridTiles {
        ipu: grid.ipu,
        arrangement: 0,
        tiles,
        first,
        points: by_tile,
    })
}

fn variable_layout(
    program: &Program,
    variable: &Variable,
    known: &mut FxHashMap<LayoutKey, Arc<Layout>>,
) -> Result<Arc<Layout>, String> {
    let grid = program
        .grids
        .get(variable.grid.index())
        .ok_or_else(|| format!("lies on unknown {}", variable.grid))?;
    let shape = &variable.ty.shape;
    if variable.cuts.len() != shape.rank() || shape.rank() > MAX_RANK {
        return Err(format!(
            "has {} cuts for {} dimensions (at most {MAX_RANK})",
            variable.cuts.len(),
            shape.rank()
        ));
    }
    let has_axes =
        |cut: &Cut| cut.grain > 0 && cut.axes.iter().all(|&a| usize::from(a) < grid.axes.len());
    if !variable.cuts.iter().all(has_axes) {
        return Err("is cut by an axis that its grid does not have, or in grains of 0".into());
    }
    let mut axes: Vec<u8> = variable
        .cuts
        .iter()
        .flat_map(|c| c.axes.iter().copied())
        .collect();
    axes.sort_unstable();
    if axes.windows(2).any(|w| w[0] == w[1]) {
        return Err("is cut twice by the same grid axis".into());
    }
    let bytes = shape
        .dims()
        .iter()
        .try_fold(variable.ty.dtype.bytes() as u64, |n, &d| {
            n.checked_mul(d as u64)
        });
    if bytes.is_none_or(|b| b > MAX_TENSOR_BYTES)
        || shape.dims().iter().any(|&d| d > u32::MAX as usize / 2)
    {
        return Err(format!("is too large: {}", variable.ty));
    }
    let extents: Vec<u32> = grid.axes.iter().map(|a| a.extent).collect();
    let key = (
        extents,
        variable.cuts.to_vec(),
        variable.ty.dtype,
        shape.clone(),
    );
    let id = known.len() as u32;
    Ok(known
        .entry(key)
        .or_insert_with(|| Arc::new(expand_layout(id, variable, grid)))
        .clone())
}

fn expand_layout(id: u32, variable: &Variable, grid: &Grid) -> Layout {
    let copy_axes: Vec<usize> = variable.copy_axes(grid).collect();
    let mut blocks = Vec::with_capacity(grid.points());
    let mut first_copies = Vec::new();
    let mut first_copy_of = Vec::with_capacity(grid.points());
    for p in 0..grid.points() {
        let mut point = grid.point(p);
        let block = variable.block(grid, &point);
        copy_axes.iter().for_each(|&a| point[a] = 0);
        let first = grid.number(&point) as u32;
        if first == p as u32 {
            first_copies.push(first);
        }
        first_copy_of.push(first);
        blocks.push(Block::new(&block.start, block.shape.dims()));
    }
    let dtype = variable.ty.dtype;
    let max_block_bytes = blocks
        .iter()
        .map(|b| b.elements() * dtype.bytes())
        .max()
        .unwrap_or(0);
    let leading_uncut = variable.cuts.first().is_some_and(|c| c.axes.is_empty());
    Layout {
        id,
        dtype,
        shape: variable.ty.shape.clone(),
        blocks,
        max_block_bytes,
        first_copies,
        first_copy_of,
        leading_uncut,
    }
}

fn check_address(program: &Program, variable: &Variable, layout: &Layout) -> Result<(), String> {
    let memory = program.machine.tile_memory as usize;
    let end = variable.address as usize + layout.max_block_bytes;
    if end > memory {
        return Err(format!("ends at byte {end} of a tile that has {memory}"));
    }
    if !variable.address.is_multiple_of(Variable::ALIGNMENT) {
        return Err(format!(
            "address {} is not a multiple of {}",
            variable.address,
            Variable::ALIGNMENT
        ));
    }
    Ok(())
}
