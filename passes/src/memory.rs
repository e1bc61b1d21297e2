//! Memory: live ranges of all variables over the steps of the program, and addresses on every tile above the code, or the error that says which
//! tile is too full.

use std::fmt;

use fixedbitset::FixedBitSet;
use petgraph::algo::dominators::{Dominators, simple_fast};
use petgraph::graphmap::DiGraphMap;
use superstep_ir::ids::{IpuId, ProcId, TileId, VarId};
use superstep_ir::program::footprint::{CodeKind, Footprint, TileFootprint};
use superstep_ir::program::{Program, RemoteDirection, Step};
use superstep_ir::types::TensorType;
use thiserror::Error;

use crate::solve::offsets::{Item, Placement, peaks, place};

/// A variable on an overfull tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    pub name: String,
    pub ty: TensorType,
    /// Bytes on the tile.
    pub bytes: u64,
    pub live: Option<(u32, u32)>,
}

/// A tile that cannot hold what the program puts there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Overflow {
    pub ipu: IpuId,
    pub tile: TileId,
    /// Step of the program (in the numbering of [`Program::walk`]) with the most alive.
    pub step: u32,
    /// Name of that step.
    pub at: String,
    /// The op that it serves, if it serves one.
    pub op: Option<String>,
    /// Bytes of variables, and bytes that are there for them.
    pub needed: u64,
    pub available: u64,
    /// What the IPU's tiles hold besides, at most: code, exchange programs, vertex state, stacks. Not counted where variables alone are too much.
    pub code: Option<TileFootprint>,
    /// What lies on the tile then, largest first.
    pub residents: Vec<Resident>,
}

/// One for each IPU with an overfull tile, in order of the IPUs.
pub type Overflows = Vec<Overflow>;

impl Overflow {
    /// Bytes that are missing.
    pub const fn excess(&self) -> u64 {
        self.needed.saturating_sub(self.available)
    }
}

/// Residents that the message names.
const NAMED: usize = 6;

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = self.excess();
        write!(
            f,
            "{} of {} overflows by {over} bytes at step {} `{}`: ",
            self.tile, self.ipu, self.step, self.at
        )?;
        write!(f, "{} bytes needed, ", self.needed)?;
        match &self.code {
            Some(code) => write!(
                f,
                "{} available beside {} of code ({})",
                self.available,
                code.total(),
                largest(code)
            )?,
            None => write!(f, "a tile has {}", self.available)?,
        }
        write!(f, "; the largest there:")?;
        for r in self.residents.iter().take(NAMED) {
            write!(
                f,
                "\n  {:>9}  {:<40} {:<24} ",
                r.bytes,
                r.name,
                r.ty.to_string()
            )?;
            match r.live {
                Some((first, last)) => write!(f, "steps {first}..{last}")?,
                None => write!(f, "always live")?,
            }
        }
        Ok(())
    }
}

/// The kinds of code that take most.
fn largest(code: &TileFootprint) -> String {
    let mut kinds: Vec<(CodeKind, u64)> = code.iter().collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.1));
    let named = kinds.iter().take(3);
    let named = named.map(|(kind, bytes)| format!("{} {bytes}", kind.name().replace('_', " ")));
    named.collect::<Vec<_>>().join(", ")
}

/// How close the addresses come to what no placement can undercut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MemoryFit {
    /// Highest address in use on any tile, bytes above the code.
    pub top: u64,
    /// Largest sum of live bytes on any tile.
    pub bound: u64,
}

/// Says from which address variables may lie on the tiles of each IPU: above the code of that IPU's fullest tile.
pub(crate) fn make_room_for_code(program: &mut Program) -> Footprint {
    let footprint = Footprint::of_program(program);
    let reserved = u64::from(program.machine.reserved_bytes);
    let ipus = (0..program.ipus).map(IpuId);
    let from = ipus.map(|ipu| {
        let end = footprint.fullest(ipu).total() + reserved;
        u32::try_from(end).unwrap_or(u32::MAX)
    });
    program.variables_from = from.collect();
    footprint
}

