//! Values in time: every procedure in order, with what it has written of every variable, and what it needs from its callers.
//!
//! - A read needs all of what it reads to be written by an earlier step. State is there from the start; host input comes with its
//!   transfer. Of a loop the first round decides: what it finds written, later rounds find too.
//! - Every use lies in the live range. What a procedure reads before it has written it comes from its caller, or from an earlier round of a
//!   loop, so it must be alive through all that runs between: another variable in its bytes would destroy it.

use std::collections::BTreeMap;
use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use super::error::{ProgramError, ProgramErrorKind, ProgramPlace};
use super::exchanges::{read_region, written_region};
use super::region::{Coverage, Region};
use crate::ids::{ProcId, VarId};
use crate::program::{Direction, Move, Operand, Program, RemoteDirection, Step, View};
use crate::types::Shape;

/// Largest tensor whose views are followed element by element when boxes cannot tell what is read.
const FOLLOWED_ELEMENTS_MAX: usize = 1 << 22;

pub(super) fn check(program: &Program) -> Vec<ProgramError> {
    let mut flow = Flow {
        program,
        ranges: program.step_ranges(),
        spans: FxHashMap::default(),
        summaries: FxHashMap::default(),
        reported: vec![false; program.variables.len()],
        destroyed: Vec::new(),
        errors: Vec::new(),
    };
    flow.summarise(program.entry);
    // What the host may run by itself finds nothing but state, whatever ran before.
    let alone = std::iter::once(&program.entry).chain(&program.parts);
    let carried: Vec<_> = alone
        .filter_map(|id| flow.summaries.get(id))
        .flat_map(|summary| summary.carried.clone())
        .collect();
    // What rests in streaming memory is on its tiles from a load on.
    let resting = program.states.iter().filter(|s| !s.remote);
    let states: FxHashSet<VarId> = resting.map(|s| s.variable).collect();
    for (id, reads) in carried {
        if let Some(read) = reads.first().filter(|_| !states.contains(&id)) {
            let kind = ProgramErrorKind::ReadBeforeWrite {
                variable: program.variable(id).name.clone(),
                step: read.number,
            };
            flow.fail(id, read.at, kind);
        }
    }
    // What nobody has written is not destroyed either.
    for (id, at, kind) in std::mem::take(&mut flow.destroyed) {
        flow.fail(id, at, kind);
    }
    flow.errors
}

/// What a procedure needs from outside and what it leaves written.
#[derive(Clone, Default)]
struct Summary<'p> {
    /// Reads of what the procedure has not written before, by variable.
    carried: BTreeMap<VarId, Vec<Read<'p>>>,
    written: BTreeMap<VarId, Coverage>,
    /// Number of the step of the procedure itself that first wrote a variable.
    first: BTreeMap<VarId, u32>,
}

/// A read that something outside of the procedure must have made possible.
#[derive(Clone)]
struct Read<'p> {
    region: Region,
    /// Followed element by element when the region is more than what is read.
    views: Option<&'p [View]>,
    /// What the procedure itself had written of the variable.
    own: Coverage,
    at: (ProcId, usize),
    number: u32,
}

/// A procedure on the way to its summary.
struct Frame<'p> {
    procedure: ProcId,
    /// Index of the current step, and its number.
    index: usize,
    number: u32,
    summary: Summary<'p>,
    /// The step that first wrote a variable.
    first_write: FxHashMap<VarId, FirstWrite>,
    /// Indices of the steps so far that run other procedures, and the numbers of all that they run.
    calls: Vec<(usize, Range<u32>)>,
}

/// Where the value of a variable begins in a procedure.
#[derive(Clone, Copy)]
struct FirstWrite {
    index: usize,
    /// Nothing that the step runs comes before this number and after the write.
    number: u32,
}

struct Flow<'p> {
    program: &'p Program,
    ranges: Vec<Option<Range<u32>>>,
    /// From the lowest to the highest number of a step that a procedure runs, wherever it was met first.
    spans: FxHashMap<ProcId, Range<u32>>,
    summaries: FxHashMap<ProcId, Summary<'p>>,
    /// Variables with an error: one is enough.
    reported: Vec<bool>,
    /// Values that do not live until they are read.
    destroyed: Vec<(VarId, (ProcId, usize), ProgramErrorKind)>,
    errors: Vec<ProgramError>,
}

impl<'p> Flow<'p> {
    /// Reports a variable once.
    fn fail(&mut self, variable: VarId, at: (ProcId, usize), kind: ProgramErrorKind) {
        if !std::mem::replace(&mut self.reported[variable.index()], true) {
            let place = ProgramPlace::step(self.program, at.0, at.1);
            self.errors.push(ProgramError { place, kind });
        }
    }

