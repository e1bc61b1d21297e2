//! Poison: memory that no live variable holds is filled with nonsense, so that a program that reads it computes nonsense.
//!
//! A second proof of memory assignment, beside the verifier's: a correct program gives the same bits with and without.

use superstep_ir::ids::VarId;
use superstep_ir::program::{Program, Variable};

use crate::layout::Layouts;
use crate::load::Loaded;
use crate::tile_memory::{TileMemory, poison_bytes};

/// Which variables die at which step.
pub(crate) struct Deaths {
    /// `(last step, variable)`, ascending.
    last_steps: Vec<(u64, u32)>,
}

/// Address range and IPU of a variable.
fn span(program: &Program, layouts: &Layouts, index: usize) -> (u32, usize, usize) {
    let variable = &program.variables[index];
    let start = variable.address as usize;
    (
        program.grid(variable.grid).ipu.0,
        start,
        start + layouts.layouts[index].max_block_bytes,
    )
}

impl Deaths {
    /// Poisons all memory but that of the variables that always live, and notes when the others die.
    pub(crate) fn prepare(program: &Program, loaded: &Loaded, memory: &mut TileMemory) -> Deaths {
        memory.poison();
        for (i, variable) in program.variables.iter().enumerate() {
            if variable.live.is_none() {
                fill(loaded, variable, i, memory, |bytes| bytes.fill(0));
            }
        }
        let mut last_steps: Vec<(u64, u32)> = Vec::new();
        for (i, variable) in program.variables.iter().enumerate() {
            let Some((_, last)) = variable.live else {
                continue;
            };
            if !is_taken_over(program, &loaded.layouts, i, last) {
                last_steps.push((u64::from(last), i as u32));
            }
        }
        last_steps.sort_unstable();
        Deaths { last_steps }
    }

    /// Poisons the variables whose last step was `step`.
    pub(crate) fn after(
        &self,
        step: u64,
        program: &Program,
        loaded: &Loaded,
        memory: &mut TileMemory,
    ) {
        let from = self.last_steps.partition_point(|&(last, _)| last < step);
        for &(_, i) in self.last_steps[from..]
            .iter()
            .take_while(|&&(last, _)| last == step)
        {
            fill(
                loaded,
                &program.variables[i as usize],
                i as usize,
                memory,
                poison_bytes,
            );
        }
    }
}

/// True when another variable that lives on after `last` holds some of the same bytes, as results computed in place do.
fn is_taken_over(program: &Program, layouts: &Layouts, index: usize, last: u32) -> bool {
    let (ipu, start, end) = span(program, layouts, index);
    (0..program.variables.len()).any(|other| {
        let (other_ipu, other_start, other_end) = span(program, layouts, other);
        let lives_on = program.variables[other]
            .live
            .is_none_or(|(from, to)| from <= last && to > last);
        other != index && lives_on && other_ipu == ipu && other_start < end && start < other_end
    })
}

fn fill(
    loaded: &Loaded,
    variable: &Variable,
    index: usize,
    memory: &mut TileMemory,
    with: impl Fn(&mut [u8]),
) {
    let (grid, layout) = (
        &loaded.layouts.grids[variable.grid.index()],
        &loaded.layouts.layouts[index],
    );
    let home = loaded.homes.of(VarId(index as u32));
    for (point, &tile) in grid.tiles.iter().enumerate() {
        let bytes = layout.blocks[point].elements() * layout.dtype.bytes();
        let number = memory.number(grid.ipu.0, tile);
        with(memory.block_mut(home, number, bytes));
    }
}
