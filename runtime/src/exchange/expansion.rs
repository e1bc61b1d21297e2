//! The copies of one move as flat arrays, grouped by destination tile.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use superstep_ir::program::exchange::{Expanded, Loop, RegionCopy};

use super::copies::Ask;
use crate::layout::{GridTiles, Layout};

/// What one tile receives in equal regions from one or more tiles at equal distances; offsets are relative to the variables' addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    /// The first one.
    pub(crate) source_tile: u32,
    pub(crate) source_offset: u32,
    pub(crate) destination_offset: u32,
    /// Index into [`Expansion::patterns`].
    pub(crate) pattern: u32,
}

/// The extents of a region, and the source tiles that have one; shared by all copies of that form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pattern {
    pub(crate) across: Across,
    /// Loops with more than one turn, outermost first.
    pub(crate) loops: SmallVec<[Loops; 3]>,
    pub(crate) run_bytes: u32,
}

/// The same region on several tiles, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Across {
    pub(crate) tiles: u32,
    /// From a source tile to the next.
    pub(crate) tile_step: i32,
    /// From a region to the next at the destination, bytes.
    pub(crate) destination_step: u32,
}

/// One loop; strides in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Loops {
    pub(crate) extent: u32,
    pub(crate) source_stride: u32,
    pub(crate) destination_stride: u32,
}

/// All copies of a move, checked: each stays inside its source block and its destination block.
#[derive(Debug)]
pub(crate) struct Expansion {
    /// Receiving tiles, ascending.
    pub(crate) tiles: Vec<u32>,
    /// For tile `tiles[0] + i`: its index in `tiles`, or [`Expansion::NONE`].
    numbers: Vec<u32>,
    /// `copies[starts[i] .. starts[i + 1]]` go to `tiles[i]`.
    pub(crate) starts: Vec<u32>,
    pub(crate) copies: Vec<Copy>,
    pub(crate) patterns: Vec<Pattern>,
    /// By pattern.
    pub(super) asks: Vec<Ask>,
    /// Bytes received by all tiles.
    pub(crate) bytes: u64,
}

/// One end of a move.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) grid: &'a GridTiles,
    pub(super) layout: &'a Layout,
    /// Only first copies are there.
    pub(super) shared: bool,
}

impl End<'_> {
    /// The tile on which the copy of `tile` is; the error is a tile that holds none.
    fn home(&self, tile: u32) -> Result<u32, u32> {
        let point = self.grid.point(tile).ok_or(tile)?;
        let home = match self.shared {
            true => self.layout.first_copy_of[point] as usize,
            false => point,
        };
        Ok(self.grid.tiles[home])
    }

    /// Ok when `bytes` from `offset` on are inside the block that `tile` holds.
    fn check_inside(&self, tile: u32, offset: u32, bytes: u64) -> Result<(), u32> {
        let point = self.grid.point(tile).ok_or(tile)?;
        let held = (self.layout.blocks[point].elements() * self.layout.dtype.bytes()) as u64;
        if u64::from(offset) + bytes <= held {
            Ok(())
        } else {
            Err(tile)
        }
    }
}

impl Across {
    const ONE: Across = Across {
        tiles: 1,
        tile_step: 0,
        destination_step: 0,
    };
}

/// One region of a copy; offsets are relative to the variables' addresses.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    pub(crate) source_tile: u32,
    pub(crate) source_offset: u32,
    pub(crate) destination_offset: u32,
    pub(crate) pattern: &'a Pattern,
}

impl Copy {
    /// Its regions, in order; `pattern` is its own.
    pub(super) fn regions<'a>(
        &self,
        pattern: &'a Pattern,
    ) -> impl Iterator<Item = Region<'a>> + use<'a> {
        let (first, across) = (*self, pattern.across);
        (0..across.tiles).map(move |i| Region {
            source_tile: first
                .source_tile
                .wrapping_add_signed(i as i32 * across.tile_step),
            source_offset: first.source_offset,
            destination_offset: first.destination_offset + i * across.destination_step,
            pattern,
        })
    }

    /// What region `i` has beyond the first one, if it could be of one copy with it.
    fn step_to(&self, other: &Copy) -> Option<Across> {
        let alike = (self.pattern, self.source_offset) == (other.pattern, other.source_offset);
        alike.then(|| Across {
            tiles: 2,
            tile_step: other.source_tile.wrapping_sub(self.source_tile) as i32,
            destination_step: other.destination_offset - self.destination_offset,
        })
    }
}

