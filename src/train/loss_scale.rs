//! The factor that keeps f16 gradients away from zero, and how it follows them when it may.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Beyond these an automatic scale does not go: no half gains from it.
const LEAST: f64 = 1.0 / 16384.0;
const MOST: f64 = 16_777_216.0;

/// How a loss scale follows the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Following {
    /// Not at all: an overflow ends the run.
    Fixed,
    /// Halved at an overflow, whose update is skipped; doubled after so many good updates in a row.
    Automatic { growth_interval: u64 },
}

/// The loss scale of the next update, and how it came to be. Part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    pub value: f64,
    /// Updates since the last change.
    pub good_updates: u64,
    /// Updates skipped, over the whole run.
    pub overflows: u64,
}

impl LossScale {
    pub const fn starting_at(value: f64) -> LossScale {
        LossScale {
            value,
            good_updates: 0,
            overflows: 0,
        }
    }

    /// Takes note of an update: whether its gradient was finite. Returns whether it was skipped.
    ///
    /// # Errors
    /// A gradient that overflows although the scale is as small as it gets.
    pub fn observe(&mut self, finite: bool, following: Following) -> Result<bool, Error> {
        let Following::Automatic { growth_interval } = following else {
            return Ok(false);
        };
        if !finite {
            self.overflows += 1;
            self.good_updates = 0;
            self.value /= 2.0;
            if self.value < LEAST {
                let message =
                    format!("the gradient is not finite even with a loss scale of {LEAST:e}");
                return Err(Error::failed(message));
            }
            return Ok(true);
        }
        self.good_updates += 1;
        if self.good_updates == growth_interval && self.value * 2.0 <= MOST {
            self.value *= 2.0;
            self.good_updates = 0;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_scale_stays() {
        let mut scale = LossScale::starting_at(64.0);
        for finite in [true, false] {
            assert!(!scale.observe(finite, Following::Fixed).unwrap());
        }
        assert_eq!(scale, LossScale::starting_at(64.0));
    }

    #[test]
    fn an_automatic_scale_is_halved_and_doubled() {
        let following = Following::Automatic { growth_interval: 3 };
        let mut scale = LossScale::starting_at(64.0);
        let mut values = Vec::new();
        for finite in [true, true, false, true, true, true, true, false, false] {
            let skipped = scale.observe(finite, following).unwrap();
            assert_eq!(skipped, !finite);
            values.push(scale.value);
        }
        assert_eq!(
            values,
            [64.0, 64.0, 32.0, 32.0, 32.0, 64.0, 64.0, 32.0, 16.0]
        );
        assert_eq!(scale.overflows, 3);
    }

    #[test]
    fn a_scale_ends_somewhere() {
        let following = Following::Automatic { growth_interval: 1 };
        let mut scale = LossScale::starting_at(MOST);
        scale.observe(true, following).unwrap();
        assert_eq!(scale.value, MOST);
        let mut scale = LossScale::starting_at(LEAST * 2.0);
        scale.observe(false, following).unwrap();
        assert!(scale.observe(false, following).is_err());
    }
}
