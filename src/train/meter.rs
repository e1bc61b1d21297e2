//! Sums over the steps of a run, from which its logs and results are made. They are part of a checkpoint: a continued run logs what an
//! uninterrupted one would have.

use serde::{Deserialize, Serialize};

/// What has been measured so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meter {
    /// Sum of the losses of all steps.
    pub loss_sum: f64,
    /// The same since the last log entry.
    pub loss_since_log: f64,
    pub steps_since_log: u64,
    /// Evaluations in a row that brought no lower loss.
    pub evaluations_without_gain: u64,
    /// Wall-clock seconds of training, over all parts of the run.
    pub seconds: f64,
}

impl Meter {
    pub fn step(&mut self, loss: f64, seconds: f64) {
        self.loss_sum += loss;
        self.loss_since_log += loss;
        self.steps_since_log += 1;
        self.seconds += seconds;
    }

    /// The mean loss since the last call.
    pub fn take_mean(&mut self) -> f64 {
        let mean = self.loss_since_log / self.steps_since_log.max(1) as f64;
        self.loss_since_log = 0.0;
        self.steps_since_log = 0;
        mean
    }
}
