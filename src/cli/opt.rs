//! `superstep opt`: passes over a graph in textual form.

use std::path::PathBuf;

use clap::Args;
use superstep_ir::text;
use superstep_passes::manager::PassManager;
use superstep_passes::{pass_by_name, pipeline};

use super::output::say;
use crate::compile::no_pass;
use crate::error::Error;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A graph, or several, as --print_ir_after prints them.
    file: PathBuf,
    /// Passes to run, in this order.
    #[arg(
        long = "passes",
        value_name = "A,B,…",
        value_delimiter = ',',
        required = true
    )]
    passes: Vec<String>,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        let shown = self.file.display();
        let source = std::fs::read_to_string(&self.file)
            .map_err(|error| Error::failed(format!("cannot read {shown}: {error}")))?;
        let mut module = text::parse_module(&source)
            .map_err(|error| Error::failed(format!("{shown}: {error}")))?;
        let passes = self.passes.iter().map(|name| {
            pass_by_name(name.trim()).ok_or_else(|| {
                let known = pipeline::all();
                no_pass(
                    name,
                    &known.iter().map(|pass| pass.name()).collect::<Vec<_>>(),
                )
            })
        });
        let mut manager = PassManager::new(passes.collect::<Result<_, _>>()?);
        manager
            .run_module(&mut module)
            .map_err(|error| Error::failed(error.to_string()))?;
        say(text::print_module(&module).trim_end());
        Ok(())
    }
}