    fn summarise(&mut self, id: ProcId) {
        if self.summaries.contains_key(&id) {
            return;
        }
        let program = self.program;
        let mut frame = Frame {
            procedure: id,
            index: 0,
            number: self.first_number(id),
            summary: Summary::default(),
            first_write: FxHashMap::default(),
            calls: Vec::new(),
        };
        let mut met: FxHashSet<ProcId> = FxHashSet::default();
        for (index, step) in program.procedure(id).steps.iter().enumerate() {
            frame.index = index;
            self.step(&mut frame, step);
            frame.number += 1;
            for (body, _) in step.bodies() {
                // Numbers go on after a procedure where it is met first.
                let range = self.ranges[body.index()].clone().unwrap_or(0..0);
                if range.start == frame.number && met.insert(body) {
                    frame.number = range.end;
                }
            }
        }
        self.summaries.insert(id, frame.summary);
    }

    fn span(&mut self, id: ProcId) -> Range<u32> {
        if let Some(known) = self.spans.get(&id) {
            return known.clone();
        }
        let program = self.program;
        let own = self.ranges[id.index()].clone().unwrap_or(0..0);
        let bodies = program.procedure(id).steps.iter().flat_map(Step::bodies);
        let span = bodies.fold(own, |span, (body, _)| {
            let inner = self.span(body);
            span.start.min(inner.start)..span.end.max(inner.end)
        });
        self.spans.insert(id, span.clone());
        span
    }

    fn first_number(&self, id: ProcId) -> u32 {
        self.ranges[id.index()]
            .as_ref()
            .map_or(0, |range| range.start)
    }

    fn step(&mut self, frame: &mut Frame<'p>, step: &'p Step) {
        match step {
            Step::Compute(set) => {
                for group in &set.groups {
                    group
                        .inputs
                        .iter()
                        .for_each(|o| self.read_operand(frame, o));
                    if group.codelet.reads_output() {
                        group
                            .outputs
                            .iter()
                            .for_each(|o| self.read_operand(frame, o));
                    }
                }
                for group in &set.groups {
                    group
                        .outputs
                        .iter()
                        .for_each(|o| self.write_operand(frame, o));
                }
            }
            Step::Exchange(exchange) => {
                // Moves without a meaning are reported elsewhere.
                let moves = exchange.moves.iter();
                let sound: Vec<(&Move, Region)> = moves
                    .filter_map(|m| Some((m, written_region(self.program, m).ok()?)))
                    .collect();
                sound.iter().for_each(|(m, _)| self.read_views(frame, m));
                for (mv, region) in sound {
                    self.write(frame, mv.destination, region);
                }
            }
            Step::Host { stream, .. } => {
                let stream = &self.program.streams[*stream as usize];
                let whole = Operand::whole(stream.variable);
                match stream.direction {
                    Direction::HostToDevice => self.write_operand(frame, &whole),
                    Direction::DeviceToHost => self.read_operand(frame, &whole),
                }
            }
            Step::Remote {
                state, direction, ..
            } => {
                let whole = Operand::whole(self.program.states[*state as usize].variable);
                match direction {
                    RemoteDirection::Load => self.write_operand(frame, &whole),
                    RemoteDirection::Store => self.read_operand(frame, &whole),
                }
            }
            Step::SetSeed { seed, .. } => self.read_operand(frame, &Operand::whole(*seed)),
            Step::Collective(c) => {
                self.read_operand(frame, &Operand::whole(c.source));
                self.write_operand(frame, &Operand::whole(c.destination));
            }
            Step::Repeat { .. } | Step::Call(_) | Step::Parallel(_) => self.run(frame, step),
            Step::Sync(_) => {}
        }
    }

    /// Runs other procedures. The first round of a loop decides: what it finds written, later rounds find too.
    fn run(&mut self, frame: &mut Frame<'p>, step: &Step) {
        for (body, times) in step.bodies() {
            self.summarise(body);
            let summary = self.summaries[&body].clone();
            let span = self.span(body);
            let is_leaf = self
                .program
                .procedure(body)
                .steps
                .iter()
                .all(|s| s.bodies().next().is_none());
            frame.calls.push((frame.index, span.clone()));
            for (id, reads) in summary.carried {
                for read in reads {
                    if times > 1 {
                        let all = FirstWrite {
                            index: frame.index,
                            number: 0,
                        };
                        self.lives_through(frame, id, all, read.at);
                    } else if is_leaf && let Some(call) = frame.calls.last_mut() {
                        // Nothing comes round again after the read.
                        call.1 = span.start..read.number + 1;
                    }
                    self.carried_read(frame, id, read);
                    if let Some(call) = frame.calls.last_mut() {
                        call.1 = span.clone();
                    }
                }
            }
            for (id, coverage) in summary.written {
                // What runs beside it runs on other IPUs.
                let runs_once = is_leaf && times == 1;
                let number = summary.first.get(&id).filter(|_| runs_once);
                frame.first_write.entry(id).or_insert(FirstWrite {
                    index: frame.index,
                    number: number.copied().unwrap_or(0),
                });
                frame.summary.written.entry(id).or_default().join(coverage);
            }
        }
    }

