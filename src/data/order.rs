//! The order in which samples are used: as they come, or shuffled anew in every epoch.
//!
//! The shuffle is a function of (seed, epoch) alone, so a run can be continued at any step without replaying those before it.

use superstep_ir::random::Stream;

/// Which sample comes when. An epoch is a whole number of optimiser steps; samples that do not fill a last step are left out of it.
#[derive(Clone, Debug)]
pub struct SampleOrder {
    samples: usize,
    samples_per_step: usize,
    seed: Option<u64>,
    /// The epoch that `order` is for.
    epoch: u64,
    order: Vec<u32>,
}

impl SampleOrder {
    /// `seed: None` keeps the samples in order. `None` when they do not fill a single step.
    pub fn new(samples: usize, samples_per_step: usize, seed: Option<u64>) -> Option<SampleOrder> {
        if samples_per_step == 0 || samples < samples_per_step || u32::try_from(samples).is_err() {
            return None;
        }
        let order = permutation(samples, seed, 0);
        Some(SampleOrder {
            samples,
            samples_per_step,
            seed,
            epoch: 0,
            order,
        })
    }

    /// Optimiser steps in an epoch, at least one.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.samples / self.samples_per_step) as u64
    }

    /// Samples of a step.
    pub fn samples_per_step(&self) -> usize {
        self.samples_per_step
    }

    /// Samples that no step of an epoch uses.
    pub fn left_out(&self) -> usize {
        self.samples % self.samples_per_step
    }

    /// The samples of optimiser step `step`, counted from 0 over all epochs: micro-batch after micro-batch.
    pub fn step(&mut self, step: u64) -> &[u32] {
        let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        if epoch != self.epoch {
            self.order = permutation(self.samples, self.seed, epoch);
            self.epoch = epoch;
        }
        let start = within as usize * self.samples_per_step;
        &self.order[start..start + self.samples_per_step]
    }
}

/// Fisher–Yates with counter-based draws.
fn permutation(samples: usize, seed: Option<u64>, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..samples as u32).collect();
    if let Some(seed) = seed {
        let draws = Stream::named(seed, &format!("shuffle of epoch {epoch}"));
        for i in (1..samples).rev() {
            let pick = (draws.uniform_f64(i as u64) * (i + 1) as f64) as usize;
            order.swap(i, pick.min(i));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch_of(order: &mut SampleOrder, epoch: u64) -> Vec<u32> {
        let steps = order.steps_per_epoch();
        (0..steps)
            .flat_map(|i| order.step(epoch * steps + i).to_vec())
            .collect()
    }

    #[test]
    fn in_order_repeats_and_drops_the_remainder() {
        let mut order = SampleOrder::new(7, 3, None).unwrap();
        assert_eq!((order.steps_per_epoch(), order.left_out()), (2, 1));
        assert_eq!(order.step(1), [3, 4, 5]);
        assert_eq!(order.step(2), [0, 1, 2]);
        assert!(SampleOrder::new(2, 3, None).is_none());
    }

    #[test]
    fn every_epoch_is_another_permutation_and_needs_no_history() {
        let mut order = SampleOrder::new(24, 4, Some(42)).unwrap();
        let (first, second) = (epoch_of(&mut order, 0), epoch_of(&mut order, 1));
        assert_ne!(first, second);
        for mut epoch in [first.clone(), second.clone()] {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..24).collect::<Vec<u32>>());
        }
        let mut again = SampleOrder::new(24, 4, Some(42)).unwrap();
        assert_eq!(epoch_of(&mut again, 1), second);
        assert_eq!(epoch_of(&mut again, 0), first);
        assert_ne!(
            epoch_of(&mut SampleOrder::new(24, 4, Some(43)).unwrap(), 0),
            first
        );
    }
}
