//! Vertex groups: operands on the group's grid, codelet contracts on every tile, and no two vertices of a tile in each other's way.

use std::ops::Range;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::contract::{self, Dimension, OperandBlock};
use super::error::{ProgramError, ProgramErrorKind, ProgramPlace};
use crate::ids::{ProcId, TileId};
use crate::program::{Codelet, ComputeSet, Cut, Grid, Operand, Program, Step, VertexGroup};
use crate::types::TensorType;

pub(super) fn check(program: &Program) -> Vec<ProgramError> {
    let mut vertices = Vertices {
        program,
        contracts: FxHashMap::default(),
        errors: Vec::new(),
    };
    for id in (0..program.procedures.len() as u32).map(ProcId) {
        for (index, step) in program.procedure(id).steps.iter().enumerate() {
            if let Step::Compute(set) = step {
                let place = || ProgramPlace::step(program, id, index);
                for group in &set.groups {
                    vertices.group(group, &place);
                }
                vertices.conflicts(set, &place);
            }
        }
    }
    vertices.errors
}

/// Everything that decides whether a group keeps its contract: identical layers are checked once.
#[derive(PartialEq, Eq, Hash)]
struct GroupKey<'p> {
    codelet: &'p Codelet,
    extents: SmallVec<[u32; 4]>,
    operands: SmallVec<[(&'p TensorType, &'p [Cut], bool); 6]>,
}

struct Vertices<'p> {
    program: &'p Program,
    /// Point and message of the first broken contract, by group.
    contracts: FxHashMap<GroupKey<'p>, Option<(usize, String)>>,
    errors: Vec<ProgramError>,
}

impl<'p> Vertices<'p> {
    fn fail(&mut self, place: &impl Fn() -> ProgramPlace, kind: ProgramErrorKind) {
        let place = place();
        self.errors.push(ProgramError { place, kind });
    }

    fn group(&mut self, group: &'p VertexGroup, place: &impl Fn() -> ProgramPlace) {
        let program = self.program;
        let mut is_sound = true;
        for operand in group.inputs.iter().chain(&group.outputs) {
            let variable = program.variable(operand.variable);
            if variable.grid != group.grid {
                is_sound = false;
                let kind = ProgramErrorKind::OperandGrid {
                    variable: variable.name.clone(),
                    given: variable.grid,
                    expected: group.grid,
                };
                self.fail(place, kind);
            }
            if let Some(entry) = operand.entry {
                let leading = variable.ty.shape.dims().first().zip(variable.cuts.first());
                let fits =
                    |(&size, cut): (&usize, &Cut)| (entry as usize) < size && cut.axes.is_empty();
                if !leading.is_some_and(fits) {
                    is_sound = false;
                    let variable = variable.name.clone();
                    self.fail(place, ProgramErrorKind::OperandEntry { variable, entry });
                }
            }
        }
        if is_sound {
            self.contract(group, place);
        }
    }

    fn contract(&mut self, group: &'p VertexGroup, place: &impl Fn() -> ProgramPlace) {
        let program = self.program;
        let grid = program.grid(group.grid);
        let operands = group.inputs.iter().chain(&group.outputs).map(|o| {
            let v = program.variable(o.variable);
            (&v.ty, v.cuts.as_slice(), o.entry.is_some())
        });
        let key = GroupKey {
            codelet: &group.codelet,
            extents: grid.axes.iter().map(|a| a.extent).collect(),
            operands: operands.collect(),
        };
        let broken = match self.contracts.get(&key) {
            Some(known) => known.clone(),
            None => {
                let broken = first_broken_contract(program, group);
                self.contracts.insert(key, broken.clone());
                broken
            }
        };
        if let Some((point, what)) = broken {
            let kind = ProgramErrorKind::Contract {
                codelet: group.codelet.name(),
                tile: tile_of(grid, point),
                what,
            };
            self.fail(place, kind);
        }
    }

    /// Nobody else on the tile reads or writes what a vertex writes.
    fn conflicts(&mut self, set: &ComputeSet, place: &impl Fn() -> ProgramPlace) {
        let name = |o: &Operand| self.program.variable(o.variable).name.clone();
        let mut kinds = Vec::new();
        let mut written: Vec<(usize, &Operand)> = Vec::new();
        for (g, group) in set.groups.iter().enumerate() {
            for output in &group.outputs {
                if written.iter().any(|(_, o)| share(o, output)) {
                    let variable = name(output);
                    kinds.push(ProgramErrorKind::WrittenTwice { variable });
                }
                written.push((g, output));
            }
        }
        for (g, group) in set.groups.iter().enumerate() {
            for input in &group.inputs {
                for (by, output) in written.iter().filter(|(_, o)| share(o, input)) {
                    let variable = name(input);
                    if *by != g {
                        kinds.push(ProgramErrorKind::ReadWhileWritten { variable });
                    } else if *output != input || !group.codelet.may_run_in_place() {
                        let codelet = group.codelet.name();
                        kinds.push(ProgramErrorKind::NotInPlace { codelet, variable });
                    }
                }
            }
        }
        for kind in kinds {
            self.fail(place, kind);
        }
    }
}

/// True when two operands have elements in common.
fn share(a: &Operand, b: &Operand) -> bool {
    a.variable == b.variable && (a.entry.is_none() || b.entry.is_none() || a.entry == b.entry)
}

fn tile_of(grid: &Grid, point: usize) -> TileId {
    grid.tile(&grid.point(point))
}

/// One dimension of an operand: its cut and the ranges of its parts.
struct CutDimension<'p> {
    cut: &'p Cut,
    size: usize,
    parts: Vec<Range<usize>>,
}

fn cut_dimensions<'p>(program: &'p Program, operand: &Operand) -> Vec<CutDimension<'p>> {
    let variable = program.variable(operand.variable);
    let grid = program.grid(variable.grid);
    let dimension = |(cut, &size): (&'p Cut, &usize)| {
        let count = cut.parts(grid);
        CutDimension {
            cut,
            size,
            parts: (0..count).map(|i| cut.range(size, count, i)).collect(),
        }
    };
    let skipped = usize::from(operand.entry.is_some());
    let dims = variable.cuts.iter().zip(variable.ty.shape.dims());
    dims.skip(skipped).map(dimension).collect()
}

/// The first grid point whose blocks the codelet cannot work on, and why.
fn first_broken_contract(program: &Program, group: &VertexGroup) -> Option<(usize, String)> {
    let grid = program.grid(group.grid);
    let all: Vec<&Operand> = group.inputs.iter().chain(&group.outputs).collect();
    let dims: Vec<Vec<CutDimension<'_>>> = all.iter().map(|o| cut_dimensions(program, o)).collect();
    let mut blocks: Vec<OperandBlock> = all
        .iter()
        .map(|o| OperandBlock {
            dtype: program.variable(o.variable).ty.dtype,
            dims: SmallVec::new(),
        })
        .collect();
    for (i, (point, _)) in grid.iter().enumerate() {
        for (block, dims) in blocks.iter_mut().zip(&dims) {
            block.dims.clear();
            block.dims.extend(dims.iter().map(|d| {
                let part = &d.parts[d.cut.part_at(grid, &point)];
                Dimension {
                    size: d.size,
                    start: part.start,
                    len: part.len(),
                }
            }));
        }
        let (inputs, outputs) = blocks.split_at(group.inputs.len());
        if let Err(what) = contract::check(&group.codelet, inputs, outputs) {
            return Some((i, what));
        }
    }
    None
}
