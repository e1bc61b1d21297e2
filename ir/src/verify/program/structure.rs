//! Ids name things that exist, calls end, grids and layouts are sound, names differ.

use std::collections::BTreeSet;

use fixedbitset::FixedBitSet;

use super::error::{ProgramError, ProgramErrorKind, ProgramPlace};
use crate::ids::{GridId, IpuId, OriginId, ProcId, VarId};
use crate::program::{Grid, Program, Step, Sync, Variable, VertexGroup};
use crate::types::{DType, Shape, TensorType};

/// Most steps that a walk of a program may visit.
const STEPS_MAX: u64 = 1 << 22;
/// Most elements of a tensor: keeps every product of extents far from overflow.
const ELEMENTS_MAX: usize = 1 << 40;

pub(super) fn check(program: &Program) -> Vec<ProgramError> {
    let mut c = Structure {
        program,
        errors: Vec::new(),
    };
    for (i, grid) in program.grids.iter().enumerate() {
        c.grid(GridId(i as u32), grid);
    }
    for (i, variable) in program.variables.iter().enumerate() {
        c.variable(VarId(i as u32), variable);
    }
    c.states_and_streams();
    for id in (0..program.procedures.len() as u32).map(ProcId) {
        for index in 0..program.procedure(id).steps.len() {
            c.step(id, index);
        }
    }
    c.count(
        &ProgramPlace::Program,
        "entry procedure",
        program.entry.0,
        program.procedures.len(),
    );
    for part in &program.parts {
        c.count(
            &ProgramPlace::Program,
            "part",
            part.0,
            program.procedures.len(),
        );
    }
    if c.errors.is_empty()
        && let Err(error) = calls(program)
    {
        c.errors.push(*error);
    }
    if c.errors.is_empty() {
        c.parts();
    }
    c.errors
}

/// Extents without a 0 whose product is no danger.
pub(super) fn is_sound_shape(shape: &Shape) -> bool {
    let mut dims = shape.dims().iter();
    let elements = dims.try_fold(1usize, |n, &d| n.checked_mul(d));
    elements.is_some_and(|n| n > 0 && n <= ELEMENTS_MAX)
}

/// The number of steps that [`Program::walk`] visits.
///
/// # Errors
/// A procedure calls itself, or one that does not exist, or the walk is far too long.
pub(crate) fn calls(program: &Program) -> Result<u64, Box<ProgramError>> {
    let mut calls = Calls {
        program,
        lengths: vec![Length::Unknown; program.procedures.len()],
    };
    calls.length(program.entry, 0)
}

#[derive(Clone, Copy)]
enum Length {
    Unknown,
    /// Being counted: whoever meets it has found a cycle.
    Open,
    Known(u64),
}

struct Calls<'p> {
    program: &'p Program,
    lengths: Vec<Length>,
}

impl Calls<'_> {
    fn fail<T>(&self, id: ProcId, kind: ProgramErrorKind) -> Result<T, Box<ProgramError>> {
        let name = self.program.procedures.get(id.index());
        let name = name.map_or("?".into(), |p| p.name.clone());
        let place = ProgramPlace::Procedure(id, name);
        Err(Box::new(ProgramError { place, kind }))
    }

    fn length(&mut self, id: ProcId, depth: usize) -> Result<u64, Box<ProgramError>> {
        // Calls nested deeper than this are no program of ours, and the walk recurses as deep.
        const DEPTH_MAX: usize = 256;
        match self.lengths.get(id.index()) {
            None => {
                let kind = ProgramErrorKind::IdOutOfRange {
                    what: "procedure",
                    index: id.0,
                    count: self.lengths.len(),
                };
                return self.fail(id, kind);
            }
            Some(Length::Known(n)) => return Ok(*n),
            Some(Length::Open) => return self.fail(id, ProgramErrorKind::CallCycle),
            Some(Length::Unknown) if depth > DEPTH_MAX => {
                return self.fail(id, ProgramErrorKind::TooManySteps(STEPS_MAX));
            }
            Some(Length::Unknown) => {}
        }
        self.lengths[id.index()] = Length::Open;
        let mut length = 0u64;
        for step in &self.program.procedure(id).steps {
            length += 1;
            for (body, _) in step.bodies() {
                length += self.length(body, depth + 1)?;
            }
            if length > STEPS_MAX {
                return self.fail(id, ProgramErrorKind::TooManySteps(STEPS_MAX));
            }
        }
        self.lengths[id.index()] = Length::Known(length);
        Ok(length)
    }
}

