//! From a program to what the engine runs: every name resolved, every bound checked, nothing left to fail but the host.
//!
//! After [`Loaded::of`] has succeeded: every variable's block lies inside tile memory on every tile of its grid; every vertex has
//! operands that its kernel accepts and that do not run into each other; every copy of every exchange stays inside its blocks, and no
//! exchange reads a byte that it writes; procedures do not call themselves. Work that identical layers share is done once.

mod arena;
mod clusters;
mod disjoint_sets;
mod forwarding;
mod groups;
pub(crate) mod homes;
pub(crate) mod joint;
mod phases;
pub(crate) mod sharing;
mod summing;
pub(crate) mod transpositions;
pub(crate) mod uses;

use std::borrow::Cow;

use superstep_ir::ids::{ProcId, VarId};
use superstep_ir::program::{ComputeSet, Exchange, Move, Program, RemoteDirection, Step};
use superstep_ir::types::DType;

use crate::codelets::Isa;
use crate::collective::LoadedCollective;
use crate::compute::Group;
use crate::error::EngineError;
use crate::exchange::{self, LoadedMove};
use crate::layout::Layouts;
use forwarding::Forwarding;
use homes::{Array, Homes};
use uses::Uses;

use crate::phase::Phase;
use crate::superstep::{Action, Actions, Span, Superstep};

/// Procedures may be nested this deep; a compiler needs four or five levels.
const MAX_DEPTH: u32 = 64;

/// A step with everything it needs at hand.
pub(crate) enum LoadedStep {
    /// Consecutive exchanges, compute sets and syncs.
    Phase(Phase),
    Host {
        stream: usize,
    },
    Remote {
        state: usize,
        direction: RemoteDirection,
    },
    Repeat {
        count: u32,
        body: usize,
    },
    Call(usize),
    Parallel(Vec<usize>),
    Collective(LoadedCollective),
}

/// What loading may do with steps.
#[derive(Clone, Copy)]
pub(crate) struct LoadOptions {
    pub(crate) isa: Isa,
    /// Every step is a superstep of its own.
    pub(crate) stepwise: bool,
}

pub(crate) struct Loaded {
    pub(crate) layouts: Layouts,
    pub(crate) homes: Homes,
    /// By procedure, each step with its number in [`Program::walk`], of a superstep that of its first step.
    pub(crate) procedures: Vec<Vec<(u32, LoadedStep)>>,
}

/// A program as the schedule runs it, and what is known of its variables.
struct Scheduled<'p> {
    program: Cow<'p, Program>,
    layouts: Layouts,
    homes: Homes,
    uses: Uses,
    /// By variable: nothing else lies on its bytes while it is alive.
    alone: Vec<bool>,
    /// By variable: of its copies only the first ones are there.
    shared: Vec<bool>,
}

