//! From symbolic moves to region copies: the source layout intersected with the destination layout.
//!
//! For each destination block: the part of the view that it needs is cut into boxes of the view's digits ([`affine`]), and each box is
//! cut where it crosses from one source block into the next. A box then has one source tile and constant strides on both sides.

mod affine;

use smallvec::SmallVec;

use crate::ids::IpuId;
use crate::program::{Block, Grid, Move, Program, Variable};
use crate::types::Shape;
use affine::{AffineMap, Atom, Part, digit_boxes};

/// A strided region that goes from one tile to one or many (a multicast); offsets are relative to the variables' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionCopy {
    pub source_tile: u32,
    /// Byte offset in the source variable's block.
    pub source_offset: u32,
    /// Tiles that receive the same bytes at the same offset. Either just the source tile itself (a copy inside the tile), or other tiles.
    pub destination_tiles: SmallVec<[u32; 2]>,
    /// Byte offset in the destination variable's block.
    pub destination_offset: u32,
    /// Outer loops around the contiguous run, outermost first.
    pub loops: SmallVec<[Loop; 3]>,
    /// Contiguous bytes of the innermost run.
    pub run_bytes: u32,
}

/// One loop of a strided region; strides in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    pub extent: u32,
    pub source_stride: u32,
    pub destination_stride: u32,
}

/// All copies of one move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    pub source_ipu: IpuId,
    pub destination_ipu: IpuId,
    pub copies: Vec<RegionCopy>,
}

impl RegionCopy {
    /// Bytes that each destination receives.
    pub fn bytes(&self) -> u64 {
        self.loops
            .iter()
            .map(|l| u64::from(l.extent))
            .product::<u64>()
            * u64::from(self.run_bytes)
    }
}

/// Why a move has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    #[error("view {index} does not apply to shape {shape}")]
    View { index: usize, shape: Shape },
    #[error("a view joins or cuts dimensions in a way that is not affine (view {index})")]
    NotAffine { index: usize },
    #[error("{written} written at {at:?} is outside {destination}")]
    Outside {
        written: Shape,
        at: Vec<usize>,
        destination: Shape,
    },
    #[error("element types differ")]
    Type,
}

/// True when the views over a tensor of `shape` are strides and offsets, which is what a move can do in one go.
pub fn views_are_affine(shape: &Shape, views: &[crate::program::View]) -> bool {
    AffineMap::of(shape, views).is_ok()
}

/// Expands one move of `program` into region copies, in a canonical order.
pub fn expand(program: &Program, mv: &Move) -> Result<Expanded, ExchangeError> {
    let mut copies = Vec::new();
    visit_copies(program, mv, &mut |copy| copies.push(copy))?;
    Ok(Expanded {
        source_ipu: program.grid_of(mv.source).ipu,
        destination_ipu: program.grid_of(mv.destination).ipu,
        copies,
    })
}

/// Visits the region copies of one move of `program`, in a canonical order, without keeping them; nothing is visited when it has no meaning.
pub fn visit_copies(
    program: &Program,
    mv: &Move,
    visit: &mut dyn FnMut(RegionCopy),
) -> Result<(), ExchangeError> {
    let (source, destination) = (
        program.variable(mv.source),
        program.variable(mv.destination),
    );
    if source.ty.dtype != destination.ty.dtype {
        return Err(ExchangeError::Type);
    }
    let map = AffineMap::of(&source.ty.shape, &mv.views)?;
    let into = &destination.ty.shape;
    let fits = map.shape.rank() == into.rank()
        && mv.at.len() == into.rank()
        && (0..into.rank()).all(|d| {
            mv.at[d]
                .checked_add(map.shape[d])
                .is_some_and(|end| end <= into[d])
        });
    if !fits {
        return Err(ExchangeError::Outside {
            written: map.shape,
            at: mv.at.to_vec(),
            destination: into.clone(),
        });
    }
    let (source_grid, destination_grid) =
        (program.grid_of(mv.source), program.grid_of(mv.destination));
    let mut expansion = Expansion {
        source: Blocks::of(source, source_grid),
        same_ipu: source_grid.ipu == destination_grid.ipu,
        element: source.ty.dtype.bytes(),
        at: &mv.at,
        map: &map,
        visit,
    };
    for held in Blocks::of(destination, destination_grid).blocks {
        expansion.fill(&held);
    }
    Ok(())
}

/// One distinct block of a variable and the tiles that hold a copy of it.
struct Held {
    block: Block,
    strides: SmallVec<[usize; 4]>,
    tiles: SmallVec<[u32; 2]>,
}