impl Loops {
    /// One turn.
    pub(crate) const ONCE: Loops = Loops {
        extent: 1,
        source_stride: 0,
        destination_stride: 0,
    };
}

impl Pattern {
    /// `None` for a region without bytes.
    fn of(copy: &RegionCopy) -> Option<Pattern> {
        if copy.run_bytes == 0 || copy.loops.iter().any(|l| l.extent == 0) {
            return None;
        }
        let loops = copy
            .loops
            .iter()
            .filter(|l| l.extent > 1)
            .map(|l: &Loop| Loops {
                extent: l.extent,
                source_stride: l.source_stride,
                destination_stride: l.destination_stride,
            });
        Some(Pattern {
            across: Across::ONE,
            loops: loops.collect(),
            run_bytes: copy.run_bytes,
        })
    }

    /// Bytes from the first to behind the last one of a region, read and written.
    pub(crate) fn spans(&self) -> (u64, u64) {
        let run = u64::from(self.run_bytes);
        self.loops
            .iter()
            .fold((run, run), |(source, destination), l| {
                let turns = u64::from(l.extent - 1);
                (
                    source + turns * u64::from(l.source_stride),
                    destination + turns * u64::from(l.destination_stride),
                )
            })
    }

    /// Bytes moved of a region.
    pub(super) fn bytes(&self) -> u64 {
        self.loops
            .iter()
            .map(|l| u64::from(l.extent))
            .product::<u64>()
            * u64::from(self.run_bytes)
    }
}

impl Expansion {
    /// Flattens `expanded`; the error is a tile on which a copy would leave its block.
    pub(super) fn of(
        expanded: &Expanded,
        source: End<'_>,
        destination: End<'_>,
    ) -> Result<Expansion, u32> {
        let mut patterns = Patterns::default();
        let mut received: Vec<(u32, Copy)> = Vec::new();
        let mut bytes = 0;
        for region in &expanded.copies {
            let Some(pattern) = Pattern::of(region) else {
                continue;
            };
            let (read, written) = pattern.spans();
            source.check_inside(region.source_tile, region.source_offset, read)?;
            let source_tile = source.home(region.source_tile)?;
            let each = pattern.bytes();
            let number = patterns.number(pattern);
            for &tile in &region.destination_tiles {
                destination.check_inside(tile, region.destination_offset, written)?;
                if destination.home(tile)? != tile {
                    continue;
                }
                bytes += each;
                let copy = Copy {
                    source_tile,
                    source_offset: region.source_offset,
                    destination_offset: region.destination_offset,
                    pattern: number,
                };
                received.push((tile, copy));
            }
        }
        received.sort_by_key(|&(tile, copy)| (tile, copy.destination_offset));
        let mut expansion = Expansion {
            tiles: Vec::new(),
            numbers: Vec::new(),
            starts: Vec::new(),
            copies: Vec::new(),
            patterns: Vec::new(),
            asks: Vec::new(),
            bytes,
        };
        for of_tile in received.chunk_by(|a, b| a.0 == b.0) {
            expansion.tiles.push(of_tile[0].0);
            expansion.starts.push(expansion.copies.len() as u32);
            let copies = of_tile.iter().map(|&(_, copy)| copy);
            patterns.join(copies, &mut expansion.copies);
        }
        expansion.starts.push(expansion.copies.len() as u32);
        expansion.copies.shrink_to_fit();
        expansion.patterns = patterns.patterns;
        expansion.asks = expansion.patterns.iter().map(Ask::of).collect();
        expansion.number_tiles();
        Ok(expansion)
    }

    const NONE: u32 = u32::MAX;

    fn number_tiles(&mut self) {
        let (Some(&first), Some(&last)) = (self.tiles.first(), self.tiles.last()) else {
            return;
        };
        self.numbers = vec![Expansion::NONE; (last - first + 1) as usize];
        for (i, &tile) in self.tiles.iter().enumerate() {
            self.numbers[(tile - first) as usize] = i as u32;
        }
    }

    /// Index of a receiving tile.
    pub(crate) fn receiver(&self, tile: u32) -> Option<usize> {
        let i = tile.checked_sub(*self.tiles.first()?)? as usize;
        let number = self
            .numbers
            .get(i)
            .copied()
            .filter(|&n| n != Expansion::NONE)?;
        Some(number as usize)
    }

