//! Training: the loop around a compiled optimiser step.
//!
//! The program does the arithmetic of a whole step: all micro-batches, the reduction, the update. The host's part is small: choose
//! the samples, shift the labels, give the learning rate, and write down what comes back.

pub mod host;
pub mod metrics;
pub mod schedule;

use std::time::Instant;

use crate::data::{SampleOrder, TokenBlocks};
use crate::error::Error;
use crate::session::Session;
use host::StepHost;
pub use metrics::{MetricsFile, StepMetrics};
pub use schedule::{LrScheduler, Schedule, Warmup};

/// What a run needs besides the program and the weights.
pub struct TrainingRun<'a> {
    pub blocks: &'a TokenBlocks,
    pub order: SampleOrder,
    pub schedule: Schedule,
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Seed of dropout masks.
    pub seed: u64,
    /// Seconds of one optimiser step on the simulated machine.
    pub simulated_seconds: f64,
}

impl TrainingRun<'_> {
    /// Runs every step of the schedule; `watch` is told of each, and may stop the run with an error.
    ///
    /// # Errors
    /// A loss or gradient that is no finite number stops the run, naming the step.
    pub fn run(
        mut self,
        session: &mut Session,
        watch: &mut dyn FnMut(&StepMetrics) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for step in 0..self.schedule.steps {
            let metrics = self.step(session, step)?;
            let broken = [("loss", metrics.loss), ("gradient norm", metrics.grad_norm)];
            if let Some((what, value)) = broken.into_iter().find(|(_, value)| !value.is_finite()) {
                let hint =
                    "lower --learning_rate, add --warmup_ratio, or clip with --max_grad_norm";
                return Err(
                    Error::failed(format!("the {what} is {value} at step {step}")).with_hint(hint),
                );
            }
            watch(&metrics)?;
        }
        Ok(())
    }

    fn step(&mut self, session: &mut Session, step: u64) -> Result<StepMetrics, Error> {
        let start = Instant::now();
        let learning_rate = self.schedule.rate(step);
        let samples = self.order.step(step);
        let sample_count = samples.len();
        let mut host = StepHost::new(
            self.blocks,
            samples,
            self.batch_size,
            learning_rate,
            self.seed,
            step,
        );
        session.run(&mut host)?;
        let (loss, grad_norm) = host.results().map_err(Error::failed)?;
        let step_seconds = start.elapsed().as_secs_f64();
        Ok(StepMetrics {
            step,
            epoch: (step + 1) as f64 / self.order.steps_per_epoch() as f64,
            loss,
            learning_rate,
            grad_norm,
            step_seconds,
            tokens_per_second: (sample_count * self.blocks.block_size()) as f64 / step_seconds,
            simulated_seconds: self.simulated_seconds,
            simulated_samples_per_second: sample_count as f64 / self.simulated_seconds,
        })
    }
}
