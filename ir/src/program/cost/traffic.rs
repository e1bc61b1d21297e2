//! Cycles of exchanges, from what every tile sends, receives and copies.

use smallvec::SmallVec;

use crate::ids::IpuId;
use crate::machine::Machine;
use crate::machine::exchange_cost::{TileTraffic, copy_cycles, traffic_cycles};
use crate::machine::link_cost::{Transfer, inter_ipu_cycles};
use crate::program::exchange::{Loop, RegionCopy, visit_copies};
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
    /// `cycles` by cause.
    pub parts: ExchangeParts,
}

/// Cycles of an exchange by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeParts {
    /// From the end of the sync to the first word.
    pub start: u64,
    /// Words of data at the busiest tile.
    pub data: u64,
    /// Control words between its fragments.
    pub fragments: u64,
    /// Copies inside tiles.
    pub copies: u64,
    /// Over the links between IPUs.
    pub links: u64,
}

impl ExchangeParts {
    pub const fn total(&self) -> u64 {
        self.start + self.data + self.fragments + self.copies + self.links
    }
}

/// What one move makes each tile do; tiles that do nothing are left out.
#[derive(Clone, Debug, Default)]
pub struct MoveTraffic {
    sent: Vec<(u32, Flow)>,
    received: Vec<(u32, Flow)>,
    /// Copied inside the tile.
    copied: Vec<(u32, Flow)>,
    /// Bytes that leave their tile, each once.
    total_sent: u64,
    /// Bytes that arrive on another tile.
    total_received: u64,
}

impl MoveTraffic {
    /// What tiles send, by tile.
    pub fn sent(&self) -> &[(u32, Flow)] {
        &self.sent
    }

    /// What tiles receive.
    pub fn received(&self) -> &[(u32, Flow)] {
        &self.received
    }

    /// What is copied inside tiles.
    pub fn copied(&self) -> &[(u32, Flow)] {
        &self.copied
    }
}

/// Bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    pub bytes: u64,
    /// The part that goes to whole pairs of tiles only.
    pub wide: u64,
    /// Contiguous runs.
    pub fragments: u64,
    /// Strided regions, of one or many fragments.
    pub regions: u64,
    /// Loops from fragment to fragment, over all regions.
    pub loops: u64,
}

impl Flow {
    fn add_region(&mut self, bytes: u64, wide: u64, runs: Runs) {
        self.add(&Flow {
            bytes,
            wide,
            fragments: runs.fragments,
            regions: 1,
            loops: runs.loops,
        });
    }

    fn add(&mut self, other: &Flow) {
        self.bytes += other.bytes;
        self.wide += other.wide;
        self.fragments += other.fragments;
        self.regions += other.regions;
        self.loops += other.loops;
    }
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
    copied: Vec<Flow>,
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
        let on_tiles = self.ipus.iter().map(|sum| sum.parts(machine));
        time.parts = on_tiles
            .max_by_key(ExchangeParts::total)
            .unwrap_or_default();
        let links = inter_ipu_cycles(machine, transfers);
        if links > time.parts.total() {
            time.parts = ExchangeParts {
                start: machine.exchange_start_cycles,
                links: links - machine.exchange_start_cycles,
                ..ExchangeParts::default()
            };
        }
        time.cycles = time.parts.total();
        self.clear();
        time
    }

    fn add(&mut self, traffic: &MoveTraffic, from: u32, to: u32) {
        let sum = self.of(from);
        for (tile, flow) in &traffic.sent {
            let tile = &mut sum.tiles[*tile as usize];
            tile.sent += flow.bytes;
            tile.sent_wide += flow.wide;
            tile.sent_fragments += flow.fragments;
        }
        for (tile, flow) in &traffic.copied {
            sum.copied[*tile as usize].add(flow);
        }
        let sum = self.of(to);
        for (tile, flow) in &traffic.received {
            let tile = &mut sum.tiles[*tile as usize];
            tile.received += flow.bytes;
            tile.received_wide += flow.wide;
            tile.received_fragments += flow.fragments;
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
                    copied: vec![Flow::default(); tiles],
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
            sum.copied.fill(Flow::default());
            self.spare.push(sum);
        }
    }
}

impl IpuSum {
    /// The exchange proper, then the copies.
    fn parts(&self, machine: &Machine) -> ExchangeParts {
        let exchange = traffic_cycles(machine, &self.tiles);
        let copies = self
            .copied
            .iter()
            .map(|flow| copy_cycles(machine, flow.bytes, flow.fragments));
        ExchangeParts {
            start: exchange.start,
            data: exchange.data,
            fragments: exchange.fragments,
            copies: copies.max().unwrap_or(0),
            links: 0,
        }
    }
}

