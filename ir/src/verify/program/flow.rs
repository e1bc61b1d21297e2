//! Values in time: the program walked in order, with what has been written of every variable.
//!
//! - A read needs all of what it reads to be written by an earlier step. State is there from the start; host input comes with its
//!   transfer. Of a loop the first round decides: what it finds written, later rounds find too.
//! - Every use lies in the live range. What a loop body reads before it has written it comes from before the loop or from the last
//!   round, so it must be alive through the whole loop: another variable in its bytes would destroy it for the next round.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::error::{ProgramError, ProgramErrorKind, ProgramPlace};
use super::exchanges::{read_region, written_region};
use super::region::{Coverage, Region};
use crate::ids::{ProcId, VarId};
use crate::program::{Direction, Move, Operand, Program, Step, View};
use crate::types::Shape;

/// Largest tensor whose views are followed element by element when boxes cannot tell what is read.
const FOLLOWED_ELEMENTS_MAX: usize = 1 << 22;

pub(super) fn check(program: &Program) -> Vec<ProgramError> {
    let mut flow = Flow {
        program,
        next: 0,
        here: (program.entry, 0),
        written: vec![Coverage::default(); program.variables.len()],
        loops: Vec::new(),
        reported: vec![false; program.variables.len()],
        errors: Vec::new(),
    };
    for state in &program.states {
        let shape = &program.variable(state.variable).ty.shape;
        flow.written[state.variable.index()].add(Region::whole(shape));
    }
    flow.procedure(program.entry);
    flow.errors
}

/// A loop that the walk is in.
struct Loop {
    /// Number of the first step of its body.
    first: u32,
    /// What the body has written so far.
    written: FxHashMap<VarId, Coverage>,
    /// What it read before it wrote it, with the step that reads first.
    carried: BTreeMap<VarId, (ProcId, usize)>,
}

struct Flow<'p> {
    program: &'p Program,
    /// Number of the next step.
    next: u32,
    /// The current step: procedure and index.
    here: (ProcId, usize),
    written: Vec<Coverage>,
    loops: Vec<Loop>,
    /// Variables with an error: one is enough.
    reported: Vec<bool>,
    errors: Vec<ProgramError>,
}

