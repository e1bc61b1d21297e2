//! Cycles of exchanges, from what every tile sends, receives and copies.
//!
//! What a move makes tiles send depends on the layouts at both ends, the views, and whether both ends are on one IPU; identical
//! layers share it. So every distinct move is expanded once, in parallel, and summed up by tile.

use std::hash::{Hash, Hasher};

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use superstep_ir::ids::VarId;
use superstep_ir::machine::exchange_cost::{TileTraffic, copy_cycles, traffic_cycles};
use superstep_ir::machine::link_cost::{Transfer, inter_ipu_cycles};
use superstep_ir::program::exchange::expand;
use superstep_ir::program::{Cut, Exchange, Move, Program, Step, Variable, View};

/// Cycles of an exchange and what it moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExchangeTime {
    pub(super) cycles: u64,
    /// Whether some of it passes over links.
    pub(super) crosses: bool,
    /// The IPU, if it is only one.
    pub(super) ipu: Option<u32>,
    /// Bytes received by tiles.
    pub(super) bytes: u64,
}

/// What one move makes each tile do; tiles that do nothing are left out.
#[derive(Default)]
struct MoveTraffic {
    /// Tile, bytes sent, the part of it that only whole pairs receive.
    sent: Vec<(u32, u64, u64)>,
    /// Tile, bytes received, the part of it that the other tile of the pair receives too.
    received: Vec<(u32, u64, u64)>,
    /// Tile, bytes copied inside it.
    copied: Vec<(u32, u64)>,
    /// Bytes that leave their tile, each once.
    total_sent: u64,
    /// Bytes that arrive on another tile.
    total_received: u64,
}

/// The traffic of every distinct move of a program.
pub(super) struct Traffic<'p> {
    program: &'p Program,
    layouts: Vec<u32>,
    known: FxHashMap<Signature<'p>, MoveTraffic>,
}

/// What the traffic of a move depends on.
#[derive(PartialEq, Eq, Hash)]
struct Signature<'p> {
    source: u32,
    destination: u32,
    same_ipu: bool,
    views: &'p [View],
    at: &'p [usize],
}

