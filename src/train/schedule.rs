//! The learning rate of each step, as Hugging Face's schedulers give it.
//!
//! With `N` steps, `W` of them warm-up, step `k = 0 … N − 1` has
//!
//! ```text
//! k < W                  base · k / W                     so step 0 of a warm-up moves nothing; `constant` has no warm-up
//! linear                 base · (N − k) / (N − W)
//! cosine                 base · ½ (1 + cos π p)           p = (k − W) / (N − W)
//! cosine_with_restarts   the same: one cycle is no restart
//! polynomial             (base − end) (1 − p) + end       end = 1e-7, power 1
//! inverse_sqrt           base / √((k + T − W) / T)        T = W, or 10,000 without a warm-up
//! constant               base                             from the first step on
//! constant_with_warmup   base
//! ```

use serde::{Deserialize, Serialize};

/// Where the polynomial decay ends.
const POLYNOMIAL_END: f64 = 1e-7;
/// The time scale of the inverse square root where no warm-up gives one.
const INVERSE_SQRT_STEPS: f64 = 10_000.0;

/// The shape of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum LrScheduler {
    Linear,
    Cosine,
    CosineWithRestarts,
    Polynomial,
    InverseSqrt,
    Constant,
    ConstantWithWarmup,
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
            _ if kind == LrScheduler::Constant => 0,
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
        let passed = (k - w) / after_warmup;
        match self.kind {
            LrScheduler::Linear => self.base * ((n - k) / after_warmup).max(0.0),
            LrScheduler::Cosine | LrScheduler::CosineWithRestarts => {
                self.base * (0.5 * (1.0 + (std::f64::consts::PI * passed).cos())).max(0.0)
            }
            LrScheduler::Polynomial => {
                (self.base - POLYNOMIAL_END) * (1.0 - passed).max(0.0) + POLYNOMIAL_END
            }
            LrScheduler::InverseSqrt => {
                let scale = if w > 0.0 { w } else { INVERSE_SQRT_STEPS };
                self.base / ((k + scale - w) / scale).sqrt()
            }
            LrScheduler::Constant | LrScheduler::ConstantWithWarmup => self.base,
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
        for kind in [LrScheduler::Cosine, LrScheduler::CosineWithRestarts] {
            close(
                &rates(kind, 5, Warmup::Steps(1)),
                &[0.0, 1.0, 0.5 * (1.0 + half), 0.5, 0.5 * (1.0 - half)],
            );
        }
        close(
            &rates(LrScheduler::ConstantWithWarmup, 3, Warmup::Steps(2)),
            &[0.0, 0.5, 1.0],
        );
        close(
            &rates(LrScheduler::Constant, 3, Warmup::Steps(2)),
            &[1.0, 1.0, 1.0],
        );
    }

    #[test]
    fn polynomial_and_inverse_square_root() {
        let end = POLYNOMIAL_END;
        close(
            &rates(LrScheduler::Polynomial, 3, Warmup::Steps(1)),
            &[0.0, 1.0, 0.5 * (1.0 - end) + end],
        );
        close(
            &rates(LrScheduler::InverseSqrt, 5, Warmup::Steps(2)),
            &[0.0, 0.5, 1.0, (2.0f64 / 3.0).sqrt(), 0.5f64.sqrt()],
        );
        let late = rates(LrScheduler::InverseSqrt, 2, Warmup::Steps(0));
        close(&late, &[1.0, (1e4f64 / 10_001.0).sqrt()]);
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
