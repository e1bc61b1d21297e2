//! `superstep sweep`: the same model on machines that differ in some of their numbers.

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::model_options::ModelOptions;
use super::output::{check_writable_file, say};
use super::program_options::{OptimiserOptions, ProgramOptions};
use crate::atomic_file;
use crate::compile::open;
use crate::error::Error;
use crate::sweep::{Axis, Format, Point, SCHEMA, Subject, Sweep, points, table};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A key of a machine description and the values it takes; with several, every combination is tried.
    #[arg(long = "set", value_name = "KEY=VALUE,…", value_parser = Axis::parse, required = true)]
    set: Vec<Axis>,
    /// Where the figures go.
    #[arg(short = 'o', long = "output", value_name = "OUT.csv|OUT.json")]
    output: Option<PathBuf>,
    /// Keep the plan of this executable and only time it again.
    #[arg(
        long = "executable",
        value_name = "FILE",
        conflicts_with_all = ["model_name_or_path", "config_name", "config_overrides", "machine"]
    )]
    executable: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    program: ProgramOptions,
    #[command(flatten)]
    optimiser: OptimiserOptions,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        let format = self.output.as_deref().map(Format::of).transpose()?;
        if let Some(path) = &self.output {
            check_writable_file(path)?;
        }
        if let Some(file) = &self.executable {
            let compiled = open(file)?;
            let machine = &compiled.program.machine.name;
            self.program.agree_with(&compiled.manifest, machine)?;
            self.optimiser.agree_with(&compiled.manifest.optimiser)?;
            let name = compiled.manifest.model.clone();
            return self.sweep(&name, Subject::Executable(&compiled), format);
        }
        let model = self.model.load()?;
        let layout = self.program.ipu_layout(&model.config)?;
        let settings = self
            .program
            .settings(&self.optimiser, &model.config, &layout)?;
        if settings.print_ir_after.is_some() {
            return Err(Error::usage(
                "--print_ir_after is for one compilation, not for a sweep",
            ));
        }
        let subject = Subject::Model {
            name: &model.name,
            config: &model.config,
            settings: Box::new(settings),
            plans: &self.program.plan_cache.cache()?,
        };
        self.sweep(&model.name, subject, format)
    }

    fn sweep(
        &self,
        model: &str,
        mut subject: Subject,
        format: Option<Format>,
    ) -> Result<(), Error> {
        subject.check(&self.set)?;
        let recompiled = matches!(subject, Subject::Model { .. });
        let machine = subject.machine().name.clone();
        let points = points(subject.machine(), &self.set)?;
        say(format_args!(
            "{model} on {machine}, {} points: {}",
            points.len(),
            if recompiled {
                "compiled for each"
            } else {
                "the executable's plan, timed on each"
            }
        ));
        let bar = bar(points.len() as u64);
        let mut outcomes = Vec::with_capacity(points.len());
        for point in &points {
            bar.set_message(self.named(point));
            outcomes.push(subject.at(point)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let sweep = Sweep {
            schema: SCHEMA,
            model: model.to_owned(),
            machine,
            recompiled,
            parameters: self.set.iter().map(|axis| axis.key.clone()).collect(),
            points: outcomes,
        };
        say(table(&sweep));
        if let (Some(path), Some(format)) = (&self.output, format) {
            atomic_file::write(path, format.text(&sweep).as_bytes())?;
            say(format_args!("\nwrote {}", path.display()));
        }
        Ok(())
    }

    fn named(&self, point: &Point) -> String {
        let pairs = self.set.iter().zip(&point.values);
        let pairs: Vec<String> = pairs
            .map(|(axis, value)| format!("{}={value}", axis.key))
            .collect();
        pairs.join(" ")
    }
}

/// Hidden by itself when stderr is no terminal.
fn bar(points: u64) -> ProgressBar {
    let bar = ProgressBar::new(points);
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len}  {eta} left  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
