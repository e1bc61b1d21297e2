//! Addresses: aligned, inside a tile behind its code, and never two live values in the same bytes of a tile.
//!
//! Two variables may lie in the same bytes when their live ranges (both ends included) do not meet, or when no tile holds both, or when
//! one takes the place of the other. It takes its place at a step `s` when
//!
//! - both have the same address, grid and bytes a tile, and blocks of equally many elements of equal width;
//! - the old one is last live at `s`, the new one first;
//! - step `s` is a compute set in which one group, of a codelet that may run in place, reads the old one whole and writes the new one
//!   whole, and no other group has to do with either.

use fixedbitset::FixedBitSet;

use super::error::{ProgramError, ProgramErrorKind, ProgramPlace};
use crate::ids::{IpuId, TileId, VarId};
use crate::program::{ComputeSet, Operand, Program, Step, Variable};

pub(super) fn check(program: &Program) -> Vec<ProgramError> {
    let mut errors = addresses(program);
    let memory = Memory::of(program);
    for ipu in (0..program.ipus).map(IpuId) {
        memory.overlaps(ipu, &mut errors);
    }
    errors
}

/// What concerns one variable alone.
fn addresses(program: &Program) -> Vec<ProgramError> {
    let mut errors = Vec::new();
    let machine = &program.machine;
    for id in (0..program.variables.len() as u32).map(VarId) {
        let variable = program.variable(id);
        let mut fail = |kind| {
            let place = ProgramPlace::variable(program, id);
            errors.push(ProgramError { place, kind });
        };
        if !variable.address.is_multiple_of(Variable::ALIGNMENT) {
            fail(ProgramErrorKind::Misaligned(variable.address));
        }
        let end = u64::from(variable.address) + variable.tile_bytes(program.grid_of(id)) as u64;
        let ipu = program.grid_of(id).ipu;
        let from = program.variables_from[ipu.index()];
        if variable.address < from || end > u64::from(machine.tile_memory) {
            fail(ProgramErrorKind::OutsideTile {
                start: variable.address,
                end,
                from,
                tile_memory: machine.tile_memory,
            });
        }
        if let Some((first, last)) = variable.live
            && first > last
        {
            fail(ProgramErrorKind::EmptyLiveRange(first, last));
        }
    }
    for state in program.states.iter().filter(|s| !s.remote) {
        if program.variable(state.variable).live.is_some() {
            let place = ProgramPlace::State(state.name.clone());
            let kind = ProgramErrorKind::StateNotAlwaysLive;
            errors.push(ProgramError { place, kind });
        }
    }
    errors
}

/// Most overlaps that are reported of one variable: when addresses are all wrong, everything overlaps everything.
const OVERLAPS_MAX: usize = 4;

/// A variable as a rectangle of bytes and time.
struct Interval {
    id: VarId,
    start: u64,
    end: u64,
    first: u32,
    last: u32,
}

struct Memory<'p> {
    program: &'p Program,
    /// Steps in the order of their numbers.
    steps: Vec<&'p Step>,
    /// Tiles of each grid.
    tiles: Vec<FixedBitSet>,
}

impl<'p> Memory<'p> {
    fn of(program: &'p Program) -> Memory<'p> {
        let mut steps = Vec::new();
        program.walk(&mut |step, _| steps.push(step));
        Memory {
            program,
            steps,
            tiles: program.tile_sets(),
        }
    }

    fn overlaps(&self, ipu: IpuId, errors: &mut Vec<ProgramError>) {
        let program = self.program;
        let mut intervals: Vec<Interval> = (0..program.variables.len() as u32)
            .map(VarId)
            .filter(|&id| program.grid_of(id).ipu == ipu)
            .map(|id| {
                let variable = program.variable(id);
                let (first, last) = variable.live.unwrap_or((0, u32::MAX));
                let start = u64::from(variable.address);
                let end = start + variable.tile_bytes(program.grid_of(id)) as u64;
                Interval {
                    id,
                    start,
                    end,
                    first,
                    last,
                }
            })
            .collect();
        intervals.sort_by_key(|v| (v.start, v.id));
        for (i, a) in intervals.iter().enumerate() {
            let meets = |b: &&Interval| a.first <= b.last && b.first <= a.last;
            let others = intervals[i + 1..].iter();
            let others = others.take_while(|b| b.start < a.end).filter(meets);
            let found = others.filter_map(|b| self.overlap(ipu, a, b));
            errors.extend(found.take(OVERLAPS_MAX));
        }
    }

    /// The error of two variables that share bytes and time, unless they share no tile or one takes the place of the other.
    fn overlap(&self, ipu: IpuId, a: &Interval, b: &Interval) -> Option<ProgramError> {
        let program = self.program;
        let tiles = |v: &Interval| &self.tiles[program.variable(v.id).grid.index()];
        let tile = tiles(a).intersection(tiles(b)).next()?;
        if self.takes_the_place(a, b) || self.takes_the_place(b, a) {
            return None;
        }
        Some(ProgramError {
            place: ProgramPlace::variable(program, a.id),
            kind: ProgramErrorKind::Overlap {
                other: program.variable(b.id).name.clone(),
                ipu,
                tile: TileId(tile as u32),
                start: a.start.max(b.start),
                end: a.end.min(b.end),
                step: a.first.max(b.first),
            },
        })
    }

    fn takes_the_place(&self, old: &Interval, new: &Interval) -> bool {
        let (a, b) = (self.program.variable(old.id), self.program.variable(new.id));
        let grid = self.program.grid(a.grid);
        let same_bytes = a.grid == b.grid
            && (old.start, old.end) == (new.start, new.end)
            && a.ty.dtype.bytes() == b.ty.dtype.bytes()
            && a.largest_block(grid).elements() == b.largest_block(grid).elements();
        if !same_bytes || old.last != new.first || a.live.is_none() || b.live.is_none() {
            return false;
        }
        match self.steps.get(old.last as usize) {
            Some(Step::Compute(set)) => runs_in_place(set, old.id, new.id),
            _ => false,
        }
    }
}

fn runs_in_place(set: &ComputeSet, old: VarId, new: VarId) -> bool {
    let concerns = |o: &Operand| o.variable == old || o.variable == new;
    let mut concerned = set
        .groups
        .iter()
        .filter(|g| g.inputs.iter().chain(&g.outputs).any(concerns));
    let (Some(group), None) = (concerned.next(), concerned.next()) else {
        return false;
    };
    let only = |operands: &[Operand], variable: VarId| {
        let mut concerned = operands.iter().filter(|o| concerns(o)).peekable();
        concerned.peek().is_some() && concerned.all(|&o| o == Operand::whole(variable))
    };
    group.codelet.may_run_in_place() && only(&group.inputs, old) && only(&group.outputs, new)
}
