//! Continuing a prompt: one compiled forward pass of fixed length per token.
//!
//! The text stands at the left, padding at the right; attention is causal, so the logits of the last real position do not see the
//! padding. When the text outgrows the length, its oldest tokens fall out of sight.

pub mod sampling;

use superstep_runtime::{Host, HostError};

use crate::error::Error;
use crate::session::Session;
use crate::train::host::fill;
pub use sampling::Sampling;

/// How far to go and how to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generation {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    pub seed: u64,
    /// Ends the text when chosen.
    pub stop: Option<u32>,
    /// Positions of the compiled graph.
    pub length: usize,
}

/// Continues `prompt` (at least one token); `watch` is told of every token as it comes. Returns the new tokens.
pub fn generate(
    session: &mut Session,
    prompt: &[u32],
    generation: &Generation,
    watch: &mut dyn FnMut(u32),
) -> Result<Vec<u32>, Error> {
    let mut text = prompt.to_vec();
    for i in 0..generation.max_new_tokens {
        let seen = &text[text.len().saturating_sub(generation.length)..];
        let mut host = NextTokenHost {
            seen,
            length: generation.length,
            logits: Vec::new(),
        };
        session.run(&mut host)?;
        if host.logits.iter().any(|logit| logit.is_nan()) || host.logits.is_empty() {
            return Err(Error::failed(format!(
                "the logits of token {i} are no numbers: the weights or the arithmetic overflowed"
            )));
        }
        let token = generation
            .sampling
            .choose(&host.logits, generation.seed, i as u64);
        if Some(token) == generation.stop {
            break;
        }
        text.push(token);
        watch(token);
    }
    Ok(text.split_off(prompt.len()))
}

struct NextTokenHost<'a> {
    seen: &'a [u32],
    length: usize,
    logits: Vec<f32>,
}

impl Host for NextTokenHost<'_> {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        match stream {
            "tokens" => {
                let padding = std::iter::repeat_n(0, self.length - self.seen.len());
                fill(into, self.seen.iter().map(|&id| id as i32).chain(padding))
            }
            "positions" => fill(into, std::iter::once(self.seen.len() as i32 - 1)),
            _ => Err(HostError::UnknownStream),
        }
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        if stream != "logits" {
            return Err(HostError::UnknownStream);
        }
        self.logits = from
            .chunks_exact(4)
            .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        Ok(())
    }
}
