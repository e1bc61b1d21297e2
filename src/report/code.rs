//! What lies on the tiles besides variables, by the categories of a Poplar memory report; and how close the addresses of variables come to
//! the least that any placement needs.

use std::collections::BTreeMap;

use serde::Serialize;
use superstep_ir::ids::IpuId;
use superstep_ir::program::Program;
use superstep_ir::program::footprint::{CodeKind, Footprint, TileFootprint};

use super::format::bytes;
use super::memory::{IpuMemory, MemoryReport};
use super::terminal::table;

/// Code, vertex state, exchange programs and stacks. Variables of an IPU lie above the most that one of its tiles has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CodeReport {
    pub ipus: Vec<IpuCode>,
}

/// One IPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IpuCode {
    pub ipu: u32,
    /// Bytes by kind: of the average tile, of the tile with most of all kinds together, and of all tiles.
    pub average_tile: BTreeMap<&'static str, u64>,
    pub fullest_tile: BTreeMap<&'static str, u64>,
    pub total: BTreeMap<&'static str, u64>,
    pub average_tile_bytes: u64,
    pub fullest_tile_bytes: u64,
    pub total_bytes: u64,
    /// End of the variables, from the end of the code on, over the bytes of the fullest tile, which no placement undercuts.
    pub placement_ratio: f64,
}

impl CodeReport {
    pub(super) fn new(
        program: &Program,
        footprint: &Footprint,
        memory: &MemoryReport,
    ) -> CodeReport {
        let ipus = memory.ipus.iter().zip(&program.variables_from);
        let ipu = |(ipu, &from)| IpuCode::new(footprint, ipu, from);
        CodeReport {
            ipus: ipus.map(ipu).collect(),
        }
    }
}

impl IpuCode {
    fn new(footprint: &Footprint, memory: &IpuMemory, from: u32) -> IpuCode {
        let tiles = footprint.of_ipu(IpuId(memory.ipu));
        let mut total = BTreeMap::new();
        for (kind, bytes) in tiles.iter().flat_map(TileFootprint::iter) {
            *total.entry(kind.name()).or_insert(0) += bytes;
        }
        let count = (tiles.len() as u64).max(1);
        let average_tile = total.iter().map(|(&kind, bytes)| (kind, bytes / count));
        let fullest = tiles.iter().max_by_key(|tile| tile.total());
        let kinds = fullest.iter().flat_map(|tile| tile.iter());
        let total_bytes: u64 = tiles.iter().map(TileFootprint::total).sum();
        let above = |end: u64| end.saturating_sub(from.into());
        IpuCode {
            ipu: memory.ipu,
            average_tile: average_tile.collect(),
            fullest_tile: kinds.map(|(kind, bytes)| (kind.name(), bytes)).collect(),
            average_tile_bytes: total_bytes / count,
            fullest_tile_bytes: fullest.map_or(0, TileFootprint::total),
            total_bytes,
            total,
            placement_ratio: above(memory.highest_address) as f64
                / above(memory.max_tile_bytes).max(1) as f64,
        }
    }
}

/// A table an IPU; IPUs whose tables are the same share one.
pub(super) fn tables(report: &CodeReport) -> String {
    let mut tables: Vec<(Vec<String>, String)> = Vec::new();
    for ipu in &report.ipus {
        let text = ipu_table(ipu);
        let name = format!("IPU {}", ipu.ipu);
        match tables.iter_mut().find(|(_, known)| *known == text) {
            Some((names, _)) => names.push(name),
            None => tables.push((vec![name], text)),
        }
    }
    let tables = tables.into_iter();
    let tables = tables.map(|(names, text)| format!("{}\n{text}", names.join(", ")));
    tables.collect::<Vec<_>>().join("\n")
}

fn ipu_table(ipu: &IpuCode) -> String {
    let row = |name: &str, [average, fullest, total]: [u64; 3]| {
        let cells = [bytes(average), bytes(fullest), bytes(total)];
        [vec![name.replace('_', " ")], cells.to_vec()].concat()
    };
    let kinds = CodeKind::ALL.iter().map(|kind| kind.name());
    let rows = kinds.filter_map(|kind| {
        let of = |by_kind: &BTreeMap<&'static str, u64>| by_kind.get(kind).copied().unwrap_or(0);
        let total = of(&ipu.total);
        (total > 0).then(|| row(kind, [of(&ipu.average_tile), of(&ipu.fullest_tile), total]))
    });
    let all = [
        ipu.average_tile_bytes,
        ipu.fullest_tile_bytes,
        ipu.total_bytes,
    ];
    let header = ["", "average tile", "fullest tile", "total"];
    format!(
        "{}\nvariables are placed in {:.3} × the bytes of the fullest tile",
        table(&header, rows.chain([row("all", all)]), 1),
        ipu.placement_ratio,
    )
}
