//! The pace of a training step: what one more micro-batch takes, and what a step takes besides. A step of `n` micro-batches lasts `fixed + n · beat`
//! cycles: exactly, since a program for another `n` repeats the same procedure another number of times.

use superstep_passes::stage::stage_count;
use superstep_runtime::timeline::{ProcedureTime, Timeline};

use crate::manifest::Manifest;

/// Cycles of a step as a function of its micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// One cycle of a full pipeline, or one micro-batch by itself.
    pub beat: u64,
    /// Micro-batches that the program has.
    pub micro_batches: u32,
    /// Stages of the pipeline, forward and backward; 1 without one.
    pub stages: u32,
    /// Cycles of the program's step.
    pub cycles: u64,
}

/// Procedures of a pipeline are named after the graph and their part: `micro_batch.fill.0`, `micro_batch.main`, `micro_batch.flush.1`.
const MICRO_BATCH: &str = "micro_batch";

/// What one micro-batch more would run.
pub fn beat<'t>(timeline: &'t Timeline, manifest: &Manifest) -> Option<&'t ProcedureTime> {
    if manifest.pipelined {
        timeline.procedure(&format!("{MICRO_BATCH}.main"))
    } else {
        timeline.procedure(MICRO_BATCH)
    }
}

/// Cycles of the procedures of one part of the pipeline.
pub fn part_cycles(timeline: &Timeline, part: &str) -> u64 {
    let prefix = format!("{MICRO_BATCH}.{part}.");
    let named = |p: &&ProcedureTime| {
        let rest = p.name.strip_prefix(&prefix);
        rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let parts = timeline.procedures.iter().filter(named);
    parts.map(|p| p.cycles.total() * p.times).sum()
}

impl Pace {
    pub fn of(timeline: &Timeline, manifest: &Manifest) -> Pace {
        Pace {
            beat: beat(timeline, manifest).map_or(0, |p| p.cycles.total()),
            micro_batches: manifest.gradient_accumulation_steps,
            stages: if manifest.pipelined {
                stage_count(&manifest.layers_per_ipu)
            } else {
                1
            },
            cycles: timeline.cycles.total(),
        }
    }

    /// Cycles of a step of `n` micro-batches; `None` if they cannot fill the pipeline.
    pub fn cycles_of(&self, n: u32) -> Option<u64> {
        let change = i64::from(n) - i64::from(self.micro_batches);
        let cycles = i128::from(self.cycles) + i128::from(change) * i128::from(self.beat);
        (n >= self.stages.max(1))
            .then(|| u64::try_from(cycles).ok())
            .flatten()
    }

    /// Cycles in which a pipeline runs: `n + s − 1` for `n` micro-batches and `s` stages.
    pub fn pipeline_cycles(&self, n: u32) -> u32 {
        n + self.stages - 1
    }
}
