//! From a program to what the engine runs: every name resolved, every bound checked, nothing left to fail but the host.
//!
//! After [`Loaded::of`] has succeeded: every variable's block lies inside tile memory on every tile of its grid; every vertex has
//! operands that its kernel accepts and that do not run into each other; every copy of every exchange stays inside its blocks, and no
//! exchange reads a byte that it writes; procedures do not call themselves. Work that identical layers share is done once.

mod groups;

use superstep_ir::ids::{ProcId, VarId};
use superstep_ir::program::{ComputeSet, Exchange, Move, Program, Step};

use crate::codelets::Isa;
use crate::compute::Group;
use crate::error::EngineError;
use crate::exchange::{self, LoadedMove};
use crate::layout::Layouts;
use crate::superstep::{Action, Actions, Span, Superstep};

/// Procedures may be nested this deep; a compiler needs four or five levels.
const MAX_DEPTH: u32 = 64;

/// A step with everything it needs at hand.
pub(crate) enum LoadedStep {
    /// Consecutive exchanges, compute sets and syncs.
    Superstep(Superstep),
    Host {
        stream: usize,
    },
    Repeat {
        count: u32,
        body: usize,
    },
    Call(usize),
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
    /// By procedure.
    pub(crate) procedures: Vec<Vec<LoadedStep>>,
    /// By procedure: steps in the numbering of [`Program::walk`], called ones included.
    pub(crate) lengths: Vec<u64>,
}

impl Loaded {
    pub(crate) fn of(program: &Program, options: LoadOptions) -> Result<Loaded, EngineError> {
        check_names(program)?;
        let lengths = lengths(program)?;
        let layouts = Layouts::of(program)?;
        let exchanges = program
            .procedures
            .iter()
            .flat_map(|p| &p.steps)
            .filter_map(as_exchange);
        let exchanges: Vec<&Exchange> = exchanges.collect();
        let mut moves = exchange::load(program, &layouts, &exchanges)?.into_iter();
        let mut kernels = groups::Kernels::new(options.isa);
        let mut procedures = Vec::with_capacity(program.procedures.len());
        for procedure in &program.procedures {
            let mut steps = Steps {
                done: Vec::new(),
                open: None,
                stepwise: options.stepwise,
            };
            for step in &procedure.steps {
                match step {
                    Step::Compute(set) => {
                        let groups = groups::load(program, &layouts, &mut kernels, set)?;
                        steps.add(computed(program, &layouts, set, groups));
                    }
                    Step::Exchange(exchange) => {
                        let moves = moves.next().unwrap_or_default();
                        steps.add(received(program, &layouts, exchange, moves));
                    }
                    Step::Sync(_) => steps.add(Actions::default()),
                    Step::Host { stream, .. } => steps.cut(LoadedStep::Host {
                        stream: *stream as usize,
                    }),
                    Step::Repeat { count, body } => {
                        steps.cut(LoadedStep::Repeat {
                            count: *count,
                            body: body.index(),
                        });
                    }
                    Step::Call(procedure) => steps.cut(LoadedStep::Call(procedure.index())),
                }
            }
            procedures.push(steps.finish());
        }
        Ok(Loaded {
            layouts,
            procedures,
            lengths,
        })
    }
}

/// The steps of a procedure while supersteps are cut.
struct Steps {
    done: Vec<LoadedStep>,
    open: Option<Superstep>,
    stepwise: bool,
}

impl Steps {
    /// Adds a step to the open superstep, or to a new one.
    fn add(&mut self, step: Actions) {
        if self.stepwise || self.open.as_ref().is_some_and(|open| !open.takes(&step)) {
            self.close();
        }
        self.open.get_or_insert_default().add(step);
    }

    /// Adds a step that stands alone.
    fn cut(&mut self, step: LoadedStep) {
        self.close();
        self.done.push(step);
    }

    fn close(&mut self) {
        self.done
            .extend(self.open.take().map(LoadedStep::Superstep));
    }

    fn finish(mut self) -> Vec<LoadedStep> {
        self.close();
        self.done
    }
}

/// The bytes of a variable.
fn span(program: &Program, layouts: &Layouts, variable: VarId) -> Span {
    let v = program.variable(variable);
    let start = v.address as usize;
    Span {
        grid: layouts.grids[v.grid.index()].clone(),
        bytes: start..start + layouts.layout(variable).max_block_bytes,
    }
}

fn computed(program: &Program, layouts: &Layouts, set: &ComputeSet, groups: Vec<Group>) -> Actions {
    let outputs = set.groups.iter().flat_map(|g| &g.outputs);
    Actions {
        actions: groups.into_iter().map(Action::Compute).collect(),
        sent: Vec::new(),
        written: outputs
            .map(|o| span(program, layouts, o.variable))
            .collect(),
    }
}

fn received(
    program: &Program,
    layouts: &Layouts,
    exchange: &Exchange,
    moves: Vec<LoadedMove>,
) -> Actions {
    let spans = |end: fn(&Move) -> VarId| {
        exchange
            .moves
            .iter()
            .map(move |m| span(program, layouts, end(m)))
    };
    Actions {
        actions: moves.into_iter().map(Action::Receive).collect(),
        sent: spans(|m| m.source).collect(),
        written: spans(|m| m.destination).collect(),
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
                Step::Repeat {
                    body: procedure, ..
                }
                | Step::Call(procedure) => {
                    (!has_procedure(*procedure)).then(|| procedure.to_string())
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

/// Steps of every procedure, those of called procedures included; an error when procedures call each other in a circle.
fn lengths(program: &Program) -> Result<Vec<u64>, EngineError> {
    let mut lengths = vec![None; program.procedures.len()];
    for i in 0..program.procedures.len() {
        length(program, ProcId(i as u32), 0, &mut lengths)?;
    }
    Ok(lengths.into_iter().map(Option::unwrap_or_default).collect())
}

fn length(
    program: &Program,
    id: ProcId,
    depth: u32,
    known: &mut Vec<Option<u64>>,
) -> Result<u64, EngineError> {
    if let Some(length) = known[id.index()] {
        return Ok(length);
    }
    if depth > MAX_DEPTH {
        return Err(EngineError::Recursion { procedure: id });
    }
    let mut total = 0u64;
    for step in &program.procedure(id).steps {
        let inner = match step {
            Step::Repeat { body, .. } => length(program, *body, depth + 1, known)?,
            Step::Call(procedure) => length(program, *procedure, depth + 1, known)?,
            _ => 0,
        };
        total = total.saturating_add(1).saturating_add(inner);
    }
    known[id.index()] = Some(total);
    Ok(total)
}