/// Expands a move and sums up by tile. In pair mode a copy is wide when it goes to whole pairs of tiles only.
pub fn move_traffic(program: &Program, mv: &Move) -> MoveTraffic {
    let same_ipu = program.grid_of(mv.source).ipu == program.grid_of(mv.destination).ipu;
    let tiles = program.machine.tiles_per_ipu as usize;
    let mut sent = vec![Flow::default(); tiles];
    let mut received = vec![Flow::default(); tiles];
    let mut copied = vec![Flow::default(); tiles];
    let mut pairs = PairSets::new(tiles);
    let mut traffic = MoveTraffic::default();
    let mut add = |copy: &RegionCopy| {
        let bytes = copy.bytes();
        let arriving = runs(copy, |l| l.destination_stride);
        if same_ipu && copy.destination_tiles.as_slice() == [copy.source_tile] {
            copied[copy.source_tile as usize].add_region(bytes, 0, arriving);
            return;
        }
        let words = whole_words(copy);
        let wide = if pairs.are_whole(&copy.destination_tiles) {
            words
        } else {
            0
        };
        let leaving = runs(copy, |l| l.source_stride);
        sent[copy.source_tile as usize].add_region(words, wide, leaving);
        for &tile in &copy.destination_tiles {
            received[tile as usize].add_region(words, wide, arriving);
        }
        traffic.total_sent += bytes;
        traffic.total_received += bytes * copy.destination_tiles.len() as u64;
    };
    if visit_copies(program, mv, &mut |copy| add(&copy)).is_err() {
        return MoveTraffic::default();
    }
    let busy = |all: Vec<Flow>| -> Vec<(u32, Flow)> {
        let tiles = (0u32..).zip(all);
        tiles.filter(|(_, flow)| flow.bytes > 0).collect()
    };
    traffic.sent = busy(sent);
    traffic.received = busy(received);
    traffic.copied = busy(copied);
    traffic
}

/// One side of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Runs {
    /// Contiguous runs.
    fragments: u64,
    /// Loops that lead from one to the next.
    loops: u64,
}

/// The runs of a copy on one of its sides: loops that step on seamlessly prolong the run.
fn runs(copy: &RegionCopy, stride: impl Fn(&Loop) -> u32) -> Runs {
    let mut run = u64::from(copy.run_bytes);
    let mut runs = Runs {
        fragments: 1,
        loops: 0,
    };
    for l in copy.loops.iter().rev() {
        if runs.loops == 0 && u64::from(stride(l)) == run {
            run *= u64::from(l.extent);
        } else {
            runs.fragments *= u64::from(l.extent);
            runs.loops += 1;
        }
    }
    runs
}

/// Bytes of a copy in whole words: what is sent one by one takes a word each, be it 2 bytes.
fn whole_words(copy: &RegionCopy) -> u64 {
    const WORD: u64 = 4;
    let run = u64::from(copy.run_bytes);
    copy.bytes() / run.max(1) * run.next_multiple_of(WORD)
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

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    fn copy(run_bytes: u32, loops: &[(u32, u32, u32)]) -> RegionCopy {
        let loops = loops
            .iter()
            .map(|&(extent, source_stride, destination_stride)| Loop {
                extent,
                source_stride,
                destination_stride,
            });
        RegionCopy {
            source_tile: 0,
            source_offset: 0,
            destination_tiles: smallvec![1],
            destination_offset: 0,
            loops: loops.collect(),
            run_bytes,
        }
    }

    fn both(copy: &RegionCopy) -> (u64, u64) {
        (
            runs(copy, |l| l.source_stride).fragments,
            runs(copy, |l| l.destination_stride).fragments,
        )
    }

    #[test]
    fn fragments_are_contiguous_runs_of_each_side() {
        assert_eq!(both(&copy(96, &[])), (1, 1));
        // Seven rows of 24 bytes out of rows of 100, packed.
        assert_eq!(both(&copy(24, &[(7, 100, 24)])), (7, 1));
        // A transpose of 7 × 24 words: every word for itself on the side that is read across.
        assert_eq!(both(&copy(4, &[(24, 4, 28), (7, 96, 4)])), (168, 1));
        // Rows of rows: packed rows join, the planes above them do not.
        assert_eq!(both(&copy(8, &[(3, 1000, 500), (5, 8, 8)])), (3, 3));
    }

    #[test]
    fn half_words_take_a_word() {
        assert_eq!(whole_words(&copy(2, &[(24, 4, 4)])), 96);
        assert_eq!(whole_words(&copy(6, &[(2, 12, 6)])), 16);
        assert_eq!(whole_words(&copy(8, &[(2, 12, 8)])), 16);
    }
}