/// Bytes for variables on the tiles of an IPU.
pub(crate) fn available(program: &Program, ipu: IpuId) -> u64 {
    let from = program.variables_from[ipu.index()];
    u64::from(program.machine.tile_memory.saturating_sub(from))
}

/// Computes live ranges, counts the code, and gives every variable an address.
///
/// # Errors
/// The memory of some tile does not suffice: of every such IPU the fullest tile, in order.
pub fn assign_memory(program: &mut Program) -> Result<MemoryFit, Overflows> {
    let names = live_ranges(program);
    let contents = Contents::of_all(program, names.len() as u32);
    // To count exchange code takes a while; it is not needed to see that variables alone are too much.
    let tile_memory = u64::from(program.machine.tile_memory);
    let too_much = contents.iter().filter(|c| c.peak().0 > tile_memory);
    let hopeless: Overflows = too_much
        .map(|full| full.overflow(program, &names, full.peak().0, None))
        .collect();
    if !hopeless.is_empty() {
        return Err(hopeless);
    }
    let footprint = make_room_for_code(program);
    assign_addresses(program, &names, contents, &footprint)
}

/// The same for a program whose code is counted and has its room.
///
/// # Errors
/// Those of [`assign_memory`], each with the code of its IPU.
pub(crate) fn assign_memory_beside(
    program: &mut Program,
    footprint: &Footprint,
) -> Result<MemoryFit, Overflows> {
    let names = live_ranges(program);
    let contents = Contents::of_all(program, names.len() as u32);
    assign_addresses(program, &names, contents, footprint)
}

fn assign_addresses(
    program: &mut Program,
    names: &[String],
    contents: Vec<Contents>,
    footprint: &Footprint,
) -> Result<MemoryFit, Overflows> {
    let mut fit = MemoryFit::default();
    let mut overflows = Overflows::new();
    for content in contents {
        let code = Some(*footprint.fullest(content.ipu));
        let room = available(program, content.ipu);
        let bound = content.peak().0;
        if bound > room {
            overflows.push(content.overflow(program, names, bound, code));
            continue;
        }
        let alignment = u64::from(superstep_ir::program::Variable::ALIGNMENT);
        let Placement { offsets, top } = place(&content.items, alignment, bound);
        if top > room {
            overflows.push(content.overflow(program, names, top, code));
            continue;
        }
        fit = MemoryFit {
            top: fit.top.max(top),
            bound: fit.bound.max(bound),
        };
        let from = program.variables_from[content.ipu.index()];
        for (&v, &offset) in content.variables.iter().zip(&offsets) {
            program.variables[v.index()].address = offset as u32 + from;
        }
    }
    if overflows.is_empty() {
        return Ok(fit);
    }
    Err(overflows)
}

/// The variables of an IPU as blocks of memory.
struct Contents {
    ipu: IpuId,
    variables: Vec<VarId>,
    items: Vec<Item>,
    /// By tile, most bytes alive and when.
    peaks: Vec<(u64, u32)>,
}

impl Contents {
    fn of_all(program: &Program, steps: u32) -> Vec<Contents> {
        let tiles = program.tile_sets();
        let ipus = (0..program.ipus).map(IpuId);
        let of_one = ipus.map(|ipu| {
            let ids = (0..program.variables.len() as u32).map(VarId);
            let variables: Vec<VarId> = ids.filter(|&v| program.grid_of(v).ipu == ipu).collect();
            let items = variables.iter().map(|&v| item(program, &tiles, v, steps));
            let items: Vec<Item> = items.collect();
            let peaks = peaks(&items, program.machine.tiles_per_ipu as usize);
            Contents {
                ipu,
                variables,
                items,
                peaks,
            }
        });
        of_one.collect()
    }

