//! How this machine runs a program: options of all commands that execute one. No result depends on them.

use clap::Args;
use superstep_runtime::{EngineOptions, Schedule};

#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct HostOptions {
    /// Host threads; results do not depend on it [default: all].
    #[arg(long = "threads", value_name = "N", default_value_t = 0)]
    pub(super) threads: usize,
    /// Execute the program to the letter, step by step with every copy of every exchange, to check the faster way it is run by default;
    /// results are the same bits.
    #[arg(long = "strict")]
    pub(super) strict: bool,
}

impl HostOptions {
    pub(super) fn engine(&self) -> EngineOptions {
        EngineOptions {
            threads: self.threads,
            schedule: match self.strict {
                true => Schedule::Strict,
                false => Schedule::Fast,
            },
            ..EngineOptions::default()
        }
    }
}
