//! `superstep train`: compile or load a program, run it over the data, keep the weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::{ArgAction, Args};

use super::data_options::DataFile;
use super::eval::{EvalSettings, run_evaluation};
use super::model_options::{Model, ModelOptions};
use super::output::{IrPrinter, note, prepare_directory, say};
use super::program_options::{
    OptimiserOptions, ProgramOptions, above_zero, at_least_one, at_least_zero, ratio,
};
use super::progress::Progress;
use crate::compile::{Compiled, compile_training, open};
use crate::data::{DataError, SampleOrder, TokenBlocks};
use crate::error::Error;
use crate::frontend::{Weights, save_pretrained};
use crate::report::Report;
use crate::report::terminal::summary;
use crate::session::Session;
use crate::train::{LrScheduler, MetricsFile, Schedule, TrainingRun, Warmup};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    program: ProgramOptions,
    /// A compiled program; without --model_name_or_path its model is initialised from --seed.
    #[arg(long = "executable", value_name = "FILE")]
    executable: Option<PathBuf>,
    #[command(flatten)]
    optimiser: OptimiserOptions,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    schedule: ScheduleOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
struct DataOptions {
    /// Text to train on: tokenised as one stream, cut into blocks.
    #[arg(
        long = "train_file",
        value_name = "TEXT",
        conflicts_with = "train_tokens"
    )]
    train_file: Option<PathBuf>,
    /// Token ids to train on, .npy or .json; the last axis is the sequence.
    #[arg(long = "train_tokens", value_name = "TOKENS")]
    train_tokens: Option<PathBuf>,
    /// Text or tokens (.npy, .json) to evaluate on.
    #[arg(long = "validation_file", value_name = "FILE")]
    validation_file: Option<PathBuf>,
    /// Shuffle the samples anew in every epoch.
    #[arg(long = "shuffle", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    shuffle: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Schedule")]
struct ScheduleOptions {
    /// Optimiser steps; goes before --num_train_epochs.
    #[arg(long = "max_steps", value_name = "N", allow_negative_numbers = true, value_parser = steps)]
    max_steps: Option<i64>,
    /// Times the data is used.
    #[arg(long = "num_train_epochs", value_name = "X", default_value_t = 3.0, value_parser = above_zero)]
    num_train_epochs: f64,
    /// Highest learning rate.
    #[arg(long = "learning_rate", value_name = "X", default_value_t = 5e-5, value_parser = at_least_zero)]
    learning_rate: f64,
    /// Learning rate after the warm-up.
    #[arg(long = "lr_scheduler_type", value_name = "NAME", value_enum, default_value_t = LrScheduler::Linear)]
    lr_scheduler_type: LrScheduler,
    /// Share of the steps in which the learning rate rises from 0.
    #[arg(long = "warmup_ratio", value_name = "X", default_value_t = 0.0, value_parser = ratio)]
    warmup_ratio: f64,
    /// The same as a number of steps; goes before --warmup_ratio.
    #[arg(long = "warmup_steps", value_name = "N", default_value_t = 0)]
    warmup_steps: u64,
    /// Seed of initial weights, order of samples and dropout.
    #[arg(long = "seed", value_name = "N", default_value_t = 42)]
    seed: u64,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Run and results")]
struct OutputOptions {
    /// Folder for the trained model and metrics.jsonl.
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Print a line every N steps [default: ten lines in all].
    #[arg(long = "logging_steps", value_name = "N", value_parser = at_least_one::<u64>)]
    logging_steps: Option<u64>,
    /// Accepted for likeness with run_clm.py: this command always trains.
    #[arg(long = "do_train", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set, hide = true)]
    #[allow(dead_code)]
    do_train: Option<bool>,
    /// Accepted for likeness with run_clm.py: results are always overwritten.
    #[arg(long = "overwrite_output_dir", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set, hide = true)]
    #[allow(dead_code)]
    overwrite_output_dir: Option<bool>,
    /// Evaluate on --validation_file after training.
    #[arg(long = "do_eval", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    do_eval: bool,
    /// Samples of an evaluation batch.
    #[arg(long = "per_device_eval_batch_size", value_name = "N", default_value_t = 1, value_parser = at_least_one::<usize>)]
    eval_batch_size: usize,
    /// Host threads; results do not depend on it [default: all].
    #[arg(long = "threads", value_name = "N", default_value_t = 0)]
    threads: usize,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        let data =
            DataFile::given(&self.data.train_file, &self.data.train_tokens).ok_or_else(|| {
                Error::usage("no data: give --train_file TEXT or --train_tokens TOKENS")
            })?;
        if self.output.do_eval && self.data.validation_file.is_none() {
            return Err(Error::usage("--do_eval needs a --validation_file"));
        }
        if let Some(directory) = &self.output.output_dir {
            prepare_directory(directory)?;
        }
        let (model, loaded) = self.model_and_executable()?;
        let weights = model.weights(self.schedule.seed)?;
        let block_size = loaded
            .as_ref()
            .map(|c| c.manifest.block_size)
            .or(self.program.block_size);
        let blocks = data.load(&model, block_size)?;
        let validation = match &self.data.validation_file {
            Some(path) if self.output.do_eval => {
                Some(DataFile::by_name(path).load(&model, Some(blocks.block_size()))?)
            }
            _ => None,
        };
        let compiled = match loaded {
            Some(compiled) => compiled,
            None => self.compile(&model, blocks.block_size())?,
        };
        let machine = compiled.program.machine.clone();
        let trained = self.train(&model, compiled, &weights, &blocks)?;
        if let Some(directory) = &self.output.output_dir {
            save_pretrained(
                directory,
                &model.config,
                &trained,
                model.tokenizer_if_any().as_ref(),
            )?;
            say(format_args!("saved the model in {}", directory.display()));
        }
        if let Some(validation) = validation {
            let settings = EvalSettings {
                machine: &machine,
                batch_size: self.output.eval_batch_size,
                threads: self.output.threads,
                output_dir: self.output.output_dir.as_deref(),
            };
            run_evaluation(&model.config, &trained, &validation, &settings)?;
        }
        Ok(())
    }