impl Flow<'_> {
    /// Number of the current step.
    fn number(&self) -> u32 {
        self.next - 1
    }

    fn fail_at(&mut self, step: (ProcId, usize), kind: ProgramErrorKind) {
        let place = ProgramPlace::step(self.program, step.0, step.1);
        self.errors.push(ProgramError { place, kind });
    }

    /// Reports a variable once.
    fn fail(&mut self, variable: VarId, kind: ProgramErrorKind) {
        if !std::mem::replace(&mut self.reported[variable.index()], true) {
            self.fail_at(self.here, kind);
        }
    }

    fn procedure(&mut self, id: ProcId) {
        let program = self.program;
        for (index, step) in program.procedure(id).steps.iter().enumerate() {
            self.next += 1;
            self.here = (id, index);
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Compute(set) => {
                for group in &set.groups {
                    group.inputs.iter().for_each(|o| self.read_operand(o));
                    if group.codelet.reads_output() {
                        group.outputs.iter().for_each(|o| self.read_operand(o));
                    }
                }
                for group in &set.groups {
                    group.outputs.iter().for_each(|o| self.write_operand(o));
                }
            }
            Step::Exchange(exchange) => {
                // Moves without a meaning are reported elsewhere.
                let moves = exchange.moves.iter();
                let sound: Vec<(&Move, Region)> = moves
                    .filter_map(|m| Some((m, written_region(self.program, m).ok()?)))
                    .collect();
                sound.iter().for_each(|(m, _)| self.read_views(m));
                for (mv, region) in sound {
                    self.write(mv.destination, region);
                }
            }
            Step::Host { stream, .. } => {
                let stream = &self.program.streams[*stream as usize];
                let whole = Operand::whole(stream.variable);
                match stream.direction {
                    Direction::HostToDevice => self.write_operand(&whole),
                    Direction::DeviceToHost => self.read_operand(&whole),
                }
            }
            Step::Repeat { count, body } if *count > 1 => self.repeat(*body),
            Step::Repeat { body, .. } | Step::Call(body) => self.procedure(*body),
            Step::Sync(_) => {}
        }
    }

    fn repeat(&mut self, body: ProcId) {
        self.loops.push(Loop {
            first: self.next,
            written: FxHashMap::default(),
            carried: BTreeMap::new(),
        });
        self.procedure(body);
        let Some(done) = self.loops.pop() else {
            return;
        };
        let (loop_first, loop_last) = (done.first, self.next.saturating_sub(1));
        for (id, step) in done.carried {
            let variable = self.program.variable(id);
            let Some((first, last)) = variable.live else {
                continue;
            };
            if (first > loop_first || last < loop_last) && !self.reported[id.index()] {
                self.reported[id.index()] = true;
                let kind = ProgramErrorKind::NotLiveInLoop {
                    variable: variable.name.clone(),
                    loop_first,
                    loop_last,
                    first,
                    last,
                };
                self.fail_at(step, kind);
            }
        }
    }

    fn operand_region(&self, operand: &Operand) -> Region {
        let shape = &self.program.variable(operand.variable).ty.shape;
        match operand.entry {
            None => Region::whole(shape),
            Some(entry) => Region::entry(shape, entry),
        }
    }

    fn read_operand(&mut self, operand: &Operand) {
        let region = self.operand_region(operand);
        self.read(operand.variable, |coverage| coverage.covers(&region));
    }

    fn write_operand(&mut self, operand: &Operand) {
        let region = self.operand_region(operand);
        self.write(operand.variable, region);
    }

    fn read_views(&mut self, mv: &Move) {
        let shape = &self.program.variable(mv.source).ty.shape;
        let read = read_region(shape, &mv.views);
        self.read(mv.source, |coverage| {
            coverage.covers(&read.region)
                || (!read.is_exact && covers_elements(coverage, shape, &mv.views))
        });
    }

    /// A read of what `is_covered` asks for.
    fn read(&mut self, id: VarId, is_covered: impl Fn(&Coverage) -> bool) {
        self.used(id);
        if !is_covered(&self.written[id.index()]) {
            let kind = ProgramErrorKind::ReadBeforeWrite {
                variable: self.program.variable(id).name.clone(),
                step: self.number(),
            };
            self.fail(id, kind);
        }
        for l in &mut self.loops {
            if !l.written.get(&id).is_some_and(&is_covered) {
                l.carried.entry(id).or_insert(self.here);
            }
        }
    }

    fn write(&mut self, id: VarId, region: Region) {
        self.used(id);
        for l in &mut self.loops {
            l.written.entry(id).or_default().add(region.clone());
        }
        self.written[id.index()].add(region);
    }

    fn used(&mut self, id: VarId) {
        let (variable, step) = (self.program.variable(id), self.number());
        if let Some((first, last)) = variable.live
            && !(first..=last).contains(&step)
        {
            let kind = ProgramErrorKind::NotLive {
                variable: variable.name.clone(),
                step,
                first,
                last,
            };
            self.fail(id, kind);
        }
    }
}

/// Whether every element that the views look at is covered: follows them one by one.
fn covers_elements(coverage: &Coverage, shape: &Shape, views: &[View]) -> bool {
    let elements = shape.elements();
    if elements > FOLLOWED_ELEMENTS_MAX {
        return false;
    }
    let mut shape = shape.clone();
    let whole = shape.clone();
    let mut viewed: Vec<usize> = (0..elements).collect();
    for view in views {
        let Some(to) = view.apply(&shape) else {
            return false;
        };
        viewed = follow(view, &viewed, &shape, &to);
        shape = to;
    }
    let strides = whole.strides();
    let mut elements = viewed.into_iter();
    elements.all(|e| {
        let index: Vec<usize> = (0..whole.rank())
            .map(|d| e / strides[d] % whole[d])
            .collect();
        let one = Shape::new(&vec![1; whole.rank()]);
        coverage.covers(&Region::at(&index, &one))
    })
}

/// The elements of a tensor of shape `from` in the order of a view of it, which has shape `to`.
fn follow(view: &View, elements: &[usize], from: &Shape, to: &Shape) -> Vec<usize> {
    let (from_strides, to_strides) = (from.strides(), to.strides());
    // Offset of the first element, and how far one step along each axis of the view goes.
    let (first, steps): (usize, Vec<usize>) = match view {
        View::Reshape(_) => return elements.to_vec(),
        View::Transpose(perm) => (0, perm.iter().map(|&p| from_strides[p]).collect()),
        View::Slice { axis, start, .. } => (start * from_strides[*axis], from_strides.to_vec()),
    };
    let at = |i: usize| {
        let offset: usize = (0..to.rank())
            .map(|d| i / to_strides[d] % to[d] * steps[d])
            .sum();
        elements[first + offset]
    };
    (0..to.elements()).map(at).collect()
}
