//! Reference models for the unit tests of this module.

use std::path::{Path, PathBuf};

use super::config::Gpt2Config;
use super::weights::{Weights, load_weights};

/// A path below `tests/fixtures`.
pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// The two-layer reference model.
pub(super) fn tiny() -> (Gpt2Config, Weights) {
    let dir = fixture("tiny");
    let config = Gpt2Config::load(&dir).expect("the fixture's configuration");
    let weights = load_weights(&dir, &config)
        .expect("the fixture's weights")
        .weights;
    (config, weights)
}

/// A safetensors file from its header's text and its data.
pub(super) fn safetensors_bytes(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}
