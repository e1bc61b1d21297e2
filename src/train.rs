//! Training: the loop around a compiled optimiser step.
//!
//! The program does the arithmetic of a whole step: all micro-batches, the reduction, the update. The host's part is small: choose
//! the samples, shift the labels, give the learning rate, and write down what comes back.

pub mod cadence;
pub mod checkpoint;
pub mod events;
pub mod host;
pub mod interrupt;
pub mod loss_scale;
pub mod meter;
pub mod metrics;
pub mod results;
pub mod schedule;
pub mod state;
pub mod trainer;

use std::time::Instant;

use crate::data::{SampleOrder, TokenBlocks};
use crate::error::Error;
use crate::ipu_config::OutputMode;
use crate::session::Session;
pub use cadence::Cadence;
use host::{StepHost, StepScalars};
pub use interrupt::Interrupt;
pub use loss_scale::{Following, LossScale};
pub use meter::Meter;
pub use metrics::{MetricsFile, StepMetrics};
pub use schedule::{LrScheduler, Schedule, Warmup};
pub use state::TrainerState;
pub use trainer::{Companion, Ending, Records, Trainer};

/// What a run needs besides the program and the weights.
pub struct TrainingRun<'a> {
    pub blocks: &'a TokenBlocks,
    pub order: SampleOrder,
    pub schedule: Schedule,
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Weight updates of a step.
    pub device_iterations: usize,
    /// Seed of dropout masks and stochastic rounding.
    pub seed: u64,
    pub replicas: u32,
    /// Of the next update, where the program asks for one.
    pub loss_scale: LossScale,
    pub following: Following,
    /// Which losses a step reports.
    pub output_mode: OutputMode,
    /// Seconds of one optimiser step on the simulated machine.
    pub simulated_seconds: f64,
}

impl TrainingRun<'_> {
    /// Runs every step of the schedule; `watch` is told of each weight update.
    ///
    /// # Errors
    /// A loss or gradient that is no finite number stops the run, naming the step.
    pub fn run(
        mut self,
        session: &mut Session,
        watch: &mut dyn FnMut(&StepMetrics),
    ) -> Result<(), Error> {
        for step in 0..self.schedule.steps {
            self.step(session, step)?.iter().for_each(&mut *watch);
        }
        Ok(())
    }

    /// Tokens of a step.
    pub fn tokens_per_step(&self) -> u64 {
        (self.order.samples_per_step() * self.blocks.block_size()) as u64
    }

    /// Runs step `step`: all its weight updates, with one learning rate.
    pub fn step(&mut self, session: &mut Session, step: u64) -> Result<Vec<StepMetrics>, Error> {
        let samples = self.order.step(step).to_vec();
        let per_update = samples.len() / self.device_iterations;
        let first = step * self.device_iterations as u64;
        let updates = (first..).zip(samples.chunks_exact(per_update));
        updates
            .map(|(update, samples)| {
                let mut metrics = self.update(session, step, update, samples)?;
                let finite = metrics.grad_norm.is_finite();
                metrics.overflow = self.loss_scale.observe(finite, self.following)?;
                check_finite(&metrics, self.device_iterations)?;
                Ok(metrics)
            })
            .collect()
    }

    fn update(
        &self,
        session: &mut Session,
        step: u64,
        update: u64,
        samples: &[u32],
    ) -> Result<StepMetrics, Error> {
        let start = Instant::now();
        let learning_rate = self.schedule.rate(step);
        let scalars = StepScalars {
            learning_rate,
            loss_scale: self.loss_scale.value,
            replicas: self.replicas,
            seed: self.seed,
            step: update,
        };
        let mut host = StepHost::new(self.blocks, samples, self.batch_size, scalars)?;
        session.run(&mut host)?;
        let (losses, grad_norm) = host.results().map_err(Error::failed)?;
        let loss = reported(losses, self.output_mode, self.replicas as usize);
        let step_seconds = start.elapsed().as_secs_f64();
        let updates_per_epoch = self.order.steps_per_epoch() * self.device_iterations as u64;
        Ok(StepMetrics {
            step: update,
            epoch: (update + 1) as f64 / updates_per_epoch as f64,
            loss,
            learning_rate,
            grad_norm,
            loss_scale: self.loss_scale.value,
            overflow: false,
            step_seconds,
            tokens_per_second: (samples.len() * self.blocks.block_size()) as f64 / step_seconds,
            simulated_seconds: self.simulated_seconds,
            simulated_samples_per_second: samples.len() as f64 / self.simulated_seconds,
        })
    }
}

/// The loss that an update reports, from those of all micro-batches, which the replicas take in turn.
fn reported(losses: &[f32], mode: OutputMode, replicas: usize) -> f64 {
    let sum = |losses: &[f32]| losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
    match mode {
        OutputMode::All => sum(losses) / losses.len() as f64,
        OutputMode::Sum => sum(losses) / replicas.max(1) as f64,
        OutputMode::Final => {
            let last = &losses[losses.len().saturating_sub(replicas.max(1))..];
            sum(last) / last.len() as f64
        }
    }
}

fn check_finite(metrics: &StepMetrics, updates_per_step: usize) -> Result<(), Error> {
    let at = match updates_per_step {
        1 => format!("step {}", metrics.step),
        n => format!(
            "step {} (weight update {})",
            metrics.step / n as u64,
            metrics.step
        ),
    };
    if !metrics.loss.is_finite() {
        let message = format!("the loss is {} at {at}", metrics.loss);
        let hint = "lower --learning_rate, add --warmup_ratio, or clip with --max_grad_norm";
        return Err(Error::failed(message).with_hint(hint));
    }
    if !metrics.grad_norm.is_finite() && !metrics.overflow {
        let message = format!("the gradient norm is {} at {at}", metrics.grad_norm);
        let hint = match metrics.loss_scale {
            1.0 => "lower --learning_rate, add --warmup_ratio, or clip with --max_grad_norm",
            _ => "lower --loss_scaling, or give --auto_loss_scaling",
        };
        return Err(Error::failed(message).with_hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reports_the_losses_it_is_asked_for() {
        // Two replicas, two micro-batches each.
        let losses = [1.0, 2.0, 4.0, 5.0];
        assert_eq!(reported(&losses, OutputMode::All, 2), 3.0);
        assert_eq!(reported(&losses, OutputMode::Sum, 2), 6.0);
        assert_eq!(reported(&losses, OutputMode::Final, 2), 4.5);
    }
}