    /// A read in a procedure that the current step runs.
    fn carried_read(&mut self, frame: &mut Frame<'p>, id: VarId, read: Read<'p>) {
        let mut known = read.own.clone();
        if let Some(written) = frame.summary.written.get(&id) {
            known.join(written.clone());
        }
        if self.is_covered(id, &read, &known) {
            let here = FirstWrite {
                index: frame.index,
                number: 0,
            };
            let from = frame.first_write.get(&id).copied().unwrap_or(here);
            self.lives_through(frame, id, from, read.at);
        } else {
            let carried = frame.summary.carried.entry(id).or_default();
            if !carried.iter().any(|r| r.region == read.region) {
                carried.push(Read { own: known, ..read });
            }
        }
    }

    fn is_covered(&self, id: VarId, read: &Read<'_>, known: &Coverage) -> bool {
        let shape = &self.program.variable(id).ty.shape;
        known.covers(&read.region)
            || read.views.is_some_and(|views| {
                // What nothing of is written need not be followed.
                known.touches(&read.region) && covers_elements(known, shape, views)
            })
    }

    /// A value that is made at step `from` of the frame, or in a procedure that it runs, and is needed at its current step, must be alive in
    /// everything that runs between: another variable in its bytes would destroy it.
    fn lives_through(
        &mut self,
        frame: &Frame<'p>,
        id: VarId,
        from: FirstWrite,
        at: (ProcId, usize),
    ) {
        let variable = self.program.variable(id);
        let Some((first, last)) = variable.live else {
            return;
        };
        let between = frame.calls.iter().filter(|(index, _)| *index >= from.index);
        let after_write = between.map(|(index, range)| match *index == from.index {
            true => range.start.max(from.number)..range.end,
            false => range.clone(),
        });
        let ranges = after_write.filter(|range| !range.is_empty());
        let hull = ranges.fold(None, |hull: Option<(u32, u32)>, r| match hull {
            None => Some((r.start, r.end - 1)),
            Some((a, b)) => Some((a.min(r.start), b.max(r.end - 1))),
        });
        let Some((loop_first, loop_last)) = hull else {
            return;
        };
        if first > loop_first || last < loop_last {
            let kind = ProgramErrorKind::NotLiveInLoop {
                variable: variable.name.clone(),
                loop_first,
                loop_last,
                first,
                last,
            };
            self.destroyed.push((id, at, kind));
        }
    }

    fn operand_region(&self, operand: &Operand) -> Region {
        let shape = &self.program.variable(operand.variable).ty.shape;
        match operand.entry {
            None => Region::whole(shape),
            Some(entry) => Region::entry(shape, entry),
        }
    }

    fn read_operand(&mut self, frame: &mut Frame<'p>, operand: &Operand) {
        let region = self.operand_region(operand);
        self.read(frame, operand.variable, region, None);
    }

    fn write_operand(&mut self, frame: &mut Frame<'p>, operand: &Operand) {
        let region = self.operand_region(operand);
        self.write(frame, operand.variable, region);
    }

    fn read_views(&mut self, frame: &mut Frame<'p>, mv: &'p Move) {
        let shape = &self.program.variable(mv.source).ty.shape;
        let read = read_region(shape, &mv.views);
        let views = (!read.is_exact).then_some(&mv.views[..]);
        self.read(frame, mv.source, read.region, views);
    }

    fn read(
        &mut self,
        frame: &mut Frame<'p>,
        id: VarId,
        region: Region,
        views: Option<&'p [View]>,
    ) {
        self.used(frame, id);
        let read = Read {
            region,
            views,
            own: Coverage::default(),
            at: (frame.procedure, frame.index),
            number: frame.number,
        };
        self.carried_read(frame, id, read);
    }

    fn write(&mut self, frame: &mut Frame<'p>, id: VarId, region: Region) {
        self.used(frame, id);
        let (index, number) = (frame.index, frame.number);
        let first = FirstWrite { index, number };
        frame.first_write.entry(id).or_insert(first);
        frame.summary.first.entry(id).or_insert(number);
        frame.summary.written.entry(id).or_default().add(region);
    }

    fn used(&mut self, frame: &Frame<'p>, id: VarId) {
        let (variable, step) = (self.program.variable(id), frame.number);
        if let Some((first, last)) = variable.live
            && !(first..=last).contains(&step)
        {
            let kind = ProgramErrorKind::NotLive {
                variable: variable.name.clone(),
                step,
                first,
                last,
            };
            self.fail(id, (frame.procedure, frame.index), kind);
        }
    }
}

/// Whether every element that the views look at is covered: follows them one by one.
fn covers_elements(coverage: &Coverage, shape: &Shape, views: &[View]) -> bool {
    let elements = shape.elements();
    // What a procedure reads before it has written any of it needs no following.
    if coverage.is_empty() || elements > FOLLOWED_ELEMENTS_MAX {
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
