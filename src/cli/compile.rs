//! `superstep compile`: from a model to an executable file.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::model_options::ModelOptions;
use super::output::{IrPrinter, check_writable_file, note, say};
use super::program_options::{OptimiserOptions, ProgramOptions};
use crate::compile::remedies::remedies;
use crate::compile::{PlanCache, compile_training, save};
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::report::Report;
use crate::report::format::bytes;
use crate::report::terminal::{pass_table, summary};
use crate::settings::TrainingSettings;

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
        let layout = self.program.ipu_layout(&model.config)?;
        let settings = self
            .program
            .settings(&self.optimiser, &model.config, &layout)?;
        check_writable_file(&self.output)?;
        let start = Instant::now();
        let plans = self.program.plan_cache.cache()?;
        let compiled = compile_training(
            &model.name,
            &model.config,
            &settings,
            &plans,
            &mut IrPrinter,
        )
        .inspect_err(|error| suggest(error, &model.config, &settings, &plans))?;
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

/// After an overflow: what would fit, each compiled to be sure.
fn suggest(error: &Error, config: &Gpt2Config, settings: &TrainingSettings, plans: &PlanCache) {
    let Some(overflow) = error.overflow() else {
        return;
    };
    note("the model does not fit; compiling what might");
    let fitting = remedies(config, settings, overflow, plans);
    for remedy in &fitting {
        note(remedy);
    }
    if fitting.is_empty() {
        note("none of the usual changes is enough");
    }
}
