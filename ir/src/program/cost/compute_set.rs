//! Cycles of a compute set: the busiest tile, where groups that meet on a tile add up.

use crate::machine::codelet_cost::{BlockShape, vertex_cycles};
use crate::program::{ComputeSet, Operand, Program, VertexGroup};
use smallvec::SmallVec;

/// Cycles of the busiest tile, and the number of tiles that work.
pub fn compute_set(program: &Program, set: &ComputeSet) -> (u64, u32) {
    if let [group] = set.groups.as_slice() {
        let points = program.grid(group.grid).points() as u32;
        return (group_cycles(program, group), points);
    }
    let tiles = program.machine.tiles_per_ipu as usize;
    let mut busy = vec![0u64; tiles * program.ipus as usize];
    for group in &set.groups {
        let cycles = group_cycles(program, group);
        let grid = program.grid(group.grid);
        for (_, tile) in grid.iter() {
            busy[grid.ipu.index() * tiles + tile.index()] += cycles;
        }
    }
    let working = busy.iter().filter(|&&cycles| cycles > 0).count();
    (busy.iter().copied().max().unwrap_or(0), working as u32)
}

/// Cycles of one vertex of the group at the largest blocks of its operands.
fn group_cycles(program: &Program, group: &VertexGroup) -> u64 {
    let blocks = |operands: &[Operand]| -> SmallVec<[BlockShape; 6]> {
        operands.iter().map(|o| largest_block(program, o)).collect()
    };
    let (inputs, outputs) = (blocks(&group.inputs), blocks(&group.outputs));
    vertex_cycles(&program.machine, &group.codelet, &inputs, &outputs)
}

fn largest_block(program: &Program, operand: &Operand) -> BlockShape {
    let variable = program.variable(operand.variable);
    let mut shape = variable.largest_block(program.grid(variable.grid));
    if operand.entry.is_some() && shape.rank() > 0 {
        shape.0.remove(0);
    }
    BlockShape {
        dtype: variable.ty.dtype,
        shape,
    }
}
