//! Operands that need no copy: what a tile receives only to go through it once is read where it is sent from.
//!
//! That is how partial results are summed. The move and the vertices that read what it brings must be of one superstep, in which nobody
//! writes what is sent; no value depends on it.

use rustc_hash::FxHashMap;
use superstep_ir::ids::VarId;

use super::uses::{Use, Uses};
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
    pub(super) fn of(uses: &Uses) -> Forwarding {
        let passing =
            |of: Use| (of.received, of.read, of.count()) == (1, 1, 2) && !of.entry_read && !of.kept;
        Forwarding {
            passing: uses.iter().map(passing).collect(),
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
