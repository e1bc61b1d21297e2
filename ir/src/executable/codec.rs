//! The binary form of a program: the one place that knows which codec it is (bincode, variable-length integers, little-endian).
//!
//! bincode has gone quiet at 1.3; to change the codec, change this file and [`super::FORMAT`].

use std::marker::PhantomData;

use bincode::{DefaultOptions, Options};

use super::ExecutableError;
use super::bounded::BoundedSeed;
use crate::program::Program;

fn options() -> impl Options {
    DefaultOptions::new()
        .with_varint_encoding()
        .with_little_endian()
        .reject_trailing_bytes()
}

pub(super) fn encode(program: &Program) -> Vec<u8> {
    options()
        .serialize(program)
        .expect("a program is plain data of known lengths")
}

/// Decodes bytes that may be anything, in memory proportional to their number.
pub(super) fn decode(bytes: &[u8]) -> Result<Program, ExecutableError> {
    options()
        .with_limit(bytes.len() as u64)
        .deserialize_seed(BoundedSeed(PhantomData::<Program>), bytes)
        .map_err(|e| ExecutableError::Malformed {
            section: "program",
            message: e.to_string(),
        })
}
