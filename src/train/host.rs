//! The host's side of one optimiser step: what the program's streams ask for and give.

use superstep_ir::random::Stream;
use superstep_runtime::{Host, HostError};

use crate::data::{DataError, TokenBlocks};

/// The stream of seeds of stochastic rounding.
const ROUNDING_SEED: &str = "rounding_seed";

/// A step asks for fewer seeds than two to the power of this: one a micro-batch or cycle of a pipeline, and one for the update.
const SEEDS_OF_A_STEP_BITS: u32 = 33;

/// The label of a position that predicts nothing.
pub const IGNORED: i32 = -100;

/// Feeds the micro-batches of one step and collects its losses. Every stream counts its own micro-batches, so the program may read
/// tokens and labels at different times.
pub struct StepHost {
    /// The tokens of all samples of the step, micro-batch after micro-batch.
    tokens: Vec<i32>,
    block_size: usize,
    /// Tokens of a micro-batch.
    micro_batch: usize,
    scalars: StepScalars,
    tokens_fed: usize,
    labels_fed: usize,
    seeds_fed: u64,
    rounding_seeds_fed: u64,
    losses: Vec<f32>,
    grad_norm: Option<f32>,
}

/// What a step is told besides its samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepScalars {
    pub learning_rate: f64,
    pub loss_scale: f64,
    /// Replicas that are fed in turn; all get the same seeds of rounding, so that their weights stay equal.
    pub replicas: u32,
    /// Seed of the run; what is random in a step is a function of it, of the step, and of how often it was asked for.
    pub seed: u64,
    pub step: u64,
}

impl StepHost {
    pub fn new(
        blocks: &TokenBlocks,
        samples: &[u32],
        batch_size: usize,
        scalars: StepScalars,
    ) -> Result<StepHost, DataError> {
        Ok(StepHost {
            tokens: blocks.gather(samples)?,
            block_size: blocks.block_size(),
            micro_batch: batch_size * blocks.block_size(),
            scalars,
            tokens_fed: 0,
            labels_fed: 0,
            seeds_fed: 0,
            rounding_seeds_fed: 0,
            losses: Vec::new(),
            grad_norm: None,
        })
    }

    /// The losses of the micro-batches and the gradient norm, or what the program failed to deliver.
    pub fn results(&self) -> Result<(&[f32], f64), String> {
        let expected = self.tokens.len() / self.micro_batch;
        if self.losses.len() != expected {
            return Err(format!(
                "the program gave {} losses for {expected} micro-batches",
                self.losses.len()
            ));
        }
        let grad_norm = self.grad_norm.ok_or("the program gave no gradient norm")?;
        Ok((&self.losses, f64::from(grad_norm)))
    }

    /// The tokens of micro-batch `i`.
    fn micro_batch(&self, i: usize) -> Result<&[i32], HostError> {
        let mut all = self.tokens.chunks_exact(self.micro_batch);
        all.nth(i).ok_or(HostError::End)
    }

    fn fill_seed(&self, what: &str, block: u64, into: &mut [u8]) -> Result<(), HostError> {
        let words = Stream::named(self.scalars.seed, what).block(block);
        fill(into, [words[0], words[1]].into_iter())
    }

    fn micro_batches(&self) -> u64 {
        (self.tokens.len() / self.micro_batch) as u64
    }
}

impl Host for StepHost {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        match stream {
            "tokens" => {
                fill(into, self.micro_batch(self.tokens_fed)?.iter().copied())?;
                self.tokens_fed += 1;
                Ok(())
            }
            "labels" => {
                let samples = self.micro_batch(self.labels_fed)?;
                fill(into, samples.chunks(self.block_size).flat_map(shifted))?;
                self.labels_fed += 1;
                Ok(())
            }
            "seed" => {
                // A function of (seed, step, micro-batch), so that a step can be repeated on its own.
                let block = self.scalars.step * self.micro_batches() + self.seeds_fed;
                self.seeds_fed += 1;
                self.fill_seed("dropout", block, into)
            }
            ROUNDING_SEED => {
                let asked = self.rounding_seeds_fed / u64::from(self.scalars.replicas.max(1));
                let block = (self.scalars.step << SEEDS_OF_A_STEP_BITS) + asked;
                self.rounding_seeds_fed += 1;
                self.fill_seed("rounding", block, into)
            }
            "learning_rate" => fill(into, std::iter::once(self.scalars.learning_rate as f32)),
            "loss_scale" => fill(into, std::iter::once(self.scalars.loss_scale as f32)),
            _ => Err(HostError::UnknownStream),
        }
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        let scalar = from.try_into().map(f32::from_le_bytes);
        let scalar = scalar.map_err(|_| HostError::Bytes {
            expected: from.len(),
            found: size_of::<f32>(),
        })?;
        match stream {
            "loss" => self.losses.push(scalar),
            "grad_norm" => self.grad_norm = Some(scalar),
            _ => return Err(HostError::UnknownStream),
        }
        Ok(())
    }
}

