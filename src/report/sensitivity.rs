//! How far a prediction moves with the numbers that no document settles: the same plan, timed with each of them at the ends of its range.

use serde::Serialize;
use superstep_ir::machine::ranges::RANGES;
use superstep_ir::program::Program;
use superstep_ir::program::cost::moves::DistinctMoves;
use superstep_runtime::timeline::timeline_with;

use super::pace::Pace;
use crate::compile::Compiled;
use crate::error::Error;

/// One number of the machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sensitivity {
    pub field: &'static str,
    pub why: &'static str,
    pub at: [End; 2],
    /// Largest change of the rate, in parts of it.
    pub effect: f64,
}

/// The prediction with the number at one end of its range.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct End {
    pub value: &'static str,
    pub samples_per_second: f64,
    pub beat_cycles: u64,
    /// Milliseconds of the beat.
    pub beat_milliseconds: f64,
}

/// Every uncertain number of the program's machine, the largest effect first.
pub fn sensitivity(
    compiled: &Compiled,
    samples_per_second: f64,
) -> Result<Vec<Sensitivity>, Error> {
    let mut rows = Vec::new();
    // What is moved does not depend on how fast.
    let moves = DistinctMoves::of(&compiled.program);
    for range in RANGES {
        let Some(ends) = range.ends(&compiled.program.machine) else {
            continue;
        };
        let ends = ends.map_err(|e| Error::failed(e.to_string()))?;
        let mut at = Vec::new();
        for (machine, value) in ends.into_iter().zip([range.least, range.most]) {
            let program = Program {
                machine,
                ..compiled.program.clone()
            };
            at.push(end(compiled, &program, &moves, value));
        }
        let change = |end: &End| (end.samples_per_second / samples_per_second - 1.0).abs();
        let effect = at.iter().map(change).fold(0.0, f64::max);
        let Ok(at) = <[End; 2]>::try_from(at) else {
            continue;
        };
        rows.push(Sensitivity {
            field: range.field,
            why: range.why,
            at,
            effect,
        });
    }
    rows.sort_by(|a, b| b.effect.total_cmp(&a.effect));
    Ok(rows)
}

fn end<'p>(
    compiled: &Compiled,
    program: &'p Program,
    moves: &'p DistinctMoves<'p>,
    value: &'static str,
) -> End {
    let time = timeline_with(program, moves);
    let beat = Pace::of(&time, &compiled.manifest).beat;
    End {
        value,
        samples_per_second: compiled.manifest.samples_per_step() as f64 / time.seconds(),
        beat_cycles: beat,
        beat_milliseconds: 1e3 * program.machine.seconds(beat),
    }
}
