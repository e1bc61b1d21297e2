//! superstep: the outside world around the compiler and the runtime.

pub mod as_published;
pub mod atomic_file;
pub mod cli;
pub mod compile;
pub mod csv;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod explain;
pub mod frontend;
pub mod generate;
pub mod ipu_config;
pub mod manifest;
pub mod precision;
pub mod report;
pub mod session;
pub mod settings;
pub mod sweep;
pub mod train;
pub mod tune;
pub mod user_cache;