/// Labels of a sample: each position's successor; the last has none.
pub fn shifted(sample: &[i32]) -> impl Iterator<Item = i32> + '_ {
    sample
        .iter()
        .skip(1)
        .copied()
        .chain(std::iter::once(IGNORED))
}

/// Writes 32-bit values as the stream's bytes; the counts must agree.
pub fn fill<T: bytemuck::NoUninit>(
    into: &mut [u8],
    values: impl Iterator<Item = T>,
) -> Result<(), HostError> {
    let width = size_of::<T>();
    let expected = into.len();
    let mut found = 0;
    for value in values {
        if let Some(slot) = into.get_mut(found..found + width) {
            slot.copy_from_slice(bytemuck::bytes_of(&value));
        }
        found += width;
    }
    if found == expected {
        Ok(())
    } else {
        Err(HostError::Bytes { expected, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TokenArray;

    fn blocks() -> TokenBlocks {
        let array = TokenArray {
            path: "t".into(),
            shape: vec![4, 3],
            ids: (0..12).collect(),
        };
        array.into_blocks(None, 3, 12).unwrap()
    }

    fn scalars(step: u64) -> StepScalars {
        StepScalars {
            learning_rate: 0.5,
            loss_scale: 1.0,
            replicas: 1,
            seed: 7,
            step,
        }
    }

    fn words(bytes: &[u8]) -> Vec<i32> {
        bytes
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn micro_batches_come_in_order_and_labels_are_shifted() {
        let blocks = blocks();
        let mut host = StepHost::new(&blocks, &[3, 0, 1, 2], 2, scalars(0)).unwrap();
        let mut bytes = [0u8; 24];
        host.feed("tokens", &mut bytes).unwrap();
        assert_eq!(words(&bytes), [9, 10, 11, 0, 1, 2]);
        host.feed("tokens", &mut bytes).unwrap();
        assert_eq!(words(&bytes), [3, 4, 5, 6, 7, 8]);
        host.feed("labels", &mut bytes).unwrap();
        assert_eq!(words(&bytes), [10, 11, IGNORED, 1, 2, IGNORED]);
        assert!(matches!(
            host.feed("tokens", &mut bytes),
            Err(HostError::End)
        ));
        assert!(matches!(
            host.feed("labels", &mut [0; 4]),
            Err(HostError::Bytes {
                expected: 4,
                found: 24
            })
        ));
        assert!(host.feed("colour", &mut bytes).is_err());
    }

    #[test]
    fn losses_of_all_micro_batches_are_needed() {
        let blocks = blocks();
        let mut host = StepHost::new(&blocks, &[0, 1], 1, scalars(0)).unwrap();
        host.take("loss", &1f32.to_le_bytes()).unwrap();
        assert!(host.results().is_err());
        host.take("loss", &2f32.to_le_bytes()).unwrap();
        host.take("grad_norm", &3f32.to_le_bytes()).unwrap();
        assert_eq!(host.results().unwrap(), (&[1.0, 2.0][..], 3.0));
    }

    #[test]
    fn replicas_round_with_the_same_seeds_and_micro_batches_with_others() {
        let blocks = blocks();
        let two = StepScalars {
            replicas: 2,
            ..scalars(3)
        };
        let mut host = StepHost::new(&blocks, &[0, 1], 1, two).unwrap();
        let mut next = || {
            let mut bytes = [0u8; 8];
            host.feed(ROUNDING_SEED, &mut bytes).unwrap();
            bytes
        };
        let seeds = [next(), next(), next(), next()];
        assert!(seeds[0] == seeds[1] && seeds[2] == seeds[3] && seeds[1] != seeds[2]);
    }

    #[test]
    fn dropout_seeds_are_those_of_the_step_and_micro_batch() {
        let blocks = blocks();
        let seeds = |step: u64| -> Vec<[u8; 8]> {
            let mut host = StepHost::new(&blocks, &[0, 1], 1, scalars(step)).unwrap();
            let mut next = || {
                let mut bytes = [0u8; 8];
                host.feed("seed", &mut bytes).unwrap();
                bytes
            };
            vec![next(), next()]
        };
        let all = [seeds(0), seeds(1)].concat();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(seeds(1), all[2..]);
    }
}
