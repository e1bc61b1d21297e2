//! Vertex groups: one codelet on every tile of a grid.

use std::sync::Arc;

use superstep_ir::ids::VarId;

use crate::codelets::{Kernel, Operand, Vertex};
use crate::exchange::LoadedMove;
use crate::layout::{GridTiles, Layout};

/// A vertex group, resolved and checked.
pub(crate) struct Group {
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) grid: Arc<GridTiles>,
    pub(crate) inputs: Vec<GroupOperand>,
    pub(crate) outputs: Vec<GroupOperand>,
    /// A move that brings the only input, which is read where it comes from instead.
    pub(crate) forwarded: Option<LoadedMove>,
    /// Step and group, where stores to f16 round at random.
    pub(crate) at_random: Option<(u32, u8)>,
    /// All vertices together on one thread, estimated.
    pub(crate) nanoseconds: f64,
}

/// An operand on all tiles of the group.
pub(crate) struct GroupOperand {
    pub(crate) variable: VarId,
    pub(crate) address: usize,
    pub(crate) entry: Option<u32>,
    pub(crate) layout: Arc<Layout>,
    /// All copies of a block are the first one, on another tile for most.
    pub(crate) shared: bool,
}

impl Group {
    /// The vertex at a grid point.
    pub(crate) fn vertex(&self, point: usize) -> Vertex<'_> {
        let operand = |o| self.operand(o, point);
        Vertex {
            inputs: self.inputs.iter().map(operand).collect(),
            outputs: self.outputs.iter().map(operand).collect(),
        }
    }

    fn operand<'a>(&self, operand: &'a GroupOperand, point: usize) -> Operand<'a> {
        let own = Operand::new(operand.address, operand.entry, &operand.layout, point);
        if !operand.shared {
            return own;
        }
        let tile = |point: usize| self.grid.tiles[point] as i32;
        let first = operand.layout.first_copy_of[point] as usize;
        own.on_neighbour(tile(first) - tile(point))
    }
}