    /// The regions that `tiles[i]` receives, by their first byte there.
    pub(crate) fn received(&self, i: usize) -> impl Iterator<Item = Region<'_>> {
        let regions = |copy: &Copy| copy.regions(&self.patterns[copy.pattern as usize]);
        self.copies_to(i).iter().flat_map(regions)
    }

    /// The copies to `tiles[i]`, by their first byte there.
    pub(super) fn copies_to(&self, i: usize) -> &[Copy] {
        &self.copies[self.starts[i] as usize..self.starts[i + 1] as usize]
    }
}

/// Distinct patterns, numbered in the order of first use.
#[derive(Default)]
struct Patterns {
    numbers: FxHashMap<Pattern, u32>,
    patterns: Vec<Pattern>,
}

impl Patterns {
    fn number(&mut self, pattern: Pattern) -> u32 {
        *self.numbers.entry(pattern).or_insert_with_key(|pattern| {
            self.patterns.push(pattern.clone());
            self.patterns.len() as u32 - 1
        })
    }

    /// Appends the copies of a tile to `joined`, those of equal regions at equal distances as one. Their order stays.
    fn join(&mut self, copies: impl Iterator<Item = Copy>, joined: &mut Vec<Copy>) {
        let mut copies = copies.peekable();
        while let Some(first) = copies.next() {
            let mut across = Across::ONE;
            let mut last = first;
            while let Some(step) = copies.peek().and_then(|next| last.step_to(next)) {
                let fits = across.tiles == 1
                    || Across {
                        tiles: across.tiles,
                        ..step
                    } == across;
                if !fits {
                    break;
                }
                across = Across {
                    tiles: across.tiles + 1,
                    ..step
                };
                last = copies.next().unwrap_or(last);
            }
            let region = self.patterns[first.pattern as usize].clone();
            let pattern = self.number(Pattern { across, ..region });
            joined.push(Copy { pattern, ..first });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(joined: &[Copy], patterns: &Patterns) -> Vec<(u32, u32, u32)> {
        let regions = joined
            .iter()
            .flat_map(|copy| copy.regions(&patterns.patterns[copy.pattern as usize]));
        regions
            .map(|r| (r.source_tile, r.source_offset, r.destination_offset))
            .collect()
    }

    /// Copies of one pattern: source tile, offset there and at the destination.
    fn join(regions: &[(u32, u32, u32)]) -> (Vec<Copy>, Patterns) {
        let mut patterns = Patterns::default();
        let pattern = patterns.number(Pattern {
            across: Across::ONE,
            loops: SmallVec::new(),
            run_bytes: 64,
        });
        let copy = |&(source_tile, source_offset, destination_offset): &_| Copy {
            source_tile,
            source_offset,
            destination_offset,
            pattern,
        };
        let mut joined = Vec::new();
        patterns.join(regions.iter().map(copy), &mut joined);
        (joined, patterns)
    }

    #[test]
    fn regions_at_equal_distances_are_one_copy_and_keep_their_order() {
        // Tiles downwards; another distance; another offset; one alone.
        let regions = [
            (9, 0, 0),
            (7, 0, 64),
            (5, 0, 128),
            (6, 0, 192),
            (7, 0, 256),
            (8, 32, 320),
            (8, 32, 448),
            (8, 32, 512),
        ];
        let (joined, patterns) = join(&regions);
        assert_eq!(copies(&joined, &patterns), regions);
        let counts = joined
            .iter()
            .map(|c| patterns.patterns[c.pattern as usize].across.tiles);
        assert_eq!(counts.collect::<Vec<_>>(), [3, 2, 2, 1]);
    }

    #[test]
    fn every_sequence_of_regions_stays_as_it_was() {
        let mut state = 7_u32;
        let mut next = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % n
        };
        for _ in 0..200 {
            let mut at = 0;
            let regions: Vec<(u32, u32, u32)> = (0..next(30))
                .map(|_| {
                    at += 64 * (1 + next(2));
                    (next(4), 16 * next(2), at)
                })
                .collect();
            let (joined, patterns) = join(&regions);
            assert_eq!(copies(&joined, &patterns), regions);
        }
    }
}
