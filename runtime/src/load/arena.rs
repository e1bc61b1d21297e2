//! What lies in the arena: variables that are written before they are read in one phase and that nothing outside of it knows.

use rustc_hash::FxHashMap;
use superstep_ir::ids::VarId;
use superstep_ir::program::{Program, Step, Variable};
use superstep_ir::units::align_up;

use super::phases::Context;
use crate::exchange::LoadedMove;
use crate::layout::Layouts;
use crate::superstep::{Action, Superstep};

/// Cache lines do not hold two variables.
const ALIGNMENT: usize = 64;
const _: () = assert!(ALIGNMENT.is_multiple_of(Variable::ALIGNMENT as usize));

/// By variable: how often the steps of the program name it; all the same what is kept from step to step, or known to the host.
pub(crate) struct Uses(Vec<u32>);

impl Uses {
    pub(super) fn of(program: &Program) -> Uses {
        let mut uses = vec![0_u32; program.variables.len()];
        let mut kept: Vec<VarId> = program.states.iter().map(|s| s.variable).collect();
        kept.extend(program.streams.iter().map(|s| s.variable));
        for step in program.procedures.iter().flat_map(|p| &p.steps) {
            match step {
                Step::Exchange(exchange) => {
                    for mv in &exchange.moves {
                        uses[mv.source.index()] += 1;
                        uses[mv.destination.index()] += 1;
                    }
                }
                Step::Compute(set) => {
                    for group in &set.groups {
                        for operand in group.inputs.iter().chain(&group.outputs) {
                            uses[operand.variable.index()] += 1;
                        }
                    }
                }
                Step::Collective(c) => kept.extend([c.source, c.destination]),
                Step::SetSeed { seed, .. } => kept.push(*seed),
                Step::Host { .. }
                | Step::Remote { .. }
                | Step::Sync(_)
                | Step::Repeat { .. }
                | Step::Call(_)
                | Step::Parallel(_) => {}
            }
        }
        kept.iter().for_each(|v| uses[v.index()] = u32::MAX);
        Uses(uses)
    }
}

/// How a phase uses a variable.
struct Life {
    variable: VarId,
    uses: u32,
    /// The first use writes all of it.
    written_first: bool,
    first: usize,
    last: usize,
}

/// Moves what may lie in the arena there; gives the bytes of a slot.
pub(super) fn plan(context: &Context<'_>, supersteps: &mut [Superstep]) -> usize {
    let lives = lives(context.layouts, supersteps);
    let passing = |l: &&Life| l.written_first && l.uses == context.uses.0[l.variable.index()];
    let mut placed: Vec<(&Life, std::ops::Range<usize>)> = Vec::new();
    for life in lives.iter().filter(passing) {
        let bytes = context.layouts.layout(life.variable).max_block_bytes;
        let beside = placed
            .iter()
            .filter(|(other, _)| other.first <= life.last && life.first <= other.last);
        let mut taken: Vec<_> = beside.map(|(_, range)| range.clone()).collect();
        taken.sort_unstable_by_key(|range| range.start);
        let mut at = 0;
        for range in taken {
            if at + bytes <= range.start {
                break;
            }
            at = at.max(range.end);
        }
        placed.push((life, at..align_up(at + bytes, ALIGNMENT)));
    }
    let addresses: FxHashMap<VarId, u32> = placed
        .iter()
        .map(|(life, range)| (life.variable, range.start as u32))
        .collect();
    for action in supersteps.iter_mut().flat_map(|s| &mut s.actions) {
        resettle(action, &addresses);
    }
    placed.iter().map(|(_, range)| range.end).max().unwrap_or(0)
}

/// The uses of all variables, in the order of the first one.
fn lives(layouts: &Layouts, supersteps: &[Superstep]) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut numbers: FxHashMap<VarId, usize> = FxHashMap::default();
    for (i, superstep) in supersteps.iter().enumerate() {
        let mut add = |variable: VarId, writes_all: bool| {
            let number = *numbers.entry(variable).or_insert_with(|| {
                lives.push(Life {
                    variable,
                    uses: 0,
                    written_first: writes_all,
                    first: i,
                    last: i,
                });
                lives.len() - 1
            });
            lives[number].uses += 1;
            lives[number].last = i;
        };
        for action in &superstep.actions {
            match action {
                Action::Receive(mv) => {
                    add(mv.from, false);
                    add(mv.into, fills(layouts, mv));
                }
                Action::Compute(group) => {
                    match &group.forwarded {
                        Some(mv) => add(mv.from, false),
                        None => group.inputs.iter().for_each(|i| add(i.variable, false)),
                    }
                    let writes_all = |entry: Option<u32>| entry.is_none() && !group.reads_output;
                    let outputs = group.outputs.iter();
                    outputs.for_each(|o| add(o.variable, writes_all(o.entry)));
                }
                Action::SetSeed { .. } => {}
            }
        }
    }
    lives
}

/// True when a move gives every byte of its destination: it gives none twice.
fn fills(layouts: &Layouts, mv: &LoadedMove) -> bool {
    let layout = layouts.layout(mv.into);
    let bytes = |points: &mut dyn Iterator<Item = usize>| -> u64 {
        let elements: usize = points.map(|p| layout.blocks[p].elements()).sum();
        (elements * layout.dtype.bytes()) as u64
    };
    let all = bytes(&mut (0..layout.blocks.len()));
    let first_copies = bytes(&mut layout.first_copies.iter().map(|&p| p as usize));
    // Where copies share storage, it gives the first ones.
    mv.expansion.bytes == if mv.into_shared { first_copies } else { all }
}

fn resettle(action: &mut Action, addresses: &FxHashMap<VarId, u32>) {
    let settle_move = |mv: &mut LoadedMove| {
        for (variable, place) in [(mv.from, &mut mv.source), (mv.into, &mut mv.destination)] {
            if let Some(&address) = addresses.get(&variable) {
                place.address = address;
                place.in_arena = true;
            }
        }
    };
    match action {
        Action::Receive(mv) => settle_move(mv),
        Action::Compute(group) => {
            for operand in group.inputs.iter_mut().chain(&mut group.outputs) {
                if let Some(&address) = addresses.get(&operand.variable) {
                    operand.address = address as usize;
                    operand.in_arena = true;
                }
            }
            group.forwarded.iter_mut().for_each(settle_move);
        }
        Action::SetSeed { .. } => {}
    }
}