    /// Bytes on the fullest tile, the step, the tile.
    fn peak(&self) -> (u64, u32, TileId) {
        let tiles = self.peaks.iter().enumerate();
        let fullest = tiles.max_by_key(|&(tile, peak)| (peak.0, std::cmp::Reverse(tile)));
        fullest.map_or((0, 0, TileId(0)), |(tile, &(bytes, step))| {
            (bytes, step, TileId(tile as u32))
        })
    }

    fn overflow(
        &self,
        program: &Program,
        names: &[String],
        needed: u64,
        code: Option<TileFootprint>,
    ) -> Overflow {
        let (_, step, tile) = self.peak();
        let available = match code {
            Some(_) => available(program, self.ipu),
            None => program.machine.tile_memory.into(),
        };
        Overflow {
            ipu: self.ipu,
            tile,
            step,
            at: names.get(step as usize).cloned().unwrap_or_default(),
            op: op_of_step(program, step),
            needed,
            available,
            code,
            residents: self.residents(program, tile, step),
        }
    }

    /// What lies on a tile at a step, largest first.
    fn residents(&self, program: &Program, tile: TileId, step: u32) -> Vec<Resident> {
        let here =
            |i: &Item| i.memories.contains(tile.index()) && (i.live.0..=i.live.1).contains(&step);
        let items = self.variables.iter().zip(&self.items);
        let residents = items.filter(|(_, i)| here(i)).map(|(&v, i)| {
            let variable = program.variable(v);
            Resident {
                name: variable.name.clone(),
                ty: variable.ty.clone(),
                bytes: i.size,
                live: variable.live,
            }
        });
        let mut residents: Vec<Resident> = residents.collect();
        residents.sort_by_key(|r| std::cmp::Reverse(r.bytes));
        residents
    }
}

fn item(program: &Program, tiles: &[FixedBitSet], v: VarId, steps: u32) -> Item {
    let variable = program.variable(v);
    Item {
        size: variable.tile_bytes(program.grid_of(v)) as u64,
        live: variable.live.unwrap_or((0, steps)),
        memories: tiles[variable.grid.index()].clone(),
    }
}

/// The op that a step serves, by the step's number.
fn op_of_step(program: &Program, number: u32) -> Option<String> {
    let mut found = None;
    let mut at = 0;
    program.walk(&mut |step, _| {
        if at == number {
            found = step.origin();
        }
        at += 1;
    });
    found.map(|origin| program.origins[origin.index()].name.clone())
}

/// Sets the live range of every variable that is not state: from the first to the last step that touches it, in one procedure, or in several
/// that run once each. What passes between procedures that may run again in between lives as long as the innermost procedure that runs
/// them all. Returns a name for each step.
pub(crate) fn live_ranges(program: &mut Program) -> Vec<String> {
    let numbers = program.step_ranges();
    let callers = Callers::of(program);
    let mut touched: Vec<Option<Touched>> = vec![None; program.variables.len()];
    let mut names = Vec::new();
    program.walk_procedures(&mut |procedure, index| {
        let at = names.len() as u32;
        let mut touch = |v: VarId| match &mut touched[v.index()] {
            Some(known) => {
                known.last = at;
                if known.within != procedure {
                    let within = callers.innermost(known.within, procedure);
                    let in_order = [known.within, procedure].map(|p| callers.run_once(p, within));
                    known.recurs |= in_order != [true; 2];
                    known.within = within;
                }
            }
            new => {
                *new = Some(Touched {
                    first: at,
                    last: at,
                    within: procedure,
                    recurs: false,
                });
            }
        };
        names.push(visit(
            program,
            &program.procedure(procedure).steps[index],
            &mut touch,
        ));
    });
    for (variable, touched) in program.variables.iter_mut().zip(touched) {
        if variable.live.is_some() {
            variable.live = Some(match touched {
                None => (0, 0),
                Some(t) if t.recurs => {
                    let range = numbers[t.within.index()]
                        .clone()
                        .unwrap_or(t.first..t.last + 1);
                    (range.start, range.end - 1)
                }
                Some(t) => (t.first, t.last),
            });
        }
    }
    names
}

