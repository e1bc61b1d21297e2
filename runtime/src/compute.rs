//! Vertex groups: one codelet on every tile of a grid.

use std::sync::Arc;

use smallvec::SmallVec;
use superstep_ir::ids::VarId;

use crate::codelets::{Kernel, Operand, Vertex};
use crate::exchange::{LoadedMove, Place};
use crate::layout::{GridTiles, Layout};

/// A vertex group, resolved and checked.
pub(crate) struct Group {
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) grid: Arc<GridTiles>,
    pub(crate) inputs: Vec<GroupOperand>,
    pub(crate) outputs: Vec<GroupOperand>,
    /// A move that brings the only input, which is read where it comes from instead.
    pub(crate) forwarded: Option<LoadedMove>,
    /// The results are also read.
    pub(crate) reads_output: bool,
    /// Step and group, where stores to f16 round at random.
    pub(crate) at_random: Option<(u32, u8)>,
    /// All vertices together on one thread, estimated.
    pub(crate) nanoseconds: f64,
}

/// An operand on all tiles of the group.
pub(crate) struct GroupOperand {
    pub(crate) variable: VarId,
    pub(crate) entry: Option<u32>,
    pub(crate) layout: Arc<Layout>,
    /// All copies of a block are the first one, on another tile for most. A result that is shared is a sum, to which all but the tile that
    /// has it add.
    pub(crate) shared: bool,
    pub(crate) place: Place,
}

impl GroupOperand {
    /// The point where the block of `point` is.
    pub(crate) fn home(&self, point: usize) -> usize {
        match self.shared {
            true => self.layout.first_copy_of[point] as usize,
            false => point,
        }
    }
}

impl Group {
    /// The vertex at a grid point; `at` says where the block of an operand on a tile is.
    #[inline]
    pub(crate) fn vertex(
        &self,
        point: usize,
        at: impl Fn(&GroupOperand, u32) -> *mut u8,
    ) -> Vertex<'_> {
        let mut vertex = Vertex {
            inputs: SmallVec::new(),
            outputs: SmallVec::new(),
            adds: false,
        };
        for input in &self.inputs {
            vertex.inputs.push(self.operand(input, point, &at));
        }
        for output in &self.outputs {
            vertex.outputs.push(self.operand(output, point, &at));
            vertex.adds |= output.home(point) != point;
        }
        vertex
    }

    #[inline(always)]
    fn operand<'a>(
        &self,
        operand: &'a GroupOperand,
        point: usize,
        at: impl Fn(&GroupOperand, u32) -> *mut u8,
    ) -> Operand<'a> {
        let home = operand.home(point);
        let (home, here) = (self.grid.tiles[home], self.grid.tiles[point]);
        let start = at(operand, home);
        Operand::new(start, home == here, operand.entry, &operand.layout, point)
    }
}
