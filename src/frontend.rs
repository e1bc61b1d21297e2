//! Hugging Face in and out: from a model's name to its shape, weights and tokens, and back to a folder `transformers` loads.
//!
//! ```text
//! "gpt2", "./my-model", "org/name"
//!    │ resolve     a folder, a snapshot in the Hugging Face cache, or a preset
//!    ▼
//! config.json ──► Gpt2Config ──► parameters (name, shape, decayed?)
//!    │                              │
//!    │ weights (safetensors)        │ init (from scratch)
//!    ▼                              ▼
//! Weights: name → shape, f32 values        Tokenizer: text ↔ ids
//!    └──────────── save_pretrained ────────────┘
//! ```
//!
//! Parameter names here are without the `transformer.` prefix (`h.0.attn.c_attn.weight`), always in the order of
//! [`Gpt2Config::parameters`]. Files are untrusted: whatever is in them, the answer is a value or a [`FrontendError`].

pub mod config;
pub mod error;
pub mod init;
pub mod members;
pub mod model;
pub mod parameters;
pub mod presets;
pub mod resolve;
pub mod safetensors_in;
pub mod safetensors_out;
pub mod tokenizer;
pub mod vocabulary;
pub mod weights;

mod config_fields;
mod read;
mod save;
mod shards;
mod split;

#[cfg(test)]
mod bad_input_tests;
#[cfg(test)]
mod fixtures;

pub use config::{Activation, Gpt2Config};
pub use error::FrontendError;
pub use init::init_weights;
pub use parameters::Parameter;
pub use presets::preset;
pub use resolve::{CacheLocation, ModelSource, resolve};
pub use save::{SaveDtype, save_pretrained};
pub use shards::holds_weights;
pub use tokenizer::Tokenizer;
pub use vocabulary::VocabularySlices;
pub use weights::{Loaded, Tensor, WeightWarning, Weights, load_weights};
