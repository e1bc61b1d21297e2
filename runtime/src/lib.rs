//! superstep-runtime: executes a compiled [`Program`](superstep_ir::program::Program) on simulated tile memories.
//!
//! [`Engine`] loads a program, checks it once, and then runs it step by step: vertices see their own tile's bytes and nothing else,
//! bytes cross tiles in exchanges only. Knows nothing of how a program came to be.

mod codelets;
mod collective;
mod compute;
mod crew;
mod engine;
mod error;
mod exchange;
mod layout;
mod load;
mod phase;
mod poison;
mod superstep;
mod tensor_io;
mod tile_memory;
pub mod timeline;

pub use codelets::CodeletError;
pub use engine::{Engine, EngineOptions, Host, Schedule};
pub use error::{EngineError, HostError};

/// Kernels for the benchmarks; no interface.
#[doc(hidden)]
pub mod bench {
    pub use crate::codelets::{Isa, Old, Product, multiply};
}
