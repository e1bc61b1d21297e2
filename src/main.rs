//! The `superstep` program: everything is in the library's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    superstep::cli::run(std::env::args_os())
}
