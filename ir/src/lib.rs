//! superstep-ir: what things are, and what they mean.
//!
//! The tensor [`graph`] and its [`op`] set, the bulk-synchronous [`program`], the [`machine`] description with its cycle
//! formulae, their textual forms, verifiers and the reference interpreter. Knows nothing of files, models, or policy.

pub mod class_name;
pub mod executable;
pub mod graph;
pub mod half;
pub mod ids;
pub mod interpret;
pub mod machine;
pub mod op;
pub mod program;
pub mod random;
pub mod text;
pub mod types;
pub mod units;
pub mod verify;
