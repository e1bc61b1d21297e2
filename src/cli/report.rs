//! `superstep report`: what an executable holds and how long it takes.

use std::path::PathBuf;

use clap::Args;

use super::output::{check_writable_file, say};
use crate::atomic_file;
use crate::compile::open;
use crate::error::Error;
use crate::report::terminal::{self, OpList};
use crate::report::{Report, steps};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The executable.
    file: PathBuf,
    /// Also write the report as JSON (`-` for standard output, instead of the tables).
    #[arg(long = "json", value_name = "OUT")]
    json: Option<PathBuf>,
    /// Also write every superstep as CSV: start, cycles, use of the tiles, bytes.
    #[arg(long = "steps", value_name = "OUT.csv")]
    steps: Option<PathBuf>,
    /// How many ops to list, the most expensive first.
    #[arg(long = "ops", value_name = "N", default_value_t = 20)]
    ops: usize,
    /// Also estimate the beat of the published style of execution; done unasked beside a published measurement.
    #[arg(long = "as_published")]
    as_published: bool,
    /// Also time the same plan with every uncertain number of the machine at the ends of its range.
    #[arg(long = "sensitivity")]
    sensitivity: bool,
    /// List the op of every layer and chunk by itself, not h.*.mlp.c_fc for all of them.
    #[arg(long = "each")]
    each: bool,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        let compiled = open(&self.file)?;
        if let Some(out) = &self.steps {
            check_writable_file(out)?;
            atomic_file::write(out, steps::csv(&compiled.program).as_bytes())?;
        }
        let mut report = Report::new(&compiled)?;
        if self.as_published || report.pod.published.is_some() {
            report.pod.estimate_published_style(&compiled)?;
        }
        if self.sensitivity {
            report.pod.vary_the_machine(&compiled)?;
        }
        let ops = OpList {
            limit: self.ops,
            each: self.each,
        };
        match &self.json {
            Some(out) if out.as_os_str() == "-" => say(report.to_json()),
            Some(out) => {
                check_writable_file(out)?;
                say(terminal::full(&report, ops));
                atomic_file::write(out, report.to_json().as_bytes())?;
            }
            None => say(terminal::full(&report, ops)),
        }
        Ok(())
    }
}
