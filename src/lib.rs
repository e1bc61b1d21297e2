//! superstep: the outside world around the compiler and the runtime.

pub mod atomic_file;
pub mod data;
pub mod frontend;
pub mod settings;
