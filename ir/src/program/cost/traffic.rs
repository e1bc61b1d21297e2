//! Cycles of exchanges, from what every tile sends, receives and copies.

use smallvec::SmallVec;

use crate::ids::IpuId;
use crate::machine::Machine;
use crate::machine::exchange_cost::{TileTraffic, copy_cycles, traffic_cycles};
use crate::machine::link_cost::{Transfer, inter_ipu_cycles};
use crate::program::exchange::expand;
use crate::program::{Move, Program};

/// Cycles of an exchange and what it moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeTime {
    pub cycles: u64,
    /// Whether some of it passes over links.
    pub crosses: bool,
    /// The IPU, if it is only one.
    pub ipu: Option<u32>,
    /// Bytes received by tiles.
    pub bytes: u64,
}

/// What one move makes each tile do; tiles that do nothing are left out.
#[derive(Clone, Debug, Default)]
pub struct MoveTraffic {
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

/// Traffic by tile, summed over the moves of an exchange.
#[derive(Default)]
pub struct TileSums {
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
    pub fn new(machine: &Machine) -> TileSums {
        TileSums {
            tiles: machine.tiles_per_ipu as usize,
            ..TileSums::default()
        }
    }

    /// Accounts for the moves of one exchange, each with the IPUs it goes from and to.
    pub fn exchange<'t>(
        &mut self,
        machine: &Machine,
        moves: impl Iterator<Item = (&'t MoveTraffic, IpuId, IpuId)>,
    ) -> ExchangeTime {
        let mut time = ExchangeTime::default();
        let mut transfers: SmallVec<[Transfer; 4]> = SmallVec::new();
        for (traffic, IpuId(from), IpuId(to)) in moves {
            self.add(traffic, from, to);
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
        time.ipu = match self.ipus.as_slice() {
            [only] => Some(only.ipu),
            _ => None,
        };
        let on_tiles = self.ipus.iter().map(|sum| {
            let copied = sum.copied.iter().copied().max().unwrap_or(0);
            traffic_cycles(machine, &sum.tiles) + copy_cycles(machine, copied)
        });
        let busiest = on_tiles.max().unwrap_or(0);
        time.cycles = busiest.max(inter_ipu_cycles(machine, transfers));
        self.clear();
        time
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
pub fn move_traffic(program: &Program, mv: &Move) -> MoveTraffic {
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
