//! `superstep compile`: from a model to an executable file.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::model_options::ModelOptions;
use super::output::{IrPrinter, check_writable_file, say};
use super::program_options::{OptimiserOptions, ProgramOptions};
use crate::compile::{compile_training, save};
use crate::error::Error;
use crate::report::Report;
use crate::report::format::bytes;
use crate::report::terminal::{pass_table, summary};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    program: ProgramOptions,
    #[command(flatten)]
    optimiser: OptimiserOptions,
    /// Where the executable goes.
    #[arg(short = 'o', long = "output", value_name = "FILE.superstep")]
    output: PathBuf,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        let model = self.model.load()?;
        let settings = self.program.settings(&self.optimiser, &model.config)?;
        check_writable_file(&self.output)?;
        let start = Instant::now();
        let compiled = compile_training(&model.name, &model.config, &settings, &mut IrPrinter)?;
        let seconds = start.elapsed().as_secs_f64();
        let report = Report::new(&compiled)?;
        say(pass_table(&report));
        say(format_args!("compiled in {seconds:.2} s\n"));
        say(summary(&report));
        let written = save(&compiled, &self.output)?;
        say(format_args!(
            "\nwrote {}, {}",
            self.output.display(),
            bytes(written as u64),
        ));
        Ok(())
    }
}