/// The distinct blocks of a variable, by linear block index (row-major over the parts).
struct Blocks<'a> {
    variable: &'a Variable,
    parts: SmallVec<[usize; 4]>,
    blocks: Vec<Held>,
    /// Which block a tile holds, `u32::MAX` for none.
    on_tile: Vec<u32>,
}

impl Blocks<'_> {
    fn of<'a>(variable: &'a Variable, grid: &Grid) -> Blocks<'a> {
        let parts: SmallVec<[usize; 4]> = variable.cuts.iter().map(|c| c.parts(grid)).collect();
        let mut blocks: Vec<Option<Held>> = Vec::new();
        blocks.resize_with(parts.iter().product(), || None);
        let mut on_tile = vec![u32::MAX; grid.tiles as usize];
        for (point, tile) in grid.iter() {
            let index = variable
                .cuts
                .iter()
                .zip(&parts)
                .fold(0, |i, (c, &p)| i * p + c.part_at(grid, &point));
            on_tile[tile.index()] = index as u32;
            let held = blocks[index].get_or_insert_with(|| {
                let block = variable.block(grid, &point);
                Held {
                    strides: block.shape.strides(),
                    block,
                    tiles: SmallVec::new(),
                }
            });
            held.tiles.push(tile.0);
        }
        Blocks {
            variable,
            parts,
            blocks: blocks.into_iter().flatten().collect(),
            on_tile,
        }
    }
}

/// A box of digit values, one part an atom, atoms of all dimensions in order.
type DigitBox = SmallVec<[Part; 6]>;

/// Extent, source stride and destination stride of each loop over a digit, in elements.
type DigitLoops = SmallVec<[(usize, usize, usize); 6]>;

struct Expansion<'a> {
    source: Blocks<'a>,
    same_ipu: bool,
    element: usize,
    at: &'a [usize],
    map: &'a AffineMap,
    visit: &'a mut dyn FnMut(RegionCopy),
}

