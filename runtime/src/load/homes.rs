//! Where the host keeps the blocks of variables.
//!
//! To the letter, a variable has its address on every tile, and all bytes of a tile lie together. But at a step one tile has its turn after
//! the other, so every block is far from the one before, on a page that was not touched for long. In the fast schedule
//! the blocks of a variable lie together instead, tile by tile, in an *array*. Variables that share bytes while they are alive (results
//! in place of operands) are in one array, as they lie on a tile; arrays that do not live at the same time may have the same bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use superstep_ir::ids::VarId;
use superstep_ir::program::Program;
use superstep_ir::units::align_up;

use super::disjoint_sets::DisjointSets;
use super::sharing::each_overlap;
use super::tile_span;
use super::uses::Uses;
use crate::layout::Layouts;
use crate::tile_memory::Home;

/// Two threads never write the same cache line: blocks of different tiles do not share one.
const ALIGNMENT: usize = 64;

/// The memory of an array rests for so many steps before it is another's. Where one is written that another was read from, a superstep ends,
/// and a phase.
const REST: u32 = 4;

/// First and last step, both included.
type Life = (u32, u32);

/// A stretch of memory in which the blocks of some variables lie, tile by tile.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Array {
    start: usize,
    end: usize,
    number: u32,
}

impl Array {
    pub(crate) fn is(&self, other: &Array) -> bool {
        self.number == other.number
    }

    /// True when it is another and has bytes of this one.
    pub(crate) fn clashes(&self, other: &Array) -> bool {
        !self.is(other) && self.start < other.end && other.start < self.end
    }
}

/// Where the blocks of all variables are.
pub(crate) struct Homes {
    /// By variable.
    homes: Vec<Home>,
    /// By variable.
    arrays: Vec<Array>,
    /// All bytes.
    pub(crate) bytes: usize,
}

impl Homes {
    /// Every variable at its address on its tile: one array of tiles.
    pub(crate) fn tile_by_tile(program: &Program, layouts: &Layouts) -> Homes {
        let variables = program.variables.iter().zip(&layouts.layouts);
        let ends = variables.map(|(v, layout)| v.address as usize + layout.max_block_bytes);
        let end = ends.max().unwrap_or(0).max(1);
        let lowest = program.variables.iter().map(|v| v.address as usize).min();
        // What lies below all variables would be code: there the tile before has its end.
        let below = lowest.unwrap_or(0).min(end - 1) / ALIGNMENT * ALIGNMENT;
        let stride = align_up(end - below, ALIGNMENT);
        let tiles = (program.machine.tiles_per_ipu as usize).saturating_mul(program.ipus as usize);
        let bytes = tiles.saturating_mul(stride).saturating_add(below);
        let home = |address: u32| Home {
            origin: address as usize,
            stride,
        };
        Homes {
            homes: program.variables.iter().map(|v| home(v.address)).collect(),
            arrays: vec![
                Array {
                    start: 0,
                    end: bytes,
                    number: 0
                };
                program.variables.len()
            ],
            bytes,
        }
    }

    /// The blocks of a variable together.
    pub(crate) fn variable_by_variable(program: &Program, layouts: &Layouts, uses: &Uses) -> Homes {
        let count = program.variables.len();
        let mut homes = Homes {
            homes: vec![Home::default(); count],
            arrays: vec![Array::default(); count],
            bytes: 0,
        };
        let tiles = program.machine.tiles_per_ipu as usize;
        let mut arrays = find(program, layouts, uses);
        // IPU by IPU, in the order of time.
        arrays.sort_by_key(|array| (array.ipu, array.life, array.variables[0]));
        for arrays in arrays.chunk_by(|a, b| a.ipu == b.ipu) {
            let mut memory = Memory::from(homes.bytes);
            for array in arrays {
                let bytes =
                    memory.take(array.stride().saturating_mul(array.tiles.len()), array.life);
                let first = array.ipu as usize * tiles + array.tiles.start as usize;
                for &v in &array.variables {
                    let place = program.variable(v).address as usize - array.bytes.start;
                    homes.arrays[v.index()] = Array {
                        start: bytes.start,
                        end: bytes.end,
                        number: 1 + array.variables[0].0,
                    };
                    homes.homes[v.index()] = Home {
                        origin: (bytes.start + place)
                            .wrapping_sub(first.wrapping_mul(array.stride())),
                        stride: array.stride(),
                    };
                }
            }
            homes.bytes = memory.end;
        }
        homes
    }

    pub(crate) fn of(&self, variable: VarId) -> Home {
        self.homes[variable.index()]
    }

    /// The array in which a variable lies.
    pub(crate) fn array(&self, variable: VarId) -> &Array {
        &self.arrays[variable.index()]
    }
}

/// Variables that lie on each other's bytes while they live, or one alone.
struct Together {
    ipu: u32,
    /// From the first tile to the last.
    tiles: Range<u32>,
    /// Of a tile.
    bytes: Range<usize>,
    life: Life,
    variables: Vec<VarId>,
}

impl Together {
    /// From a tile to the next.
    fn stride(&self) -> usize {
        align_up(self.bytes.len(), ALIGNMENT)
    }

