//! The pace of an evaluation program: what a call of the host takes on the simulated machine.

use superstep_ir::program::Program;
use superstep_runtime::timeline::timeline;

use super::format::{grouped, three_digits};
use crate::settings::EvaluationSettings;

/// A call of the host: so many micro-batches in so many cycles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationPace {
    /// IPUs of a replica.
    pub ipus: u32,
    pub replicas: u32,
    /// Of a replica.
    pub micro_batches: u32,
    /// Cycles of the pipeline: `n + s − 1` for `n` micro-batches and `s` stages; none where micro-batches are taken one after the other.
    pub pipeline_cycles: Option<u32>,
    /// Cycles of a tile.
    pub cycles: u64,
    pub samples_per_second: f64,
}

/// Parts of a pipeline of the graph `forward`, each a procedure for a pipeline cycle.
const PARTS: [&str; 4] = ["fill", "main", "pass", "flush"];

impl EvaluationPace {
    pub fn of(program: &Program, settings: &EvaluationSettings) -> EvaluationPace {
        let timeline = timeline(program);
        let parts = timeline.procedures.iter().filter(|p| is_part(&p.name));
        let pipeline_cycles: u64 = parts.map(|p| p.times).sum();
        EvaluationPace {
            ipus: program.ipus,
            replicas: settings.replicas,
            micro_batches: settings.device_iterations,
            pipeline_cycles: (pipeline_cycles > 0).then_some(pipeline_cycles as u32),
            cycles: timeline.cycles.total(),
            samples_per_second: settings.samples_per_call() as f64 / timeline.seconds(),
        }
    }

    /// Stages of the pipeline; 1 without one.
    pub fn stages(&self) -> u32 {
        self.pipeline_cycles
            .map_or(1, |cycles| cycles + 1 - self.micro_batches)
    }
}

/// Whether a procedure is a cycle of the pipeline, such as `forward.main` or `forward.fill.0`.
fn is_part(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("forward.") else {
        return false;
    };
    let (part, number) = rest.split_once('.').unwrap_or((rest, "0"));
    PARTS.contains(&part) && number.bytes().all(|b| b.is_ascii_digit())
}

impl std::fmt::Display for EvaluationPace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.replicas > 1 {
            write!(f, "{} replicas of ", self.replicas)?;
        }
        match self.ipus {
            1 => write!(f, "1 IPU")?,
            ipus => write!(f, "{ipus} IPUs")?,
        }
        let micro_batches = match self.micro_batches {
            1 => "1 micro-batch".to_owned(),
            n => format!("{n} micro-batches"),
        };
        match self.pipeline_cycles {
            Some(cycles) => write!(
                f,
                ", {} stages: {micro_batches} a call in {cycles} pipeline cycles",
                self.stages()
            )?,
            None if self.ipus > 1 => {
                write!(f, ", one after the other: {micro_batches} a call")?;
            }
            None => write!(f, ": {micro_batches} a call")?,
        }
        let (cycles, rate) = (grouped(self.cycles), three_digits(self.samples_per_second));
        write!(f, ", {cycles} cycles; predicted: {rate} samples/s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_pipeline_are_told_from_what_they_run() {
        for name in [
            "forward.main",
            "forward.fill.0",
            "forward.pass.2",
            "forward.flush.11",
        ] {
            assert!(is_part(name), "{name}");
        }
        for name in [
            "forward",
            "forward.stage.0.on_1",
            "forward.main.on_0",
            "forward.start.0",
            "micro_batch.main",
        ] {
            assert!(!is_part(name), "{name}");
        }
    }
}