impl Expansion<'_> {
    /// Emits the copies that fill one destination block.
    fn fill(&mut self, held: &Held) {
        let mut boxes: Vec<DigitBox> = vec![SmallVec::new()];
        for (d, digits) in self.map.dims.iter().enumerate() {
            let (start, extent) = (held.block.start[d], held.block.shape[d]);
            let lo = start.max(self.at[d]);
            let hi = (start + extent).min(self.at[d] + self.map.shape[d]);
            if lo >= hi {
                return;
            }
            let choices = digit_boxes(digits, lo - self.at[d], hi - self.at[d]);
            boxes = boxes
                .into_iter()
                .flat_map(|b| {
                    choices.iter().map(move |c| {
                        let mut b = b.clone();
                        b.extend_from_slice(c);
                        b
                    })
                })
                .collect();
        }
        for b in boxes {
            self.split(b, held);
        }
    }

    fn atoms(&self) -> impl Iterator<Item = &Atom> + '_ {
        self.map.dims.iter().flatten()
    }

    /// First source index in dimension `dim` of a box, and how far the box reaches beyond it.
    fn extent_in(&self, b: &DigitBox, dim: usize) -> (usize, usize) {
        let mut first = self.map.offset[dim];
        let mut span = 0;
        for (atom, part) in self.atoms().zip(b) {
            if atom.dim == dim {
                first += part.first * atom.stride;
                span += (part.len - 1) * atom.stride;
            }
        }
        (first, span)
    }

    /// Cuts a box at source block borders until it lies in one block, then emits it.
    fn split(&mut self, b: DigitBox, held: &Held) {
        for dim in 0..self.source.parts.len() {
            let parts = self.source.parts[dim];
            if parts == 1 {
                continue;
            }
            let (cut, size) = (
                &self.source.variable.cuts[dim],
                self.source.variable.ty.shape[dim],
            );
            let (first, span) = self.extent_in(&b, dim);
            let part = cut.part_of(size, parts, first);
            let border = cut.range(size, parts, part).end;
            if first + span < border {
                continue;
            }
            // Cut the most significant digit that still varies: before the first of its values that crosses the border,
            // or after that single value when it crosses by its lower digits.
            let (i, atom) = self
                .atoms()
                .enumerate()
                .filter(|(i, a)| a.dim == dim && b[*i].len > 1)
                .max_by_key(|(_, a)| a.stride)
                .map(|(i, a)| (i, *a))
                .expect("a box that crosses a border varies in a digit");
            let lower = span - (b[i].len - 1) * atom.stride;
            let inside = if first + lower < border {
                (border - 1 - first - lower) / atom.stride + 1
            } else {
                1
            };
            let (mut low, mut high) = (b.clone(), b);
            low[i].len = inside;
            high[i] = Part {
                first: high[i].first + inside,
                len: high[i].len - inside,
            };
            self.split(low, held);
            self.split(high, held);
            return;
        }
        self.emit(&b, held);
    }

    /// First source index of a box in every dimension.
    fn first_of(&self, b: &DigitBox) -> SmallVec<[usize; 4]> {
        let mut first = SmallVec::from_slice(&self.map.offset);
        for (atom, part) in self.atoms().zip(b) {
            first[atom.dim] += part.first * atom.stride;
        }
        first
    }

    fn emit(&mut self, b: &DigitBox, held: &Held) {
        let first = self.first_of(b);
        let mut index = 0;
        for (dim, &parts) in self.source.parts.iter().enumerate() {
            let size = self.source.variable.ty.shape[dim];
            let part = self.source.variable.cuts[dim].part_of(size, parts, first[dim]);
            index = index * parts + part;
        }
        let from = &self.source.blocks[index];
        let source_offset: usize = (0..first.len())
            .map(|d| (first[d] - from.block.start[d]) * from.strides[d])
            .sum();
        let (destination_offset, loops) = self.loops(b, held, from);
        let (loops, run) = normalise(loops, self.element);
        let copy = |source_tile: u32, destination_tiles: SmallVec<[u32; 2]>| RegionCopy {
            source_tile,
            source_offset: (source_offset * self.element) as u32,
            destination_tiles,
            destination_offset: (destination_offset * self.element) as u32,
            loops: loops.clone(),
            run_bytes: run as u32,
        };
        let is_local =
            |tile: u32| self.same_ipu && self.source.on_tile[tile as usize] == index as u32;
        for &tile in held.tiles.iter().filter(|&&tile| is_local(tile)) {
            (self.visit)(copy(tile, SmallVec::from_elem(tile, 1)));
        }
        let mut remote = SmallVec::with_capacity(held.tiles.len());
        remote.extend(held.tiles.iter().copied().filter(|&tile| !is_local(tile)));
        if let Some(&to) = remote.first() {
            // Spread the sending over the tiles that hold a copy.
            let source_tile = from.tiles[to as usize % from.tiles.len()];
            (self.visit)(copy(source_tile, remote));
        }
    }

    /// Destination offset, and a loop for each digit that varies.
    fn loops(&self, b: &DigitBox, held: &Held, from: &Held) -> (usize, DigitLoops) {
        let mut loops = DigitLoops::new();
        let mut offset = 0;
        let mut next = 0;
        for (d, digits) in self.map.dims.iter().enumerate() {
            let mut radix: usize = digits.iter().map(|a| a.extent).product();
            let mut value = 0;
            for atom in digits {
                radix /= atom.extent;
                let Part { first, len } = b[next];
                value += first * radix;
                if len > 1 {
                    let source_stride = atom.stride * from.strides[atom.dim];
                    loops.push((len, source_stride, radix * held.strides[d]));
                }
                next += 1;
            }
            offset += (value + self.at[d] - held.block.start[d]) * held.strides[d];
        }
        (offset, loops)
    }
}

/// Joins loops that step on seamlessly, and takes a contiguous innermost loop as the run. Strides become bytes.
fn normalise(mut loops: DigitLoops, element: usize) -> (SmallVec<[Loop; 3]>, usize) {
    let mut joined = DigitLoops::new();
    loops.sort_by_key(|l| std::cmp::Reverse((l.2, l.1)));
    for l in loops {
        match joined.last_mut() {
            Some(outer) if outer.1 == l.0 * l.1 && outer.2 == l.0 * l.2 => {
                *outer = (outer.0 * l.0, l.1, l.2)
            }
            _ => joined.push(l),
        }
    }
    let mut run = element;
    if let Some(&(extent, 1, 1)) = joined.last() {
        run = extent * element;
        joined.pop();
    }
    let bytes = |stride: usize| (stride * element) as u32;
    let loops = joined
        .into_iter()
        .map(|(extent, s, d)| Loop {
            extent: extent as u32,
            source_stride: bytes(s),
            destination_stride: bytes(d),
        })
        .collect();
    (loops, run)
}

#[cfg(test)]
mod tests;