/// The steps that touch a variable.
#[derive(Clone, Copy)]
struct Touched {
    first: u32,
    last: u32,
    /// Runs all of them.
    within: ProcId,
    /// They are in more than one procedure, and one of these may run again before the outermost has ended.
    recurs: bool,
}

/// Calls `touch` for the variables of a step, and names it.
fn visit(program: &Program, step: &Step, touch: &mut impl FnMut(VarId)) -> String {
    match step {
        Step::Compute(set) => {
            for group in &set.groups {
                let operands = group.inputs.iter().chain(&group.outputs);
                operands.for_each(|o| touch(o.variable));
            }
            set.name.clone()
        }
        Step::Exchange(exchange) => {
            for mv in &exchange.moves {
                touch(mv.source);
                touch(mv.destination);
            }
            exchange.name.clone()
        }
        Step::Host { stream, .. } => {
            let stream = &program.streams[*stream as usize];
            touch(stream.variable);
            stream.name.clone()
        }
        Step::Remote {
            state, direction, ..
        } => {
            let state = &program.states[*state as usize];
            touch(state.variable);
            match direction {
                RemoteDirection::Load => format!("load {}", state.name),
                RemoteDirection::Store => format!("store {}", state.name),
            }
        }
        Step::SetSeed { seed, .. } => {
            touch(*seed);
            "set seed".into()
        }
        Step::Collective(c) => {
            touch(c.source);
            touch(c.destination);
            c.name.clone()
        }
        Step::Sync(_) => "sync".into(),
        Step::Parallel(_) => "at once".into(),
        Step::Repeat { body, .. } | Step::Call(body) => program.procedure(*body).name.clone(),
    }
}

/// Which procedure every run of another one is inside of.
struct Callers {
    dominators: Dominators<ProcId>,
    /// By procedure that runs no others, who calls it if that is one step that runs it once.
    only: Vec<Option<ProcId>>,
}

impl Callers {
    fn of(program: &Program) -> Callers {
        let mut calls: DiGraphMap<ProcId, ()> = DiGraphMap::new();
        calls.add_node(program.entry);
        let mut only = vec![None; program.procedures.len()];
        let mut runs = vec![0u64; program.procedures.len()];
        for (i, procedure) in program.procedures.iter().enumerate() {
            for (body, times) in procedure.steps.iter().flat_map(Step::bodies) {
                let caller = ProcId(i as u32);
                calls.add_edge(caller, body, ());
                let sum = &mut runs[body.index()];
                *sum = sum.saturating_add(times);
                only[body.index()] = (*sum == 1).then_some(caller);
            }
        }
        for (caller, procedure) in only.iter_mut().zip(&program.procedures) {
            let mut bodies = procedure.steps.iter().flat_map(Step::bodies);
            *caller = caller.filter(|_| bodies.next().is_none());
        }
        Callers {
            dominators: simple_fast(&calls, program.entry),
            only,
        }
    }

    /// Whether `procedure` is `within`, or is called by it alone, once, and runs no others: then its steps come in the order of their numbers.
    fn run_once(&self, procedure: ProcId, within: ProcId) -> bool {
        procedure == within || self.only[procedure.index()] == Some(within)
    }

    /// The innermost procedure inside of which all runs of both are.
    fn innermost(&self, a: ProcId, b: ProcId) -> ProcId {
        let of_b: Vec<ProcId> = self
            .dominators
            .dominators(b)
            .into_iter()
            .flatten()
            .collect();
        let mut of_a = self.dominators.dominators(a).into_iter().flatten();
        of_a.find(|d| of_b.contains(d))
            .unwrap_or(self.dominators.root())
    }
}