    /// The model of the command line, or the one inside the executable.
    fn model_and_executable(&self) -> Result<(Model, Option<Compiled>), Error> {
        let Some(path) = &self.executable else {
            return Ok((self.model.load()?, None));
        };
        let compiled = open(path)?;
        let manifest = &compiled.manifest;
        self.program
            .agree_with(manifest, &compiled.program.machine.name)?;
        self.optimiser.agree_with(&manifest.optimiser)?;
        let config = manifest.model_config()?;
        let model = if self.model.is_given() {
            let model = self.model.load()?;
            if model.config.parameters() != config.parameters() {
                let message = format!(
                    "{} is another shape of model than the one compiled into {}",
                    model.name,
                    path.display()
                );
                return Err(Error::failed(message).with_hint("compile it with `superstep compile`"));
            }
            model
        } else {
            self.model.of_shape(&manifest.model, config)?
        };
        Ok((model, Some(compiled)))
    }

    fn compile(&self, model: &Model, block_size: usize) -> Result<Compiled, Error> {
        let mut settings = self.program.settings(&self.optimiser, &model.config)?;
        settings.block_size = block_size;
        let start = Instant::now();
        let compiled = compile_training(&model.name, &model.config, &settings, &mut IrPrinter)?;
        say(format_args!(
            "compiled in {:.2} s\n",
            start.elapsed().as_secs_f64()
        ));
        Ok(compiled)
    }

    fn train(
        &self,
        model: &Model,
        compiled: Compiled,
        weights: &Weights,
        blocks: &TokenBlocks,
    ) -> Result<Weights, Error> {
        let report = Report::new(&compiled)?;
        say(summary(&report));
        let manifest = &compiled.manifest;
        let order = self.order(
            blocks,
            manifest.per_device_train_batch_size,
            manifest.gradient_accumulation_steps as usize,
        )?;
        let steps = self.schedule.steps(order.steps_per_epoch());
        let schedule = self.schedule.schedule(steps);
        say(format_args!(
            "\ntraining: {} samples of {} tokens, {} an optimiser step, {steps} steps",
            blocks.len(),
            blocks.block_size(),
            manifest.samples_per_step(),
        ));
        let run = TrainingRun {
            blocks,
            order,
            schedule,
            batch_size: manifest.per_device_train_batch_size,
            seed: self.schedule.seed,
            simulated_seconds: report.time.seconds_per_update,
        };
        let mut metrics = self
            .output
            .output_dir
            .as_deref()
            .map(metrics_file)
            .transpose()?;
        let mut session = Session::load(Arc::new(compiled.program), weights, self.output.threads)?;
        let mut progress = Progress::new(steps, self.output.logging_steps);
        let start = Instant::now();
        let outcome = run.run(&mut session, &mut |step| {
            if let Some(metrics) = &mut metrics {
                metrics.append(step).map_err(|e| {
                    Error::failed(format!("cannot write {}: {e}", metrics.path().display()))
                })?;
            }
            progress.step(step);
            Ok(())
        });
        progress.finish();
        outcome?;
        say(format_args!(
            "{steps} steps in {:.1} s here, {:.4} s on the simulated machine",
            start.elapsed().as_secs_f64(),
            report.time.seconds_per_update * steps as f64,
        ));
        session.weights(&model.config)
    }

    fn order(
        &self,
        blocks: &TokenBlocks,
        batch: usize,
        accumulation: usize,
    ) -> Result<SampleOrder, Error> {
        let needed = batch * accumulation;
        let seed = self.data.shuffle.then_some(self.schedule.seed);
        let order = SampleOrder::new(blocks.len(), needed, seed).ok_or_else(|| {
            DataError::TooFewSamples {
                path: blocks.path().to_path_buf(),
                samples: blocks.len(),
                needed,
                batch,
                accumulation,
            }
        })?;
        if order.left_out() > 0 {
            note(format_args!(
                "{} of {} samples are left out of each epoch: they do not fill an optimiser step of {needed}",
                order.left_out(),
                blocks.len(),
            ));
        }
        Ok(order)
    }
}

impl ScheduleOptions {
    fn steps(&self, steps_per_epoch: u64) -> u64 {
        match self.max_steps {
            Some(steps) if steps > 0 => steps.unsigned_abs(),
            _ => ((self.num_train_epochs * steps_per_epoch as f64).ceil() as u64).max(1),
        }
    }

    fn schedule(&self, steps: u64) -> Schedule {
        let warmup = if self.warmup_steps > 0 {
            Warmup::Steps(self.warmup_steps)
        } else {
            Warmup::Ratio(self.warmup_ratio)
        };
        Schedule::new(self.lr_scheduler_type, self.learning_rate, steps, warmup)
    }
}

fn metrics_file(directory: &Path) -> Result<MetricsFile, Error> {
    let path = directory.join("metrics.jsonl");
    MetricsFile::create(&path)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())))
}

/// A number of steps; as in run_clm.py, a negative one leaves it to the epochs.
fn steps(text: &str) -> Result<i64, String> {
    text.parse()
        .ok()
        .filter(|&steps| steps != 0)
        .ok_or_else(|| "it must be a whole number of at least 1".into())
}
