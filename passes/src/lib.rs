//! superstep-passes: from tensor graphs to placed tile programs. Knows nothing of Hugging Face, the command line, or execution.

pub mod accumulate_into;
pub mod balance;
pub mod budget;
pub mod compile;
pub mod cse;
pub mod dead_code;
pub mod differentiate;
pub mod fold_constants;
pub mod fuse_elementwise;
pub mod instrument;
pub mod lower;
pub mod manager;
pub mod memory;
pub mod mixed_precision;
pub mod offload;
mod order;
pub mod pass;
pub mod pipeline;
pub mod place;
pub mod plan;
pub mod recompute;
pub mod replicate;
pub mod schedule;
pub mod serialise;
pub mod simplify;
pub mod solve;
pub mod stage;
pub mod tensor_parallel;
#[cfg(test)]
mod testing;
pub mod training;

pub use compile::{CompileError, CompileOptions, Compiled, compile};
pub use pass::Pass;
pub use pipeline::pass_by_name;
