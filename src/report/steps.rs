//! Every superstep of a program as CSV: when it starts, how long it takes, how well its tiles are used, what it moves.

use std::fmt::Write;

use superstep_ir::program::Program;
use superstep_runtime::timeline::{Kind, StepTime, timeline};

use crate::csv::quoted;

const HEADER: &str = "step,name,op,kind,ipu,start,cycles,times,tiles,utilisation,balance,bytes";

/// One line a step of the program, the body of a repeat once. `utilisation` is the share of all tiles' cycles that are spent computing,
/// `balance` the same of the tiles in use; both are empty for steps that do not compute.
pub fn csv(program: &Program) -> String {
    let tiles = u64::from(program.machine.tiles_per_ipu);
    let mut text = format!("{HEADER}\n");
    for step in &timeline(program).steps {
        let op = step.origin.and_then(|i| program.origins.get(i as usize));
        let share = |of: u64| match step.kind {
            Kind::Compute => used(step, of),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{}",
            step.index,
            quoted(&step.name),
            quoted(op.map_or("", |op| &op.name)),
            step.kind.name(),
            step.ipu.map_or(String::new(), |ipu| ipu.to_string()),
            step.start,
            step.cycles,
            step.times,
            step.tiles,
            share(tiles),
            share(step.tiles.into()),
            step.bytes,
        );
    }
    text
}

/// Share of the cycles of `tiles` tiles in which they compute.
fn used(step: &StepTime, tiles: u64) -> String {
    let all = step.cycles.saturating_mul(tiles).max(1);
    format!("{:.4}", step.tile_cycles as f64 / all as f64)
}
