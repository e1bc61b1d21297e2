//! When a run logs, evaluates and saves.

/// Every how many steps what is done; steps are counted from 1, as in logs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cadence {
    pub logging_steps: u64,
    /// The first step is logged whatever its number.
    pub logging_first_step: bool,
    /// Absent: only after the last step, if at all.
    pub eval_steps: Option<u64>,
    /// Absent: no checkpoints but the one of an interrupted run.
    pub save_steps: Option<u64>,
    /// Checkpoints that are kept; absent: all.
    pub save_total_limit: Option<usize>,
    /// Evaluations in a row without a lower loss after which the run stops.
    pub early_stopping_patience: Option<u64>,
    /// By how much a loss must be lower to count.
    pub early_stopping_threshold: f64,
}

impl Cadence {
    pub fn logs(&self, step: u64) -> bool {
        is_due(Some(self.logging_steps), step) || (self.logging_first_step && step == 1)
    }

    pub fn evaluates(&self, step: u64) -> bool {
        is_due(self.eval_steps, step)
    }

    pub fn saves(&self, step: u64) -> bool {
        is_due(self.save_steps, step)
    }
}

fn is_due(every: Option<u64>, step: u64) -> bool {
    every.is_some_and(|every| every > 0 && step.is_multiple_of(every))
}