impl<'p> Scheduled<'p> {
    fn as_it_is(program: &'p Program) -> Result<Scheduled<'p>, EngineError> {
        let none = vec![false; program.variables.len()];
        let layouts = Layouts::of(program)?;
        Ok(Scheduled {
            homes: Homes::tile_by_tile(program, &layouts),
            layouts,
            uses: Uses::of(program),
            program: Cow::Borrowed(program),
            alone: none.clone(),
            shared: none,
        })
    }

    /// With the same steps, of which some need to do less, or nothing.
    fn fast(program: &'p Program, numbers: &[Vec<u32>]) -> Result<Scheduled<'p>, EngineError> {
        let mut program = Cow::Borrowed(program);
        let mut layouts = Layouts::of(&program)?;
        if let Some(less) = transpositions::read_through(&program, &layouts, numbers) {
            layouts = Layouts::of(&less)?;
            program = Cow::Owned(less);
        }
        let uses = Uses::of(&program);
        let alone = sharing::alone(&program, &layouts);
        let mut sums = vec![false; program.variables.len()];
        if let Some((less, found)) = summing::in_place(&program, &layouts, &uses, &alone) {
            layouts = Layouts::of(&less)?;
            program = Cow::Owned(less);
            sums = found;
        }
        let mut shared = sharing::shared(&program, &layouts, &uses);
        shared.iter_mut().zip(sums).for_each(|(s, sum)| *s |= sum);
        let homes = Homes::variable_by_variable(&program, &layouts, &uses);
        Ok(Scheduled {
            program,
            layouts,
            homes,
            uses,
            alone,
            shared,
        })
    }

    fn context(&self, stepwise: bool) -> phases::Context<'_> {
        phases::Context {
            program: &self.program,
            layouts: &self.layouts,
            homes: &self.homes,
            uses: &self.uses,
            alone: &self.alone,
            shared: &self.shared,
            stepwise,
        }
    }
}

impl Loaded {
    pub(crate) fn of(program: &Program, options: LoadOptions) -> Result<Loaded, EngineError> {
        check_names(program)?;
        check_calls(program)?;
        let numbers = numbers(program);
        let scheduled = match options.stepwise {
            true => Scheduled::as_it_is(program)?,
            false => Scheduled::fast(program, &numbers)?,
        };
        let context = scheduled.context(options.stepwise);
        let program = context.program;
        let exchanges = program
            .procedures
            .iter()
            .flat_map(|p| &p.steps)
            .filter_map(as_exchange);
        let exchanges: Vec<&Exchange> = exchanges.collect();
        let mut moves = exchange::load(
            program,
            context.layouts,
            context.homes,
            context.shared,
            &exchanges,
        )?
        .into_iter();
        let mut forwarding = Forwarding::of(context.uses);
        let mut kernels = groups::Kernels::new(options.isa);
        let mut procedures = Vec::with_capacity(program.procedures.len());
        for (procedure, numbers) in program.procedures.iter().zip(&numbers) {
            let mut steps = Steps {
                done: Vec::new(),
                open: None,
                phase: None,
                next: 0,
                forwarding: &mut forwarding,
                context,
            };
            for (step, &number) in procedure.steps.iter().zip(numbers) {
                steps.next = number;
                match step {
                    Step::Compute(set) => {
                        let groups = groups::load(&context, &mut kernels, set, number)?;
                        steps.add(computed(&context, set, groups));
                    }
                    Step::Exchange(exchange) => {
                        let moves = moves.next().unwrap_or_default();
                        steps.add(received(&context, exchange, moves));
                    }
                    Step::Collective(collective) => {
                        let tiles = program.machine.tiles_per_ipu as usize;
                        let number = |ipu: u32, tile: u32| ipu as usize * tiles + tile as usize;
                        let collective = LoadedCollective::of(
                            program,
                            context.layouts,
                            context.homes,
                            number,
                            collective,
                        )?;
                        steps.cut(LoadedStep::Collective(collective));
                    }
                    Step::Sync(_) => steps.add(Actions::default()),
                    Step::Host { stream, .. } => steps.cut(LoadedStep::Host {
                        stream: *stream as usize,
                    }),
                    Step::Remote {
                        state, direction, ..
                    } => steps.cut(LoadedStep::Remote {
                        state: *state as usize,
                        direction: *direction,
                    }),
                    Step::SetSeed { seed, .. } => steps.add(seeded(&context, *seed)?),
                    Step::Repeat { count, body } => {
                        steps.cut(LoadedStep::Repeat {
                            count: *count,
                            body: body.index(),
                        });
                    }
                    Step::Call(procedure) => steps.cut(LoadedStep::Call(procedure.index())),
                    Step::Parallel(procedures) => {
                        let procedures = procedures.iter().map(|p| p.index());
                        steps.cut(LoadedStep::Parallel(procedures.collect()));
                    }
                }
            }
            procedures.push(steps.finish());
        }
        Ok(Loaded {
            layouts: scheduled.layouts,
            homes: scheduled.homes,
            procedures,
        })
    }
}

/// The steps of a procedure while supersteps are cut.
struct Steps<'a> {
    done: Vec<(u32, LoadedStep)>,
    /// With the number of its first step.
    open: Option<(u32, Superstep)>,
    /// With the number of its first step.
    phase: Option<(u32, phases::Open<'a>)>,
    /// Number of the step that is added next.
    next: u32,
    forwarding: &'a mut Forwarding,
    context: phases::Context<'a>,
}

impl Steps<'_> {
    /// Adds a step to the open superstep, or to a new one.
    fn add(&mut self, mut step: Actions) {
        let closed = self.open.as_ref().is_some_and(|open| !open.1.takes(&step));
        if self.context.stepwise || closed {
            self.close();
        }
        let next = self.next;
        let open = self
            .open
            .get_or_insert_with(|| (next, Superstep::default()));
        for action in &mut step.actions {
            if let Action::Compute(group) = action {
                self.forwarding.forward(group, &mut open.1);
            }
        }
        open.1.add(step);
    }

