//! Operands that need no copy: what a tile receives only to go through it once is read where it is sent from.
//!
//! That is how partial results are summed. The move and the vertices that read what it brings must be of one superstep, in which nobody
//! writes what is sent; no value depends on it.

use rustc_hash::FxHashMap;
use superstep_ir::ids::VarId;
use superstep_ir::program::{Program, Step};

use crate::compute::Group;
use crate::exchange::{Expansion, LoadedMove, in_row_order};
use crate::layout::Layout;
use crate::superstep::Superstep;

/// What has been found out about moves and their readers.
pub(super) struct Forwarding {
    /// By variable: one move writes it, one vertex group reads it, and nothing else knows it.
    passing: Vec<bool>,
    /// By expansion and layout of the results: whether the pieces come in the order in which they are needed.
    in_order: FxHashMap<(*const Expansion, u32), bool>,
}

impl Forwarding {
    pub(super) fn of(program: &Program) -> Forwarding {
        let count = program.variables.len();
        let (mut received, mut read) = (vec![0_u32; count], vec![0_u32; count]);
        let mut kept = vec![false; count];
        let states = program.states.iter().map(|s| s.variable);
        let streams = program.streams.iter().map(|s| s.variable);
        states.chain(streams).for_each(|v| kept[v.index()] = true);
        for step in program.procedures.iter().flat_map(|p| &p.steps) {
            match step {
                Step::Exchange(exchange) => {
                    for mv in &exchange.moves {
                        received[mv.destination.index()] += 1;
                        kept[mv.source.index()] = true;
                    }
                }
                Step::Compute(set) => {
                    for group in &set.groups {
                        group.inputs.iter().for_each(|i| {
                            read[i.variable.index()] += 1;
                            kept[i.variable.index()] |= i.entry.is_some();
                        });
                        group
                            .outputs
                            .iter()
                            .for_each(|o| kept[o.variable.index()] = true);
                    }
                }
                Step::Collective(c) => {
                    kept[c.source.index()] = true;
                    kept[c.destination.index()] = true;
                }
                Step::SetSeed { seed, .. } => kept[seed.index()] = true,
                Step::Host { .. }
                | Step::Remote { .. }
                | Step::Sync(_)
                | Step::Repeat { .. }
                | Step::Call(_)
                | Step::Parallel(_) => {}
            }
        }
        Forwarding {
            passing: (0..count)
                .map(|v| received[v] == 1 && read[v] == 1 && !kept[v])
                .collect(),
            in_order: FxHashMap::default(),
        }
    }

    /// Lets `group` read its input from where a move of `open` would bring it from, if it may.
    pub(super) fn forward(&mut self, group: &mut Group, open: &mut Superstep) {
        if let [input] = &group.inputs[..] {
            let variable = input.variable;
            group.forwarded = open.take_move(variable, |mv| self.allows(group, variable, mv));
        }
    }

    /// True when `group` may read its input, `variable`, from where `mv` would bring it from.
    fn allows(&mut self, group: &Group, variable: VarId, mv: &LoadedMove) -> bool {
        let [input] = &group.inputs[..] else {
            return false;
        };
        let [output] = &group.outputs[..] else {
            return false;
        };
        let fits = self.passing[variable.index()]
            && mv.into == variable
            && group.kernel.takes_pieces()
            && !input.shared;
        if !fits {
            return false;
        }
        let expansion = &*mv.expansion;
        let element_bytes = input.layout.dtype.bytes();
        let vertex = |(point, &tile): (usize, &u32)| {
            let bytes = |layout: &Layout| layout.blocks[point].elements() * element_bytes;
            // Rows are as long as results.
            let (row, all) = (bytes(&output.layout), bytes(&input.layout));
            in_row_order(expansion, tile, (element_bytes, row, all))
        };
        let known = self.in_order.entry((expansion, output.layout.id));
        *known.or_insert_with(|| group.grid.tiles.iter().enumerate().all(vertex))
    }
}
