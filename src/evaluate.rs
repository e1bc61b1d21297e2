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

/// Runs every sample once, in order, `batch_size` at a time; a last batch that is not full is filled with ignored samples.
/// `watch` is told how many samples are done.
pub fn evaluate(
    session: &mut Session,
    blocks: &TokenBlocks,
    batch_size: usize,
    watch: &mut dyn FnMut(usize),
) -> Result<Evaluation, Error> {
    let start = Instant::now();
    let predictions_per_sample = (blocks.block_size() - 1) as f64;
    let mut loss_sum = 0.0;
    for first in (0..blocks.len()).step_by(batch_size) {
        let last = (first + batch_size).min(blocks.len());
        let samples: Vec<u32> = (first as u32..last as u32).collect();
        let mut host = BatchHost {
            tokens: blocks.gather(&samples)?,
            block_size: blocks.block_size(),
            batch_size,
            loss: None,
        };
        session.run(&mut host)?;
        let mean = host
            .loss
            .ok_or_else(|| Error::failed("the program gave no loss"))?;
        // The program divides by the predictions of a full batch; ignored samples added 0 to its sum.
        loss_sum += f64::from(mean) * batch_size as f64 * predictions_per_sample;
        watch(last);
    }
    let eval_loss = loss_sum / (blocks.len() as f64 * predictions_per_sample);
    if !eval_loss.is_finite() {
        return Err(Error::failed(format!(
            "the loss is {eval_loss}: the weights or the arithmetic overflowed"
        )));
    }
    let seconds = start.elapsed().as_secs_f64();
    let steps = blocks.len().div_ceil(batch_size);
    Ok(Evaluation {
        eval_loss,
        perplexity: eval_loss.exp(),
        eval_samples: blocks.len(),
        eval_runtime: rounded(seconds, 4),
        eval_samples_per_second: rounded(blocks.len() as f64 / seconds, 3),
        eval_steps_per_second: rounded(steps as f64 / seconds, 3),
    })
}

/// One batch of samples; rows beyond them are filled up.
struct BatchHost {
    tokens: Vec<i32>,
    block_size: usize,
    batch_size: usize,
    loss: Option<f32>,
}

impl Host for BatchHost {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        let filled_up = self.batch_size * self.block_size - self.tokens.len();
        match stream {
            "tokens" => {
                let padding = std::iter::repeat_n(0, filled_up);
                fill(into, self.tokens.iter().copied().chain(padding))
            }
            "labels" => {
                let padding = std::iter::repeat_n(IGNORED, filled_up);
                let labels = self.tokens.chunks(self.block_size).flat_map(shifted);
                fill(into, labels.chain(padding))
            }
            _ => Err(HostError::UnknownStream),
        }
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        match (stream, <[u8; 4]>::try_from(from)) {
            ("loss", Ok(bytes)) => {
                self.loss = Some(f32::from_le_bytes(bytes));
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
    fn a_batch_that_is_not_full_is_filled_with_ignored_rows() {
        let array = TokenArray {
            path: "t".into(),
            shape: vec![3, 2],
            ids: vec![1, 2, 3, 4, 5, 6],
        };
        let blocks = array.into_blocks(None, 2, 7).unwrap();
        let mut host = BatchHost {
            tokens: blocks.gather(&[2]).unwrap(),
            block_size: 2,
            batch_size: 2,
            loss: None,
        };
        let mut bytes = [0u8; 16];
        let words = |bytes: &[u8]| -> Vec<i32> {
            bytes
                .chunks_exact(4)
                .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
                .collect()
        };
        host.feed("tokens", &mut bytes).unwrap();
        assert_eq!(words(&bytes), [5, 6, 0, 0]);
        host.feed("labels", &mut bytes).unwrap();
        assert_eq!(words(&bytes), [6, IGNORED, IGNORED, IGNORED]);
    }
}