    fn join(&mut self, other: Together) {
        self.tiles = self.tiles.start.min(other.tiles.start)..self.tiles.end.max(other.tiles.end);
        self.bytes = self.bytes.start.min(other.bytes.start)..self.bytes.end.max(other.bytes.end);
        self.life = (self.life.0.min(other.life.0), self.life.1.max(other.life.1));
        self.variables.extend(other.variables);
    }
}

fn find(program: &Program, layouts: &Layouts, uses: &Uses) -> Vec<Together> {
    let used = |v: VarId| uses[v].kept || uses[v].count() > 0;
    let life = |v: VarId| program.variable(v).live.unwrap_or((0, u32::MAX));
    let mut sets = DisjointSets::new(program.variables.len());
    each_overlap(program, layouts, |v, w| {
        if used(v) && used(w) {
            sets.join(v.0, w.0);
        }
    });
    let mut order: Vec<VarId> = (0..program.variables.len() as u32).map(VarId).collect();
    order.retain(|&v| used(v));
    order.sort_by_key(|&v| life(v));
    let mut arrays: Vec<Option<Together>> = Vec::new();
    arrays.resize_with(program.variables.len(), || None);
    for v in order {
        let grid = layouts.grid(program, v);
        let array = Together {
            ipu: grid.ipu.0,
            tiles: grid.first..grid.first + grid.points.len() as u32,
            bytes: tile_span(program, layouts, v).bytes,
            life: life(v),
            variables: vec![v],
        };
        match &mut arrays[sets.find(v.0) as usize] {
            Some(joined) => joined.join(array),
            none => *none = Some(array),
        }
    }
    arrays.into_iter().flatten().collect()
}

/// Memory that is given to arrays in the order of their lives.
struct Memory {
    /// From the start of a free stretch to its end.
    free: BTreeMap<usize, usize>,
    /// By the step from which on they are free.
    resting: BTreeMap<u32, Vec<Range<usize>>>,
    end: usize,
}

impl Memory {
    fn from(start: usize) -> Memory {
        Memory {
            free: BTreeMap::new(),
            resting: BTreeMap::new(),
            end: start,
        }
    }

    /// The smallest free stretch that is large enough, or bytes at the end.
    fn take(&mut self, bytes: usize, life: Life) -> Range<usize> {
        while let Some(first) = self.resting.first_entry()
            && *first.key() <= life.0
        {
            first
                .remove()
                .into_iter()
                .for_each(|range| self.release(range));
        }
        let fitting = self
            .free
            .iter()
            .filter(|(start, end)| *end - *start >= bytes);
        let smallest = fitting.min_by_key(|(start, end)| (*end - *start, **start));
        let range = match smallest.map(|(&start, &end)| start..end) {
            Some(stretch) => {
                self.free.remove(&stretch.start);
                let rest = stretch.start + bytes..stretch.end;
                if !rest.is_empty() {
                    self.free.insert(rest.start, rest.end);
                }
                stretch.start..stretch.start + bytes
            }
            None => {
                let start = match self.free.last_key_value() {
                    Some((&start, &end)) if end == self.end => {
                        self.free.remove(&start);
                        start
                    }
                    _ => self.end,
                };
                self.end = start.saturating_add(bytes);
                start..self.end
            }
        };
        let free_from = life.1.saturating_add(1 + REST);
        self.resting
            .entry(free_from)
            .or_default()
            .push(range.clone());
        range
    }

    fn release(&mut self, range: Range<usize>) {
        let Range { mut start, mut end } = range;
        if start == end {
            return;
        }
        if let Some((&before, &its_end)) = self.free.range(..start).next_back()
            && its_end == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(its_end) = self.free.remove(&end) {
            end = its_end;
        }
        self.free.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superstep::{Actions, Superstep};

    #[test]
    fn a_superstep_takes_no_array_that_has_bytes_of_another() {
        let step = |start, end, number| Actions {
            arrays: vec![Array { start, end, number }],
            ..Actions::default()
        };
        let mut superstep = Superstep::default();
        superstep.add(step(0, 64, 1));
        assert!(superstep.takes(&step(0, 64, 1)));
        assert!(superstep.takes(&step(64, 128, 2)));
        assert!(!superstep.takes(&step(32, 96, 3)));
        assert!(!superstep.takes(&step(0, 64, 3)));
    }

    #[test]
    fn what_lives_at_the_same_time_shares_no_byte_and_memory_is_used_again() {
        let mut memory = Memory::from(64);
        let mut given: Vec<(Range<usize>, Life)> = Vec::new();
        let (mut random, mut total) = (1u32, 0);
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for first in 0..2000 {
            let life = (first, first + next(30));
            let bytes = 64 + 64 * next(50) as usize;
            let range = memory.take(bytes, life);
            assert_eq!(range.len(), bytes);
            assert!(64 <= range.start && range.end <= memory.end);
            let rests = |(_, other): &&(Range<usize>, Life)| other.1 + REST >= first;
            for (other, _) in given.iter().filter(rests) {
                assert!(range.end <= other.start || other.end <= range.start);
            }
            given.push((range, life));
            total += bytes;
        }
        // About 32 of the 2,000 are in use at a time.
        assert!(memory.end < total / 30, "{} of {total}", memory.end);
    }
}
