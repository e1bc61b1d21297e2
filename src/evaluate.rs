//! Loss and perplexity of a model over samples, by a compiled forward pass.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use superstep_runtime::{Host, HostError};

use crate::data::TokenBlocks;
use crate::error::Error;
use crate::session::Session;
use crate::train::host::{IGNORED, fill, shifted};
use crate::train::state::rounded;

/// What an evaluation found, with the names of Hugging Face's `eval_results.json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean over all predicted tokens.
    pub eval_loss: f64,
    pub perplexity: f64,
    pub eval_samples: usize,
    /// Wall-clock seconds on this host.
    pub eval_runtime: f64,
    pub eval_samples_per_second: f64,
    pub eval_steps_per_second: f64,
}

impl Evaluation {
    /// What a log entry has of it.
    pub fn log_values(&self) -> [(&'static str, f64); 4] {
        [
            ("eval_loss", self.eval_loss),
            ("eval_runtime", self.eval_runtime),
            ("eval_samples_per_second", self.eval_samples_per_second),
            ("eval_steps_per_second", self.eval_steps_per_second),
        ]
    }
}

/// What the program takes in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Of all replicas.
    pub micro_batches: usize,
}

/// Runs every sample once, in order, as many at a time as a call takes; the last call is filled up with ignored samples.
/// `watch` is told how many samples are done, and may end it with an error.
pub fn evaluate(
    session: &mut Session,
    blocks: &TokenBlocks,
    call: Call,
    watch: &mut dyn FnMut(usize) -> Result<(), Error>,
) -> Result<Evaluation, Error> {
    let start = Instant::now();
    let predictions_per_sample = (blocks.block_size() - 1) as f64;
    let samples_per_call = call.batch_size * call.micro_batches;
    let mut loss_sum = 0.0;
    for first in (0..blocks.len()).step_by(samples_per_call) {
        let last = (first + samples_per_call).min(blocks.len());
        let samples: Vec<u32> = (first as u32..last as u32).collect();
        let mut host = CallHost::new(blocks.gather(&samples)?, blocks.block_size(), call);
        session.run(&mut host)?;
        for &mean in host.losses()? {
            // The program divides by the predictions of a full batch; ignored samples added 0 to its sum.
            loss_sum += f64::from(mean) * call.batch_size as f64 * predictions_per_sample;
        }
        watch(last)?;
    }
    let eval_loss = loss_sum / (blocks.len() as f64 * predictions_per_sample);
    if !eval_loss.is_finite() {
        return Err(Error::failed(format!(
            "the loss is {eval_loss}: the weights or the arithmetic overflowed"
        )));
    }
    let seconds = start.elapsed().as_secs_f64();
    let steps = blocks.len().div_ceil(samples_per_call);
    Ok(Evaluation {
        eval_loss,
        perplexity: eval_loss.exp(),
        eval_samples: blocks.len(),
        eval_runtime: rounded(seconds, 4),
        eval_samples_per_second: rounded(blocks.len() as f64 / seconds, 3),
        eval_steps_per_second: rounded(steps as f64 / seconds, 3),
    })
}

/// The samples of one call, micro-batch by micro-batch; what they do not fill is filled up.
struct CallHost {
    tokens: Vec<i32>,
    block_size: usize,
    call: Call,
    tokens_fed: usize,
    labels_fed: usize,
    losses: Vec<f32>,
}

impl CallHost {
    const fn new(tokens: Vec<i32>, block_size: usize, call: Call) -> CallHost {
        CallHost {
            tokens,
            block_size,
            call,
            tokens_fed: 0,
            labels_fed: 0,
            losses: Vec::new(),
        }
    }

    const fn tokens_per_micro_batch(&self) -> usize {
        self.call.batch_size * self.block_size
    }

    /// The tokens of micro-batch `i` that there are.
    fn micro_batch(&self, i: usize) -> Result<&[i32], HostError> {
        if i >= self.call.micro_batches {
            return Err(HostError::End);
        }
        let chunk = self.tokens.chunks(self.tokens_per_micro_batch()).nth(i);
        Ok(chunk.unwrap_or_default())
    }

    /// The mean losses of the micro-batches that have samples.
    fn losses(&self) -> Result<&[f32], Error> {
        let (expected, found) = (self.call.micro_batches, self.losses.len());
        if found != expected {
            return Err(Error::failed(format!(
                "the program gave {found} losses for {expected} micro-batches"
            )));
        }
        let with_samples = self.tokens.len().div_ceil(self.tokens_per_micro_batch());
        Ok(&self.losses[..with_samples])
    }
}

impl Host for CallHost {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        let whole = self.tokens_per_micro_batch();
        let filled_up = |ids: &[i32], with| std::iter::repeat_n(with, whole - ids.len());
        match stream {
            "tokens" => {
                let ids = self.micro_batch(self.tokens_fed)?;
                fill(into, ids.iter().copied().chain(filled_up(ids, 0)))?;
                self.tokens_fed += 1;
            }
            "labels" => {
                let ids = self.micro_batch(self.labels_fed)?;
                let labels = ids.chunks(self.block_size).flat_map(shifted);
                fill(into, labels.chain(filled_up(ids, IGNORED)))?;
                self.labels_fed += 1;
            }
            _ => return Err(HostError::UnknownStream),
        }
        Ok(())
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        match (stream, <[u8; 4]>::try_from(from)) {
            ("loss", Ok(bytes)) => {
                self.losses.push(f32::from_le_bytes(bytes));
                Ok(())
            }
            ("loss", Err(_)) => Err(HostError::Bytes {
                expected: from.len(),
                found: size_of::<f32>(),
            }),
            _ => Err(HostError::UnknownStream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TokenArray;

    #[test]
    fn a_call_that_is_not_full_is_filled_with_ignored_rows() {
        let array = TokenArray {
            path: "t".into(),
            shape: vec![3, 2],
            ids: vec![1, 2, 3, 4, 5, 6],
        };
        let blocks = array.into_blocks(None, 2, 7).unwrap();
        let call = Call {
            batch_size: 2,
            micro_batches: 3,
        };
        let mut host = CallHost::new(blocks.gather(&[0, 1, 2]).unwrap(), 2, call);
        let mut fed = |stream: &str| -> Result<Vec<i32>, HostError> {
            let mut bytes = [0u8; 16];
            host.feed(stream, &mut bytes)?;
            let words = bytes.chunks_exact(4);
            Ok(words
                .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
                .collect())
        };
        assert_eq!(fed("tokens").unwrap(), [1, 2, 3, 4]);
        assert_eq!(fed("tokens").unwrap(), [5, 6, 0, 0]);
        assert_eq!(fed("labels").unwrap(), [2, IGNORED, 4, IGNORED]);
        assert_eq!(fed("tokens").unwrap(), [0; 4]);
        assert_eq!(fed("labels").unwrap(), [6, IGNORED, IGNORED, IGNORED]);
        assert_eq!(fed("labels").unwrap(), [IGNORED; 4]);
        assert!(matches!(fed("tokens"), Err(HostError::End)));
        assert!(fed("colour").is_err());

        for loss in [1f32, 2.0, 3.0] {
            assert!(host.losses().is_err());
            host.take("loss", &loss.to_le_bytes()).unwrap();
        }
        assert_eq!(host.losses().unwrap(), [1.0, 2.0]);
    }
}