impl<'p> Traffic<'p> {
    /// Expands every distinct move of the program.
    pub(super) fn of(program: &'p Program) -> Traffic<'p> {
        let mut traffic = Traffic {
            program,
            layouts: number_layouts(program),
            known: FxHashMap::default(),
        };
        let steps = program.procedures.iter().flat_map(|p| &p.steps);
        let moves = steps.flat_map(|step| match step {
            Step::Exchange(exchange) => exchange.moves.as_slice(),
            _ => &[],
        });
        let mut distinct: FxHashMap<Signature<'p>, &Move> = FxHashMap::default();
        for mv in moves {
            distinct.entry(traffic.signature(mv)).or_insert(mv);
        }
        let distinct: Vec<(Signature<'p>, &Move)> = distinct.into_iter().collect();
        traffic.known = distinct
            .into_par_iter()
            .map(|(signature, mv)| (signature, move_traffic(program, mv)))
            .collect();
        traffic
    }

    /// Number of expansions.
    #[cfg(test)]
    pub(super) fn distinct(&self) -> usize {
        self.known.len()
    }

    fn signature(&self, mv: &'p Move) -> Signature<'p> {
        let ipu = |v: VarId| self.program.grid_of(v).ipu;
        Signature {
            source: self.layouts[mv.source.index()],
            destination: self.layouts[mv.destination.index()],
            same_ipu: ipu(mv.source) == ipu(mv.destination),
            views: &mv.views,
            at: &mv.at,
        }
    }

    /// Accounts for one exchange of the program.
    pub(super) fn exchange(&self, exchange: &'p Exchange, sums: &mut TileSums) -> ExchangeTime {
        let machine = &self.program.machine;
        let mut time = ExchangeTime::default();
        let mut transfers: SmallVec<[Transfer; 4]> = SmallVec::new();
        for mv in &exchange.moves {
            let Some(traffic) = self.known.get(&self.signature(mv)) else {
                continue;
            };
            let from = self.program.grid_of(mv.source).ipu.0;
            let to = self.program.grid_of(mv.destination).ipu.0;
            sums.add(traffic, from, to);
            time.bytes += traffic.total_received;
            if from != to {
                time.crosses = true;
                transfers.push(Transfer {
                    from,
                    to,
                    bytes: traffic.total_sent,
                });
            }
        }
        time.ipu = match sums.ipus.as_slice() {
            [only] => Some(only.ipu),
            _ => None,
        };
        let on_tiles = sums.ipus.iter().map(|sum| {
            let copied = sum.copied.iter().copied().max().unwrap_or(0);
            traffic_cycles(machine, &sum.tiles) + copy_cycles(machine, copied)
        });
        let busiest = on_tiles.max().unwrap_or(0);
        time.cycles = busiest.max(inter_ipu_cycles(machine, transfers));
        sums.clear();
        time
    }
}

/// Traffic by tile, summed over the moves of an exchange.
#[derive(Default)]
pub(super) struct TileSums {
    tiles: usize,
    ipus: Vec<IpuSum>,
    /// Sums of IPUs that had no part in the last exchange, kept for the next.
    spare: Vec<IpuSum>,
}

struct IpuSum {
    ipu: u32,
    tiles: Vec<TileTraffic>,
    copied: Vec<u64>,
}

impl TileSums {
    pub(super) fn new(program: &Program) -> TileSums {
        TileSums {
            tiles: program.machine.tiles_per_ipu as usize,
            ..TileSums::default()
        }
    }

    fn add(&mut self, traffic: &MoveTraffic, from: u32, to: u32) {
        let sum = self.of(from);
        for &(tile, bytes, wide) in &traffic.sent {
            let tile = &mut sum.tiles[tile as usize];
            tile.sent += bytes;
            tile.sent_wide += wide;
        }
        for &(tile, bytes) in &traffic.copied {
            sum.copied[tile as usize] += bytes;
        }
        let sum = self.of(to);
        for &(tile, bytes, wide) in &traffic.received {
            let tile = &mut sum.tiles[tile as usize];
            tile.received += bytes;
            tile.received_wide += wide;
        }
    }

    fn of(&mut self, ipu: u32) -> &mut IpuSum {
        let at = match self.ipus.iter().position(|s| s.ipu == ipu) {
            Some(at) => at,
            None => {
                let tiles = self.tiles;
                let mut sum = self.spare.pop().unwrap_or_else(|| IpuSum {
                    ipu,
                    tiles: vec![TileTraffic::default(); tiles],
                    copied: vec![0; tiles],
                });
                sum.ipu = ipu;
                self.ipus.push(sum);
                self.ipus.len() - 1
            }
        };
        &mut self.ipus[at]
    }

    fn clear(&mut self) {
        for mut sum in self.ipus.drain(..) {
            sum.tiles.fill(TileTraffic::default());
            sum.copied.fill(0);
            self.spare.push(sum);
        }
    }
}

/// Expands a move and sums up by tile. In pair mode a copy is wide when it goes to whole pairs of tiles only.
fn move_traffic(program: &Program, mv: &Move) -> MoveTraffic {
    let Ok(expanded) = expand(program, mv) else {
        return MoveTraffic::default();
    };
    let same_ipu = expanded.source_ipu == expanded.destination_ipu;
    let tiles = program.machine.tiles_per_ipu as usize;
    let mut sent = vec![(0u64, 0u64); tiles];
    let mut received = vec![(0u64, 0u64); tiles];
    let mut copied = vec![0u64; tiles];
    let mut pairs = PairSets::new(tiles);
    let mut traffic = MoveTraffic::default();
    for copy in &expanded.copies {
        let bytes = copy.bytes();
        if same_ipu && copy.destination_tiles.as_slice() == [copy.source_tile] {
            copied[copy.source_tile as usize] += bytes;
            continue;
        }
        let wide = if pairs.are_whole(&copy.destination_tiles) {
            bytes
        } else {
            0
        };
        let sender = &mut sent[copy.source_tile as usize];
        *sender = (sender.0 + bytes, sender.1 + wide);
        for &tile in &copy.destination_tiles {
            let receiver = &mut received[tile as usize];
            *receiver = (receiver.0 + bytes, receiver.1 + wide);
        }
        traffic.total_sent += bytes;
        traffic.total_received += bytes * copy.destination_tiles.len() as u64;
    }
    let busy = |all: Vec<(u64, u64)>| -> Vec<(u32, u64, u64)> {
        let tiles = all.into_iter().zip(0u32..);
        tiles
            .filter(|((bytes, _), _)| *bytes > 0)
            .map(|((bytes, wide), tile)| (tile, bytes, wide))
            .collect()
    };
    traffic.sent = busy(sent);
    traffic.received = busy(received);
    traffic.copied = (0u32..).zip(copied).filter(|c| c.1 > 0).collect();
    traffic
}

/// Tells sets of tiles that consist of whole pairs `(2i, 2i + 1)`.
struct PairSets {
    /// Number of the set in which a tile was last seen.
    seen: Vec<u32>,
    set: u32,
}

impl PairSets {
    fn new(tiles: usize) -> PairSets {
        PairSets {
            seen: vec![0; tiles + 1],
            set: 0,
        }
    }

    fn are_whole(&mut self, tiles: &[u32]) -> bool {
        if !tiles.len().is_multiple_of(2) {
            return false;
        }
        self.set += 1;
        for &tile in tiles {
            self.seen[tile as usize] = self.set;
        }
        tiles
            .iter()
            .all(|&tile| self.seen[tile as usize ^ 1] == self.set)
    }
}

/// A number for every variable: equal for variables that lie on the same tiles in the same way.
fn number_layouts(program: &Program) -> Vec<u32> {
    let mut numbers: FxHashMap<LayoutKey<'_>, u32> = FxHashMap::default();
    let mut number = |variable| {
        let next = numbers.len() as u32;
        *numbers
            .entry(LayoutKey { program, variable })
            .or_insert(next)
    };
    program.variables.iter().map(&mut number).collect()
}

/// Extents, element type, cuts and tiles of a variable, without the IPU.
#[derive(Clone, Copy)]
struct LayoutKey<'p> {
    program: &'p Program,
    variable: &'p Variable,
}

impl LayoutKey<'_> {
    fn cuts(&self) -> &[Cut] {
        &self.variable.cuts
    }

    fn tiles(&self) -> (u32, u32, impl Iterator<Item = (u32, u32)> + '_) {
        let grid = self.program.grid(self.variable.grid);
        let axes = grid.axes.iter().map(|a| (a.extent, a.stride));
        (grid.base, grid.tiles, axes)
    }
}

impl PartialEq for LayoutKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        let ((base, tiles, axes), (base2, tiles2, axes2)) = (self.tiles(), other.tiles());
        self.variable.ty == other.variable.ty
            && self.cuts() == other.cuts()
            && (base, tiles) == (base2, tiles2)
            && axes.eq(axes2)
    }
}

impl Eq for LayoutKey<'_> {}

impl Hash for LayoutKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.variable.ty.hash(state);
        self.cuts().hash(state);
        let (base, tiles, axes) = self.tiles();
        (base, tiles).hash(state);
        axes.for_each(|axis| axis.hash(state));
    }
}
