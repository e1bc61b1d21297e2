//! The command line: parse, dispatch, print one error, give an exit code.
//!
//! Option names are those of Hugging Face's `run_clm.py`; `--block_size` and `--block-size` are the same option.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;

mod compile;
mod data_options;
mod demo;
mod eval;
mod evaluator;
mod explain;
mod failure;
mod generate;
mod host_options;
mod inference_options;
mod ipu_options;
mod layer_list;
mod model_options;
mod opt;
mod output;
mod plan_cache_options;
mod precision_options;
mod program_options;
mod progress;
mod report;
mod solve;
mod spelling;
mod sweep;
mod train;
mod tune;

/// Compiles Hugging Face GPT-2 models for Graphcore-Mk2-like machines and trains what it compiled, on simulated tiles.
#[derive(Debug, Parser)]
#[command(
    name = "superstep",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile a model into an executable for a machine.
    Compile(compile::Options),
    /// Say what was compiled: tiles, memory, cycles, throughput.
    Report(report::Options),
    /// Try a model on machines with other parameters: larger tiles, a wider exchange.
    Sweep(Box<sweep::Options>),
    /// Search for the best plan of a whole pod: stages, replicas, micro-batch, recomputation.
    Tune(Box<tune::Options>),
    /// Train: compile, or take an executable, and run it on a text or on tokens.
    Train(Box<train::Options>),
    /// Loss and perplexity of a model over a text or tokens.
    Eval(eval::Options),
    /// Continue a prompt.
    Generate(generate::Options),
    /// Say why: the plans of products, their alternatives and what decided.
    Explain(explain::Options),
    /// Run passes over a graph in textual form and print the result.
    Opt(opt::Options),
    /// Run a solver of the compiler on a problem from a file.
    Solve(solve::Options),
    /// See it work: a small GPT-2 on a novel, in about a minute.
    Demo(demo::Options),
}

impl Command {
    fn run(&self) -> Result<(), Error> {
        match self {
            Command::Compile(options) => options.run(),
            Command::Report(options) => options.run(),
            Command::Sweep(options) => options.run(),
            Command::Tune(options) => options.run(),
            Command::Train(options) => options.run(),
            Command::Eval(options) => options.run(),
            Command::Generate(options) => options.run(),
            Command::Explain(options) => options.run(),
            Command::Opt(options) => options.run(),
            Command::Solve(options) => options.run(),
            Command::Demo(options) => options.run(),
        }
    }
}

/// Runs the command line `arguments` (program name first): 0 when all went well, 1 after an error, 2 for a wrong command line.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    failure::guarded(|| {
        let cli = match Cli::try_parse_from(spelling::snake_case(arguments)) {
            Ok(cli) => cli,
            Err(error) => {
                // Help and version go to stdout, complaints to stderr; either may be a closed pipe, and then there is nobody to tell.
                let _ = error.print();
                let code = if error.use_stderr() { 2 } else { 0 };
                return Ok(ExitCode::from(code));
            }
        };
        cli.command.run()?;
        output::check_printed()?;
        Ok(ExitCode::SUCCESS)
    })
}