    /// Adds a step that stands alone.
    fn cut(&mut self, step: LoadedStep) {
        self.close_phases();
        self.done.push((self.next, step));
    }

    /// Ends the open superstep, which joins the open phase or opens the next.
    fn close(&mut self) {
        if let Some((number, superstep)) = self.open.take() {
            self.join(number, superstep);
        }
    }

    fn join(&mut self, number: u32, superstep: Superstep) {
        match &mut self.phase {
            None => {
                let open = phases::Open::new(self.context, superstep);
                self.phase = Some((number, open));
            }
            Some((_, phase)) => {
                if !phase.take(superstep) {
                    self.end_phase();
                }
            }
        }
    }

    /// Ends the open phase; what is not of it begins another.
    fn end_phase(&mut self) {
        let Some((mut number, phase)) = self.phase.take() else {
            return;
        };
        let (ahead, phase, back) = phase.close();
        let steps = phase.steps() as u32;
        let phases = ahead.into_iter().chain([phase]);
        self.done
            .extend(phases.map(|phase| (number, LoadedStep::Phase(phase))));
        number += steps;
        for superstep in back {
            let steps = superstep.steps as u32;
            self.join(number, superstep);
            number += steps;
        }
    }

    /// Ends everything that is open.
    fn close_phases(&mut self) {
        self.close();
        while self.phase.is_some() {
            self.end_phase();
        }
    }

    fn finish(mut self) -> Vec<(u32, LoadedStep)> {
        self.close_phases();
        self.done
    }
}

/// The bytes of a variable in the memory of tiles.
fn tile_span(program: &Program, layouts: &Layouts, variable: VarId) -> Span {
    let v = program.variable(variable);
    let start = v.address as usize;
    Span {
        grid: layouts.grids[v.grid.index()].clone(),
        bytes: start..start + layouts.layout(variable).max_block_bytes,
        array: Array::default(),
    }
}

fn computed(context: &phases::Context<'_>, set: &ComputeSet, groups: Vec<Group>) -> Actions {
    let inputs = || set.groups.iter().flat_map(|g| &g.inputs);
    let outputs = || set.groups.iter().flat_map(|g| &g.outputs);
    let is_shared = |v: VarId| context.shared[v.index()];
    let named = inputs().chain(outputs()).map(|o| o.variable);
    Actions {
        actions: groups.into_iter().map(Action::Compute).collect(),
        sent: inputs()
            .filter(|i| is_shared(i.variable))
            .map(|i| context.span(i.variable))
            .collect(),
        written: outputs().map(|o| context.span(o.variable)).collect(),
        arrays: named.map(|v| context.homes.array(v).clone()).collect(),
    }
}

fn seeded(context: &phases::Context<'_>, seed: VarId) -> Result<Actions, EngineError> {
    let (program, layouts) = (context.program, context.layouts);
    let layout = layouts.layout(seed);
    let is_seed = layout.dtype == DType::U32 && layout.blocks.iter().all(|b| b.elements() == 2);
    if !is_seed {
        return Err(EngineError::Variable {
            variable: seed,
            name: program.variable(seed).name.clone(),
            reason: "is no u32[2] on each of its tiles, as a seed is".into(),
        });
    }
    let variable = program.variable(seed);
    let action = Action::SetSeed {
        variable: seed,
        grid: layouts.grids[variable.grid.index()].clone(),
        place: exchange::place(program, context.homes, seed),
    };
    Ok(Actions {
        actions: vec![action],
        arrays: vec![context.homes.array(seed).clone()],
        ..Actions::default()
    })
}

fn received(context: &phases::Context<'_>, exchange: &Exchange, moves: Vec<LoadedMove>) -> Actions {
    let ends = exchange
        .moves
        .iter()
        .flat_map(|m| [m.source, m.destination]);
    let arrays = ends.map(|v| context.homes.array(v).clone()).collect();
    let spans = |end: fn(&Move) -> VarId| exchange.moves.iter().map(move |m| context.span(end(m)));
    Actions {
        actions: moves.into_iter().map(Action::Receive).collect(),
        sent: spans(|m| m.source).collect(),
        written: spans(|m| m.destination).collect(),
        arrays,
    }
}

