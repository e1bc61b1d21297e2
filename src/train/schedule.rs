//! The learning rate of each optimiser step, as Hugging Face's schedulers give it.
//!
//! With `N` steps, `W` of them warm-up, step `k = 0 … N − 1` has
//!
//! ```text
//! k < W      base · k / W                                 so step 0 of a warm-up moves nothing
//! linear     base · (N − k) / (N − W)
//! cosine     base · ½ (1 + cos π (k − W) / (N − W))
//! constant   base
//! ```

use serde::{Deserialize, Serialize};

/// The shape of the schedule after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum LrScheduler {
    Linear,
    Cosine,
    #[value(alias = "constant_with_warmup")]
    Constant,
}

/// How long the warm-up is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    Steps(u64),
    /// Of all steps, rounded up.
    Ratio(f64),
}

/// A schedule over a fixed number of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub kind: LrScheduler,
    pub base: f64,
    pub steps: u64,
    pub warmup_steps: u64,
}

impl Schedule {
    pub fn new(kind: LrScheduler, base: f64, steps: u64, warmup: Warmup) -> Schedule {
        let warmup_steps = match warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (ratio * steps as f64).ceil() as u64,
        };
        Schedule {
            kind,
            base,
            steps,
            warmup_steps,
        }
    }

    /// The rate of step `k`, counted from 0.
    pub fn rate(&self, k: u64) -> f64 {
        let (k, n, w) = (k as f64, self.steps as f64, self.warmup_steps as f64);
        if k < w {
            return self.base * (k / w);
        }
        let after_warmup = (n - w).max(1.0);
        self.base
            * match self.kind {
                LrScheduler::Linear => ((n - k) / after_warmup).max(0.0),
                LrScheduler::Cosine => {
                    (0.5 * (1.0 + (std::f64::consts::PI * (k - w) / after_warmup).cos())).max(0.0)
                }
                LrScheduler::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: LrScheduler, steps: u64, warmup: Warmup) -> Vec<f64> {
        let schedule = Schedule::new(kind, 1.0, steps, warmup);
        (0..steps).map(|k| schedule.rate(k)).collect()
    }

    fn close(a: &[f64], b: &[f64]) {
        assert!(
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12),
            "{a:?} {b:?}"
        );
    }

    #[test]
    fn linear_warms_up_and_falls() {
        close(
            &rates(LrScheduler::Linear, 6, Warmup::Steps(2)),
            &[0.0, 0.5, 1.0, 0.75, 0.5, 0.25],
        );
        close(
            &rates(LrScheduler::Linear, 4, Warmup::Steps(0)),
            &[1.0, 0.75, 0.5, 0.25],
        );
    }

    #[test]
    fn cosine_and_constant() {
        let half = 0.5f64.sqrt();
        close(
            &rates(LrScheduler::Cosine, 5, Warmup::Steps(1)),
            &[0.0, 1.0, 0.5 * (1.0 + half), 0.5, 0.5 * (1.0 - half)],
        );
        close(
            &rates(LrScheduler::Constant, 3, Warmup::Steps(2)),
            &[0.0, 0.5, 1.0],
        );
    }

    #[test]
    fn ratios_round_up_and_extremes_stay_finite() {
        assert_eq!(
            Schedule::new(LrScheduler::Linear, 1.0, 11, Warmup::Ratio(0.1)).warmup_steps,
            2
        );
        assert_eq!(
            Schedule::new(LrScheduler::Linear, 1.0, 50, Warmup::Ratio(0.1)).warmup_steps,
            5
        );
        close(
            &rates(LrScheduler::Linear, 2, Warmup::Ratio(1.0)),
            &[0.0, 0.5],
        );
        close(
            &rates(LrScheduler::Cosine, 2, Warmup::Steps(9)),
            &[0.0, 1.0 / 9.0],
        );
    }
}
