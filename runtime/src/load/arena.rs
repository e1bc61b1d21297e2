//! What lies in the arena: variables that are written before they are read in one phase and that nothing outside of it knows.

use std::ops::Range;

use rustc_hash::FxHashMap;
use superstep_ir::ids::VarId;
use superstep_ir::program::Variable;
use superstep_ir::units::align_up;

use super::phases::Context;
use crate::exchange::{LoadedMove, Place};
use crate::superstep::{Action, Superstep};
use crate::tile_memory::Store;

/// Cache lines do not hold two variables.
const ALIGNMENT: usize = 64;
const _: () = assert!(ALIGNMENT.is_multiple_of(Variable::ALIGNMENT as usize));

/// How a phase uses a variable.
pub(super) struct Life {
    variable: VarId,
    uses: u32,
    /// Bytes that moves bring before anybody reads; all, if a vertex writes it first.
    written: u64,
    read: bool,
    first: usize,
    last: usize,
}

impl Life {
    fn of(variable: VarId, superstep: usize) -> Life {
        Life {
            variable,
            uses: 0,
            written: 0,
            read: false,
            first: superstep,
            last: superstep,
        }
    }
}

/// What is written in these supersteps before it is read, and that nothing outside of them knows.
pub(super) fn passing(context: &Context<'_>, supersteps: &[Superstep]) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut numbers: FxHashMap<VarId, usize> = FxHashMap::default();
    for (i, superstep) in supersteps.iter().enumerate() {
        let mut add = |variable: VarId, written: u64| {
            let number = *numbers.entry(variable).or_insert_with(|| {
                lives.push(Life::of(variable, i));
                lives.len() - 1
            });
            let life = &mut lives[number];
            (life.uses, life.last) = (life.uses + 1, i);
            match written {
                0 => life.read = true,
                _ if life.read => {}
                bytes => life.written = life.written.saturating_add(bytes),
            }
        };
        for action in &superstep.actions {
            match action {
                Action::Receive(mv) => {
                    add(mv.from, 0);
                    add(mv.into, mv.expansion.bytes);
                }
                Action::Compute(group) => {
                    match &group.forwarded {
                        Some(mv) => add(mv.from, 0),
                        None => group.inputs.iter().for_each(|i| add(i.variable, 0)),
                    }
                    for output in &group.outputs {
                        let writes_all = output.entry.is_none() && !group.reads_output;
                        add(output.variable, if writes_all { u64::MAX } else { 0 });
                    }
                }
                Action::SetSeed { .. } => {}
            }
        }
    }
    lives.retain(|life| {
        let all = context.uses[life.variable];
        let knows_all = !all.kept && life.uses == all.count();
        let alone = context.alone[life.variable.index()];
        knows_all && alone && life.written >= context.stored_bytes(life.variable)
    });
    lives
}

/// As [`lay_out`], where all live all the time.
pub(super) fn lay_out_all(
    context: &Context<'_>,
    lives: &[&Life],
) -> (FxHashMap<VarId, u32>, usize) {
    let whole = |life: &&Life| Life {
        last: usize::MAX,
        ..Life::of(life.variable, 0)
    };
    let lives: Vec<Life> = lives.iter().map(whole).collect();
    lay_out(context, &lives.iter().collect::<Vec<_>>())
}

/// Lays variables out in slots, beside each other while they live; gives addresses, and the bytes of a slot.
pub(super) fn lay_out(context: &Context<'_>, lives: &[&Life]) -> (FxHashMap<VarId, u32>, usize) {
    let mut placed: Vec<(&Life, Range<usize>)> = Vec::new();
    for life in lives {
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
    let stride = placed.iter().map(|(_, range)| range.end).max().unwrap_or(0);
    let address = |(life, range): (&Life, Range<usize>)| (life.variable, range.start as u32);
    (placed.into_iter().map(address).collect(), stride)
}

impl Life {
    pub(super) fn variable(&self) -> VarId {
        self.variable
    }
}

/// Says of every operand and end of a move that has an address in `store` that it is there.
pub(super) fn settle(action: &mut Action, store: Store, addresses: &FxHashMap<VarId, u32>) {
    let settle_place = |variable: VarId, place: &mut Place| {
        if let Some(&address) = addresses.get(&variable) {
            (place.store, place.home.origin) = (store, address as usize);
        }
    };
    let settle_move = |mv: &mut LoadedMove| {
        settle_place(mv.from, &mut mv.source);
        settle_place(mv.into, &mut mv.destination);
    };
    match action {
        Action::Receive(mv) => settle_move(mv),
        Action::Compute(group) => {
            for operand in group.inputs.iter_mut().chain(&mut group.outputs) {
                settle_place(operand.variable, &mut operand.place);
            }
            group.forwarded.iter_mut().for_each(settle_move);
        }
        Action::SetSeed { .. } => {}
    }
}