struct Structure<'p> {
    program: &'p Program,
    errors: Vec<ProgramError>,
}

impl Structure<'_> {
    fn fail(&mut self, place: &ProgramPlace, kind: ProgramErrorKind) {
        let place = place.clone();
        self.errors.push(ProgramError { place, kind });
    }

    fn count(&mut self, place: &ProgramPlace, what: &'static str, index: u32, count: usize) {
        if index as usize >= count {
            let kind = ProgramErrorKind::IdOutOfRange { what, index, count };
            self.fail(place, kind);
        }
    }

    /// Parts run in the entry too: the numbers of their steps, and so live ranges, come from there.
    fn parts(&mut self) {
        let ranges = self.program.step_ranges();
        for &part in &self.program.parts {
            if ranges[part.index()].is_none() {
                let name = self.program.procedure(part).name.clone();
                let kind = ProgramErrorKind::PartNotReached(name);
                self.fail(&ProgramPlace::Program, kind);
            }
        }
    }

    fn ipu(&mut self, place: &ProgramPlace, ipu: IpuId) {
        self.count(place, "IPU", ipu.0, self.program.ipus as usize);
    }

    fn variable_id(&mut self, place: &ProgramPlace, id: VarId) {
        self.count(place, "variable", id.0, self.program.variables.len());
    }

    fn origin(&mut self, place: &ProgramPlace, id: OriginId) {
        self.count(place, "origin", id.0, self.program.origins.len());
    }

    fn grid(&mut self, id: GridId, grid: &Grid) {
        let place = ProgramPlace::Grid(id, grid.name.clone());
        self.ipu(&place, grid.ipu);
        let tiles = self.program.machine.tiles_per_ipu;
        if grid.tiles != tiles || tiles == 0 {
            let given = grid.tiles;
            return self.fail(&place, ProgramErrorKind::GridTiles { given, tiles });
        }
        if let Some(axis) = grid.axes.iter().find(|a| a.extent == 0) {
            return self.fail(&place, ProgramErrorKind::EmptyAxis(axis.name.clone()));
        }
        let mut extents = grid.axes.iter().map(|a| a.extent as usize);
        let points = extents.try_fold(1usize, |n, e| n.checked_mul(e));
        if points.is_none_or(|p| p > tiles as usize) || grid.axes.len() > usize::from(u8::MAX) {
            return self.fail(&place, ProgramErrorKind::TooManyPoints { tiles });
        }
        let mut seen = FixedBitSet::with_capacity(tiles as usize);
        let shared = grid.tile_ids().find(|tile| seen.put(tile.index()));
        if let Some(tile) = shared {
            self.fail(&place, ProgramErrorKind::SharedTile(tile));
        }
    }

    fn variable(&mut self, id: VarId, variable: &Variable) {
        let place = ProgramPlace::Variable(id, variable.name.clone());
        let rank = variable.ty.shape.rank();
        if variable.cuts.len() != rank {
            let cuts = variable.cuts.len();
            self.fail(&place, ProgramErrorKind::CutCount { cuts, rank });
        }
        if !is_sound_shape(&variable.ty.shape) {
            self.fail(&place, ProgramErrorKind::TensorSize);
        }
        let grids = &self.program.grids;
        let Some(grid) = grids.get(variable.grid.index()) else {
            return self.count(&place, "grid", variable.grid.0, grids.len());
        };
        let axes = grid.axes.len();
        let mut used = BTreeSet::new();
        for (dimension, cut) in variable.cuts.iter().enumerate() {
            if cut.grain == 0 {
                self.fail(&place, ProgramErrorKind::ZeroGrain { dimension });
            }
            for &axis in &cut.axes {
                if usize::from(axis) >= axes {
                    let kind = ProgramErrorKind::CutAxis {
                        dimension,
                        axis,
                        axes,
                    };
                    self.fail(&place, kind);
                } else if !used.insert(axis) {
                    self.fail(&place, ProgramErrorKind::AxisCutsTwice { axis });
                }
            }
        }
    }

    fn states_and_streams(&mut self) {
        let mut names = BTreeSet::new();
        let mut variables = BTreeSet::new();
        for state in &self.program.states {
            let place = ProgramPlace::State(state.name.clone());
            self.variable_id(&place, state.variable);
            if !names.insert(&state.name) {
                self.fail(&place, ProgramErrorKind::Repeated { what: "state" });
            }
            if !variables.insert(state.variable) {
                self.fail(&place, ProgramErrorKind::SharedState);
            }
        }
        for stream in &self.program.streams {
            let place = ProgramPlace::Stream(stream.name.clone());
            self.variable_id(&place, stream.variable);
        }
        for origin in &self.program.origins {
            self.ipu(&ProgramPlace::Program, origin.ipu);
        }
    }

    fn step(&mut self, procedure: ProcId, index: usize) {
        let program = self.program;
        let place = ProgramPlace::step(program, procedure, index);
        let procedures = program.procedures.len();
        match &program.procedure(procedure).steps[index] {
            Step::Compute(set) => {
                self.origin(&place, set.origin);
                for group in &set.groups {
                    self.group(&place, group);
                }
            }
            Step::Exchange(exchange) => {
                self.origin(&place, exchange.origin);
                for mv in &exchange.moves {
                    self.variable_id(&place, mv.source);
                    self.variable_id(&place, mv.destination);
                }
            }
            Step::Sync(Sync::Ipu(ipu)) => self.ipu(&place, *ipu),
            Step::Sync(Sync::Group { first, count }) => {
                self.ipu(&place, *first);
                self.ipu(
                    &place,
                    IpuId(first.0.saturating_add(count.saturating_sub(1))),
                );
            }
            Step::Sync(Sync::Replica) => {}
            Step::Host { stream, origin } => {
                self.count(&place, "stream", *stream, program.streams.len());
                self.origin(&place, *origin);
            }
            Step::Remote { state, origin, .. } => {
                self.count(&place, "state", *state, program.states.len());
                self.origin(&place, *origin);
                if let Some(state) = program.states.get(*state as usize).filter(|s| !s.remote) {
                    let kind = ProgramErrorKind::NotRemote {
                        state: state.name.clone(),
                    };
                    self.fail(&place, kind);
                }
            }
            Step::SetSeed { seed, origin } => {
                self.origin(&place, *origin);
                self.variable_id(&place, *seed);
                self.seed(&place, *seed);
            }
            Step::Collective(c) => {
                self.origin(&place, c.origin);
                self.variable_id(&place, c.source);
                self.variable_id(&place, c.destination);
                if !program.collective_fits(c) {
                    let name = |v: VarId| {
                        let variable = program.variables.get(v.index());
                        variable.map_or("?".into(), |v| v.name.clone())
                    };
                    let kind = ProgramErrorKind::Collective {
                        kind: c.kind.name(),
                        source_name: name(c.source),
                        destination: name(c.destination),
                        replicas: program.replicas,
                    };
                    self.fail(&place, kind);
                }
            }
            Step::Repeat { count, body } => {
                self.count(&place, "procedure", body.0, procedures);
                if *count == 0 {
                    self.fail(&place, ProgramErrorKind::RepeatsNothing);
                }
            }
            Step::Call(body) => self.count(&place, "procedure", body.0, procedures),
            Step::Parallel(bodies) => {
                for body in bodies {
                    self.count(&place, "procedure", body.0, procedures);
                }
            }
        }
    }

    /// A seed is whole on each of its tiles.
    fn seed(&mut self, place: &ProgramPlace, id: VarId) {
        let Some(variable) = self.program.variables.get(id.index()) else {
            return;
        };
        let is_whole = variable.cuts.iter().all(|cut| cut.axes.is_empty());
        if variable.ty != TensorType::new(DType::U32, [2]) || !is_whole {
            let variable = variable.name.clone();
            self.fail(place, ProgramErrorKind::Seed { variable });
        }
    }

    fn group(&mut self, place: &ProgramPlace, group: &VertexGroup) {
        self.count(place, "grid", group.grid.0, self.program.grids.len());
        for operand in group.inputs.iter().chain(&group.outputs) {
            self.variable_id(place, operand.variable);
        }
    }
}
