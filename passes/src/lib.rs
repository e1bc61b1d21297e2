//! superstep-passes: from tensor graphs to placed tile programs. Knows nothing of Hugging Face, the command line, or execution.

pub mod compile;
pub mod lower;
pub mod memory;
pub mod plan;
pub mod schedule;
pub mod solve;
pub mod stage;
