//! The options of `superstep train`, with the names and meanings of `run_clm.py`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::super::data_options::TextOptions;
use super::super::host_options::HostOptions;
use super::super::program_options::{above_zero, at_least_one, at_least_zero, ratio};
use crate::error::Error;
use crate::frontend::SaveDtype;
use crate::ipu_config::IpuSettings;
use crate::train::{Cadence, LrScheduler, Schedule, Warmup};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct DataOptions {
    /// Text to train on (.txt, .jsonl, .parquet or a folder of them): rows are tokenised, joined by thousands, cut into blocks.
    #[arg(
        long = "train_file",
        value_name = "FILE|DIR",
        conflicts_with_all = ["train_tokens", "dataset_name"]
    )]
    pub(super) train_file: Option<PathBuf>,
    /// Token ids to train on, .npy or .json; the last axis is the sequence.
    #[arg(
        long = "train_tokens",
        value_name = "TOKENS",
        conflicts_with = "dataset_name"
    )]
    pub(super) train_tokens: Option<PathBuf>,
    #[command(flatten)]
    pub(super) text: TextOptions,
    /// Text or tokens (.npy, .json) to evaluate on.
    #[arg(long = "validation_file", value_name = "FILE|DIR")]
    pub(super) validation_file: Option<PathBuf>,
    /// Share of the training data to evaluate on where there is no other: its first rows.
    #[arg(long = "validation_split_percentage", value_name = "X", default_value_t = 5.0, value_parser = percentage)]
    pub(super) validation_split_percentage: f64,
    /// Train on the first N samples only.
    #[arg(long = "max_train_samples", value_name = "N", value_parser = at_least_one::<usize>)]
    pub(super) max_train_samples: Option<usize>,
    /// Evaluate on the first N samples only.
    #[arg(long = "max_eval_samples", value_name = "N", value_parser = at_least_one::<usize>)]
    pub(super) max_eval_samples: Option<usize>,
    /// Shuffle the samples anew in every epoch.
    #[arg(long = "shuffle", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub(super) shuffle: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Schedule")]