fn as_exchange(step: &Step) -> Option<&Exchange> {
    match step {
        Step::Exchange(exchange) => Some(exchange),
        _ => None,
    }
}

/// Every id that a step, a state or a stream holds must exist.
fn check_names(program: &Program) -> Result<(), EngineError> {
    let has_variable = |v: VarId| v.index() < program.variables.len();
    let has_procedure = |p: ProcId| p.index() < program.procedures.len();
    let dangling = |procedure: &str, step: usize, what: String| EngineError::Dangling {
        procedure: procedure.into(),
        step,
        what,
    };
    for variable in program
        .states
        .iter()
        .map(|s| s.variable)
        .chain(program.streams.iter().map(|s| s.variable))
    {
        if !has_variable(variable) {
            return Err(dangling("", 0, format!("variable {variable}")));
        }
    }
    if !has_procedure(program.entry) {
        return Err(dangling("", 0, format!("entry {}", program.entry)));
    }
    if let Some(part) = program.parts.iter().find(|&&p| !has_procedure(p)) {
        return Err(dangling("", 0, format!("part {part}")));
    }
    for procedure in &program.procedures {
        for (i, step) in procedure.steps.iter().enumerate() {
            let missing = match step {
                Step::Compute(set) => set.groups.iter().find_map(|group| {
                    let operand = group
                        .inputs
                        .iter()
                        .chain(&group.outputs)
                        .find(|o| !has_variable(o.variable));
                    let grid =
                        (group.grid.index() >= program.grids.len()).then(|| group.grid.to_string());
                    grid.or(operand.map(|o| format!("variable {}", o.variable)))
                }),
                Step::Exchange(exchange) => {
                    let mut ends = exchange
                        .moves
                        .iter()
                        .flat_map(|m| [m.source, m.destination]);
                    ends.find(|&v| !has_variable(v))
                        .map(|v| format!("variable {v}"))
                }
                Step::Host { stream, .. } => {
                    (*stream as usize >= program.streams.len()).then(|| format!("stream {stream}"))
                }
                Step::Remote { state, .. } => {
                    let found = program.states.get(*state as usize);
                    (!found.is_some_and(|s| s.remote)).then(|| format!("remote state {state}"))
                }
                Step::SetSeed { seed, .. } => {
                    (!has_variable(*seed)).then(|| format!("variable {seed}"))
                }
                Step::Collective(c) => [c.source, c.destination]
                    .into_iter()
                    .find(|&v| !has_variable(v))
                    .map(|v| format!("variable {v}")),
                Step::Repeat { .. } | Step::Call(_) | Step::Parallel(_) => {
                    let mut bodies = step.bodies();
                    let missing = bodies.find(|&(body, _)| !has_procedure(body));
                    missing.map(|(body, _)| body.to_string())
                }
                Step::Sync(_) => None,
            };
            if let Some(what) = missing {
                return Err(dangling(&procedure.name, i, what));
            }
        }
    }
    Ok(())
}

/// The number of every step in the walk, by procedure; 0 for those that the entry does not reach.
pub(crate) fn numbers(program: &Program) -> Vec<Vec<u32>> {
    let zeros = program.procedures.iter().map(|p| vec![0; p.steps.len()]);
    let mut numbers: Vec<Vec<u32>> = zeros.collect();
    let mut next = 0;
    program.walk_procedures(&mut |procedure, index| {
        numbers[procedure.index()][index] = next;
        next += 1;
    });
    numbers
}

/// An error when procedures call each other in a circle, or too deep.
fn check_calls(program: &Program) -> Result<(), EngineError> {
    let mut ends = vec![false; program.procedures.len()];
    (0..program.procedures.len() as u32)
        .try_for_each(|i| check_call(program, ProcId(i), 0, &mut ends))
}

fn check_call(
    program: &Program,
    id: ProcId,
    depth: u32,
    ends: &mut [bool],
) -> Result<(), EngineError> {
    if ends[id.index()] {
        return Ok(());
    }
    if depth > MAX_DEPTH {
        return Err(EngineError::Recursion { procedure: id });
    }
    for (body, _) in program.procedure(id).steps.iter().flat_map(Step::bodies) {
        check_call(program, body, depth + 1, ends)?;
    }
    ends[id.index()] = true;
    Ok(())
}
