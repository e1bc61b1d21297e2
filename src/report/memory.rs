//! Tile memory: how full each IPU's tiles get, with what, and which are fullest.
//!
//! Variables that never live at the same time share memory, so a tile's figure is taken at its own fullest point of the program: what
//! is always live, what lives then, and the room of the code, which is that of the IPU's tile with most of it.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;
use serde::Serialize;
use superstep_ir::ids::IpuId;
use superstep_ir::program::{Program, Variable};
use superstep_ir::types::TensorType;
use superstep_passes::solve::offsets::{Item, peaks};

/// The name under which the room for code is listed.
pub const CODE: &str = "code";
/// How many tiles and variables are named.
const NAMED: usize = 3;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryReport {
    pub ipus: Vec<IpuMemory>,
}

/// One IPU. Bytes are those in use at each tile's fullest point.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IpuMemory {
    pub ipu: u32,
    /// Tiles that hold any variable.
    pub tiles_used: u32,
    /// Of the fullest tile, code included.
    pub max_tile_bytes: u64,
    /// End of the highest variable on any tile: with the gaps between variables, this is what must fit.
    pub highest_address: u64,
    /// Over all tiles in use, code included.
    pub total_bytes: u64,
    /// The same by what it is for; sums to `total_bytes`.
    pub by_category: BTreeMap<&'static str, u64>,
    /// The fullest tiles, fullest first.
    pub fullest_tiles: Vec<TileMemory>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TileMemory {
    pub tile: u32,
    pub bytes: u64,
    /// Step of the program at which the tile is fullest.
    pub step: u32,
    pub by_category: BTreeMap<&'static str, u64>,
    /// What lies there then, largest first.
    pub largest: Vec<ResidentVariable>,
}

/// Variables of one name and type on a tile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResidentVariable {
    pub name: String,
    /// Type of the whole tensor, `f32[768, 3072]`.
    pub ty: String,
    /// How many of them.
    pub count: u64,
    /// Bytes on this tile, of all of them.
    pub bytes: u64,
}

impl MemoryReport {
    pub fn new(program: &Program) -> MemoryReport {
        let tiles = program.tile_sets();
        MemoryReport {
            ipus: (0..program.ipus)
                .map(|ipu| IpuMemory::new(program, &tiles, IpuId(ipu)))
                .collect(),
        }
    }

    /// Bytes of the fullest tile of all.
    pub fn max_tile_bytes(&self) -> u64 {
        self.ipus
            .iter()
            .map(|ipu| ipu.max_tile_bytes)
            .max()
            .unwrap_or(0)
    }
}

impl IpuMemory {
    fn new(program: &Program, tiles_of: &[FixedBitSet], ipu: IpuId) -> IpuMemory {
        let here: Vec<&Variable> = program
            .variables
            .iter()
            .filter(|v| program.grid(v.grid).ipu == ipu)
            .collect();
        let items: Vec<Item> = here
            .iter()
            .map(|variable| item(program, tiles_of, variable))
            .collect();
        let tiles = program.machine.tiles_per_ipu as usize;
        let peaks = peaks(&items, tiles);
        let used: Vec<usize> = (0..tiles).filter(|&tile| peaks[tile].0 > 0).collect();
        let code = u64::from(program.variables_from[ipu.index()]);

        let mut by_category = BTreeMap::from([(CODE, code * used.len() as u64)]);
        for (variable, item) in here.iter().zip(&items) {
            let bytes: u64 = item
                .memories
                .ones()
                .filter(|&t| lives_at(item, peaks[t].1))
                .map(|_| item.size)
                .sum();
            *by_category.entry(variable.category.name()).or_insert(0) += bytes;
        }
        by_category.retain(|_, bytes| *bytes > 0);

        let mut fullest = used.clone();
        fullest.sort_by_key(|&tile| (std::cmp::Reverse(peaks[tile].0), tile));
        let named = fullest
            .iter()
            .take(NAMED)
            .map(|&tile| tile_memory(&here, &items, tile, peaks[tile], code));
        IpuMemory {
            ipu: ipu.0,
            tiles_used: used.len() as u32,
            max_tile_bytes: fullest.first().map_or(0, |&tile| peaks[tile].0 + code),
            highest_address: here
                .iter()
                .zip(&items)
                .map(|(v, i)| u64::from(v.address) + i.size)
                .max()
                .unwrap_or(0),
            total_bytes: used.iter().map(|&tile| peaks[tile].0 + code).sum(),
            by_category,
            fullest_tiles: named.collect(),
        }
    }
}

fn item(program: &Program, tiles_of: &[FixedBitSet], variable: &Variable) -> Item {
    Item {
        size: variable.tile_bytes(program.grid(variable.grid)) as u64,
        live: variable.live.unwrap_or((0, u32::MAX - 1)),
        memories: tiles_of[variable.grid.index()].clone(),
    }
}

fn lives_at(item: &Item, step: u32) -> bool {
    (item.live.0..=item.live.1).contains(&step)
}

fn tile_memory(
    here: &[&Variable],
    items: &[Item],
    tile: usize,
    peak: (u64, u32),
    code: u64,
) -> TileMemory {
    let mut by_category = BTreeMap::from([(CODE, code)]);
    let mut residents: BTreeMap<(&str, &TensorType), (u64, u64)> = BTreeMap::new();
    for (variable, item) in here.iter().zip(items) {
        if item.memories.contains(tile) && lives_at(item, peak.1) {
            *by_category.entry(variable.category.name()).or_insert(0) += item.size;
            let (count, bytes) = residents.entry((&variable.name, &variable.ty)).or_default();
            *count += 1;
            *bytes += item.size;
        }
    }
    let mut largest: Vec<ResidentVariable> = residents
        .into_iter()
        .map(|((name, ty), (count, bytes))| ResidentVariable {
            name: name.into(),
            ty: ty.to_string(),
            count,
            bytes,
        })
        .collect();
    by_category.retain(|_, bytes| *bytes > 0);
    largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    largest.truncate(NAMED);
    TileMemory {
        tile: tile as u32,
        bytes: peak.0 + code,
        step: peak.1,
        by_category,
        largest,
    }
}