pub(super) struct ScheduleOptions {
    /// Optimiser steps; goes before --num_train_epochs.
    #[arg(long = "max_steps", value_name = "N", allow_negative_numbers = true, value_parser = steps)]
    pub(super) max_steps: Option<i64>,
    /// Times the data is used.
    #[arg(long = "num_train_epochs", value_name = "X", default_value_t = 3.0, value_parser = above_zero)]
    pub(super) num_train_epochs: f64,
    /// Highest learning rate.
    #[arg(long = "learning_rate", value_name = "X", default_value_t = 5e-5, value_parser = at_least_zero)]
    pub(super) learning_rate: f64,
    /// Learning rate after the warm-up.
    #[arg(long = "lr_scheduler_type", value_name = "NAME", value_enum, default_value_t = LrScheduler::Linear)]
    pub(super) lr_scheduler_type: LrScheduler,
    /// Share of the steps in which the learning rate rises from 0.
    #[arg(long = "warmup_ratio", value_name = "X", default_value_t = 0.0, value_parser = ratio)]
    pub(super) warmup_ratio: f64,
    /// The same as a number of steps; goes before --warmup_ratio.
    #[arg(long = "warmup_steps", value_name = "N", default_value_t = 0)]
    pub(super) warmup_steps: u64,
    /// Optimiser updates of a step, all at one learning rate; logs and --max_steps count steps [default: 1].
    #[arg(long = "device_iterations", value_name = "N", value_parser = at_least_one::<usize>)]
    device_iterations: Option<usize>,
    /// Factor on the gradient of the loss, taken out again before the update; --auto_loss_scaling starts with it
    /// [default: 16384 where weights are f16, else 1].
    #[arg(long = "loss_scaling", value_name = "X", value_parser = above_zero)]
    pub(super) loss_scaling: Option<f64>,
    /// Good updates in a row after which --auto_loss_scaling doubles the factor.
    #[arg(long = "loss_scaling_growth_interval", value_name = "N", default_value_t = 2000, value_parser = at_least_one::<u64>)]
    pub(super) loss_scaling_growth_interval: u64,
    /// Seed of initial weights, order of samples, dropout and stochastic rounding.
    #[arg(long = "seed", value_name = "N", default_value_t = 42)]
    pub(super) seed: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Run and results")]
pub(super) struct OutputOptions {
    /// Folder for the trained model, checkpoints, logs and results.
    #[arg(long = "output_dir", value_name = "DIR")]
    pub(super) output_dir: Option<PathBuf>,
    /// Start anew in a folder that has checkpoints; without it the run goes on from the newest.
    #[arg(long = "overwrite_output_dir", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub(super) overwrite_output_dir: bool,
    /// Train; `false` with --do_eval only evaluates.
    #[arg(long = "do_train", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub(super) do_train: bool,
    /// Evaluate on --validation_file after training, and every --eval_steps.
    #[arg(long = "do_eval", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub(super) do_eval: bool,
    /// Log every N steps [default: ten times in all].
    #[arg(long = "logging_steps", value_name = "N", value_parser = at_least_one::<u64>)]
    pub(super) logging_steps: Option<u64>,
    /// Log the first step, too.
    #[arg(long = "logging_first_step", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub(super) logging_first_step: bool,
    /// Folder for TensorBoard's event files [default: OUTPUT_DIR/runs].
    #[arg(long = "logging_dir", value_name = "DIR", requires = "output_dir")]
    pub(super) logging_dir: Option<PathBuf>,
    /// Who gets logs besides the files: `tensorboard` or `none`.
    #[arg(long = "report_to", value_name = "NAME", default_value = "tensorboard", value_parser = ["tensorboard", "none", "all"])]
    pub(super) report_to: String,
    /// Evaluate during training, too.
    #[arg(
        long = "eval_strategy",
        alias = "evaluation_strategy",
        value_enum,
        value_name = "WHEN"
    )]
    pub(super) eval_strategy: Option<Strategy>,
    /// Evaluate every N steps.
    #[arg(long = "eval_steps", value_name = "N", value_parser = at_least_one::<u64>)]
    pub(super) eval_steps: Option<u64>,
    /// When to write checkpoints.
    #[arg(long = "save_strategy", value_enum, value_name = "WHEN", default_value_t = Strategy::Steps)]
    pub(super) save_strategy: Strategy,
    /// Write a checkpoint every N steps.
    #[arg(long = "save_steps", value_name = "N", default_value_t = 500, value_parser = at_least_one::<u64>)]
    pub(super) save_steps: u64,
    /// Keep this many checkpoints and remove older ones [default: keep all].
    #[arg(long = "save_total_limit", value_name = "N", value_parser = at_least_one::<usize>)]
    pub(super) save_total_limit: Option<usize>,
    /// Type of the saved model's weights [default: what the program keeps, as checkpoints do].
    #[arg(long = "save_dtype", value_enum, value_name = "TYPE")]
    pub(super) save_dtype: Option<SaveDtype>,
    /// Go on from a checkpoint: its folder, or `latest` for the newest of --output_dir.
    #[arg(long = "resume_from_checkpoint", value_name = "DIR|latest", num_args = 0..=1, default_missing_value = "latest")]
    pub(super) resume_from_checkpoint: Option<String>,
    /// Go on from a checkpoint of a run with other settings.
    #[arg(long = "allow_resume_mismatch", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub(super) allow_resume_mismatch: bool,
    /// Stop after N evaluations in a row without a lower loss.
    #[arg(long = "early_stopping_patience", value_name = "N", value_parser = at_least_one::<u64>)]
    pub(super) early_stopping_patience: Option<u64>,
    /// By how much a loss must be lower to count.
    #[arg(long = "early_stopping_threshold", value_name = "X", default_value_t = 0.0, value_parser = at_least_zero)]
    pub(super) early_stopping_threshold: f64,
    /// Samples of an evaluation batch.
    #[arg(long = "per_device_eval_batch_size", value_name = "N", default_value_t = 1, value_parser = at_least_one::<usize>)]
    pub(super) eval_batch_size: usize,
    /// Folder that keeps compiled programs for the next run of the same shape.
    #[arg(long = "executable_cache_dir", value_name = "DIR")]
    pub(super) executable_cache_dir: Option<PathBuf>,
    /// Leave out the samples that do not fill a batch of evaluation over all replicas; training always does.
    #[arg(long = "dataloader_drop_last", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub(super) drop_last: bool,
    /// Accepted for the sake of scripts: batches are read in this process.
    #[arg(long = "dataloader_num_workers", value_name = "N", hide = true)]
    _workers: Option<u32>,
    /// Accepted for the sake of scripts: tokenising takes all threads.
    #[arg(long = "preprocessing_num_workers", value_name = "N", hide = true)]
    _preprocessing_workers: Option<u32>,
    #[command(flatten)]
    pub(super) host: HostOptions,
}

