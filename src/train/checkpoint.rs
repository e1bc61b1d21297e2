//! Checkpoints: everything a run needs to go on as if it had never stopped.
//!
//! ```text
//! OUTPUT_DIR/checkpoint-N/
//!   model.safetensors  config.json  tokenizer files     a model that transformers loads
//!   optimizer.safetensors                               moments and counters, in the program's own types
//!   trainer_state.json                                  Hugging Face's account of the run
//!   superstep_checkpoint.json                           counters, sums, what the run was, digests of all other files
//! ```
//! Random numbers and the order of the data are functions of seed and step, so the step is all there is to keep of them. The folder is
//! filled under a hidden name and renamed when it is whole; older ones are removed only after that.

mod content;
mod identity;
mod read;
mod rotate;
mod write;

pub use content::{CONTENT_FILE, Content};
pub use identity::RunIdentity;
pub use read::{Checkpoint, CheckpointError};
pub(crate) use rotate::folder;
pub use rotate::{Listed, clear, list, remove_old};
pub use write::{CheckpointOut, check_finite, write};

/// Moments and counters.
pub(crate) const OPTIMISER_FILE: &str = "optimizer.safetensors";
/// Hugging Face's account of the run.
pub const TRAINER_STATE_FILE: &str = "trainer_state.json";
