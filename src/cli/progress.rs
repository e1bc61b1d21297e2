//! How a training run looks while it runs: a bar at a terminal, a line every so often for logs.

use indicatif::{ProgressBar, ProgressStyle};

use super::output::say;
use crate::train::StepMetrics;

/// Lines that a run logs when it is not told how often.
const LINES_DEFAULT: u64 = 10;

/// Bar and log lines of one run.
pub(super) struct Progress {
    bar: ProgressBar,
    steps: u64,
    logging_steps: u64,
    header_is_due: bool,
}

impl Progress {
    /// For a run of `steps` weight updates that begins with update `first`.
    pub(super) fn starting_at(first: u64, steps: u64, logging_steps: Option<u64>) -> Progress {
        let progress = Progress::new(steps, logging_steps);
        progress.bar.set_position(first);
        progress
    }

    /// Prints a line between bar and log.
    pub(super) fn say(&self, text: impl std::fmt::Display) {
        self.bar.suspend(|| say(text));
    }

    pub(super) fn new(steps: u64, logging_steps: Option<u64>) -> Progress {
        // Hidden by itself when stderr is no terminal; cut to the width of the one it is.
        let bar = ProgressBar::new(steps);
        let template = "{bar:20} {pos}/{len}  {eta} left  {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let logging_steps = logging_steps
            .unwrap_or(steps.div_ceil(LINES_DEFAULT))
            .max(1);
        Progress {
            bar,
            steps,
            logging_steps,
            header_is_due: true,
        }
    }

    pub(super) fn step(&mut self, metrics: &StepMetrics) {
        self.bar.set_message(format!(
            "loss {:.4}  lr {:.1e}  here {} tokens/s  simulated {:.1} samples/s",
            metrics.loss,
            metrics.learning_rate,
            rounded(metrics.tokens_per_second),
            metrics.simulated_samples_per_second,
        ));
        self.bar.inc(1);
        let is_last = metrics.step + 1 == self.steps;
        if metrics.step.is_multiple_of(self.logging_steps) || is_last {
            let header_is_due = std::mem::take(&mut self.header_is_due);
            self.bar.suspend(|| {
                if header_is_due {
                    say("  step    epoch      loss   learning rate   gradient norm   tokens/s here   samples/s simulated");
                }
                say(line(metrics));
            });
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(metrics: &StepMetrics) -> String {
    format!(
        "{:6}  {:7.3}  {:8.4}   {:>13}   {:13.4}   {:>13}   {:19.1}",
        metrics.step,
        metrics.epoch,
        metrics.loss,
        format!("{:.3e}", metrics.learning_rate),
        metrics.grad_norm,
        rounded(metrics.tokens_per_second),
        metrics.simulated_samples_per_second,
    )
}

/// Three significant digits are plenty for a rate.
fn rounded(rate: f64) -> String {
    if rate < 100.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}