impl ScheduleOptions {
    /// Updates of a step.
    pub(super) fn device_iterations(&self) -> usize {
        self.device_iterations.unwrap_or(1)
    }

    /// Takes what the command line leaves open from an IPU configuration.
    pub(super) fn fill(&mut self, ipu: &IpuSettings) {
        self.device_iterations = self.device_iterations.or(ipu.device_iterations);
    }

    /// Samples of the whole run as Hugging Face counts them: epochs of the data, or full steps where these are given.
    pub(super) fn samples(&self, data: usize, samples_per_step: usize) -> f64 {
        match self.max_steps {
            Some(steps) if steps > 0 => (steps as usize * samples_per_step) as f64,
            _ => self.num_train_epochs * data as f64,
        }
    }

    pub(super) fn steps(&self, steps_per_epoch: u64) -> u64 {
        match self.max_steps {
            Some(steps) if steps > 0 => steps.unsigned_abs(),
            _ => ((self.num_train_epochs * steps_per_epoch as f64).ceil() as u64).max(1),
        }
    }

    pub(super) fn schedule(&self, steps: u64) -> Schedule {
        let warmup = if self.warmup_steps > 0 {
            Warmup::Steps(self.warmup_steps)
        } else {
            Warmup::Ratio(self.warmup_ratio)
        };
        Schedule::new(self.lr_scheduler_type, self.learning_rate, steps, warmup)
    }
}

fn percentage(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number
        .filter(|&x| x > 0.0 && x < 100.0)
        .ok_or_else(|| "it must be a number above 0 and below 100".into())
}

/// When something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Strategy {
    No,
    Steps,
    Epoch,
}

impl OutputOptions {
    pub(super) fn cadence(&self, steps: u64, steps_per_epoch: u64) -> Cadence {
        // As in Hugging Face: evaluations come as often as logs when only their strategy is given.
        let logging_steps = self.logging_steps.unwrap_or(steps.div_ceil(10)).max(1);
        let eval_strategy = self.eval_strategy.unwrap_or(match self.eval_steps {
            Some(_) => Strategy::Steps,
            None => Strategy::No,
        });
        let every = |strategy, steps| match strategy {
            Strategy::No => None,
            Strategy::Steps => Some(steps),
            Strategy::Epoch => Some(steps_per_epoch),
        };
        Cadence {
            logging_steps,
            logging_first_step: self.logging_first_step,
            eval_steps: every(eval_strategy, self.eval_steps.unwrap_or(logging_steps)),
            save_steps: every(self.save_strategy, self.save_steps),
            save_total_limit: self.save_total_limit,
            early_stopping_patience: self.early_stopping_patience,
            early_stopping_threshold: self.early_stopping_threshold,
        }
    }

    /// Refuses options that would come to nothing.
    pub(super) fn check(&self) -> Result<(), Error> {
        let evaluates = match self.eval_strategy {
            None => self.eval_steps.is_some(),
            Some(strategy) => strategy != Strategy::No,
        };
        let stops_early = self.early_stopping_patience.is_some();
        let wrong = match (self.do_train, self.do_eval) {
            (false, false) => "nothing to do: --do_train is false, and --do_eval is not given",
            (_, false) if evaluates || stops_early || self.eval_steps.is_some() => {
                "evaluating during training needs --do_eval"
            }
            _ if stops_early && !evaluates => {
                "--early_stopping_patience counts evaluations during training: give --eval_steps N or --eval_strategy"
            }
            _ => return Ok(()),
        };
        Err(Error::usage(wrong))
    }

    /// Where TensorBoard's files go, if anywhere.
    pub(super) fn events_folder(&self) -> Option<PathBuf> {
        if self.report_to == "none" {
            return None;
        }
        let default = || self.output_dir.as_deref().map(|dir| dir.join("runs"));
        self.logging_dir.clone().or_else(default)
    }
}

/// A number of steps; as in run_clm.py, a negative one leaves it to the epochs.
fn steps(text: &str) -> Result<i64, String> {
    text.parse()
        .ok()
        .filter(|&steps| steps != 0)
        .ok_or_else(|| "it must be a whole number of at least 1".into())
}
