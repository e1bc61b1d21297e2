//! The host's side of the two parts of a generation: token ids and positions in, logits out.

use superstep_runtime::{Host, HostError};

use crate::frontend::model::CacheShape;
use crate::train::host::fill;

/// Feeds prompts, each padded at its right; sequences that there are no prompts for are one padding token.
pub(super) struct PrefillHost {
    tokens: Vec<i32>,
    last: Vec<i32>,
    pub(super) logits: Vec<f32>,
}

impl PrefillHost {
    pub(super) fn new(prompts: &[&[u32]], shape: CacheShape) -> PrefillHost {
        let (mut tokens, mut last) = (Vec::new(), Vec::new());
        for sequence in 0..shape.batch {
            let prompt = prompts.get(sequence).copied().unwrap_or(&[]);
            let start = tokens.len();
            tokens.extend(prompt.iter().map(|&id| id as i32));
            tokens.resize(start + shape.prompt, 0);
            last.push((start + prompt.len().max(1) - 1) as i32);
        }
        PrefillHost {
            tokens,
            last,
            logits: Vec::new(),
        }
    }
}

impl Host for PrefillHost {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        match stream {
            "tokens" => fill(into, self.tokens.iter().copied()),
            "last" => fill(into, self.last.iter().copied()),
            _ => Err(HostError::UnknownStream),
        }
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        take_logits(stream, from, &mut self.logits)
    }
}

/// Feeds one token of each sequence and its position.
pub(super) struct DecodeHost {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    pub(super) logits: Vec<f32>,
}

impl DecodeHost {
    pub(super) fn new(last: impl Iterator<Item = (u32, usize)>, batch: usize) -> DecodeHost {
        let (mut tokens, mut positions): (Vec<i32>, Vec<i32>) = last
            .map(|(token, position)| (token as i32, position as i32))
            .unzip();
        tokens.resize(batch, 0);
        positions.resize(batch, 0);
        DecodeHost {
            tokens,
            positions,
            logits: Vec::new(),
        }
    }
}

impl Host for DecodeHost {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        match stream {
            "tokens" => fill(into, self.tokens.iter().copied()),
            "positions" => fill(into, self.positions.iter().copied()),
            _ => Err(HostError::UnknownStream),
        }
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        take_logits(stream, from, &mut self.logits)
    }
}

fn take_logits(stream: &str, from: &[u8], logits: &mut Vec<f32>) -> Result<(), HostError> {
    if stream != "logits" {
        return Err(HostError::UnknownStream);
    }
    let word = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    logits.clear();
    logits.extend(from.chunks_exact(4).map(word));
    Ok(())
}
