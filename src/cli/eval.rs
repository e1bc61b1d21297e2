//! `superstep eval`: loss and perplexity over a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::ProgressBar;
use superstep_ir::machine::Machine;

use super::data_options::DataFile;
use super::model_options::ModelOptions;
use super::output::{prepare_directory, say};
use super::program_options::at_least_one;
use crate::atomic_file;
use crate::compile::{compile_evaluation, machine_named};
use crate::data::TokenBlocks;
use crate::error::Error;
use crate::evaluate::{Evaluation, evaluate};
use crate::frontend::{Gpt2Config, Weights};
use crate::session::Session;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Text or tokens (.npy, .json) to evaluate on.
    #[arg(
        long = "validation_file",
        value_name = "FILE",
        visible_alias = "eval_file",
        conflicts_with = "validation_tokens"
    )]
    validation_file: Option<PathBuf>,
    /// Tokens to evaluate on, whatever the name of the file ends in.
    #[arg(
        long = "validation_tokens",
        value_name = "TOKENS",
        visible_alias = "eval_tokens"
    )]
    validation_tokens: Option<PathBuf>,
    /// Tokens of a sample [default: the model's n_positions, at most 1024].
    #[arg(long = "block_size", value_name = "N", value_parser = at_least_one::<usize>)]
    block_size: Option<usize>,
    /// Samples of a batch.
    #[arg(long = "per_device_eval_batch_size", value_name = "N", default_value_t = 1, value_parser = at_least_one::<usize>)]
    batch_size: usize,
    /// Machine: ipu, pod4, pod16, pod64, or a file that describes one [default: pod4].
    #[arg(long = "machine", value_name = "NAME|FILE.toml")]
    machine: Option<String>,
    /// Seed of the weights of a model that has a shape only.
    #[arg(long = "seed", value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Folder for eval_results.json.
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Host threads; results do not depend on it [default: all].
    #[arg(long = "threads", value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// How an evaluation runs.
pub(super) struct EvalSettings<'a> {
    pub(super) machine: &'a Machine,
    pub(super) batch_size: usize,
    pub(super) threads: usize,
    pub(super) output_dir: Option<&'a Path>,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        let data = match (&self.validation_file, &self.validation_tokens) {
            (Some(file), _) => DataFile::by_name(file),
            (None, Some(tokens)) => DataFile::Tokens(tokens.clone()),
            (None, None) => return Err(Error::usage("no data: give --validation_file FILE")),
        };
        if let Some(directory) = &self.output_dir {
            prepare_directory(directory)?;
        }
        let model = self.model.load()?;
        let weights = model.weights(self.seed)?;
        let blocks = data.load(&model, self.block_size)?;
        let settings = EvalSettings {
            machine: &machine_named(self.machine.as_deref())?,
            batch_size: self.batch_size,
            threads: self.threads,
            output_dir: self.output_dir.as_deref(),
        };
        run_evaluation(&model.config, &weights, &blocks, &settings).map(|_| ())
    }
}

/// Evaluates, prints the result, and keeps it in `eval_results.json`.
pub(super) fn run_evaluation(
    config: &Gpt2Config,
    weights: &Weights,
    blocks: &TokenBlocks,
    settings: &EvalSettings,
) -> Result<Evaluation, Error> {
    let batch_size = settings.batch_size.min(blocks.len());
    let program = compile_evaluation(config, settings.machine, batch_size, blocks.block_size())?;
    let mut session = Session::load(Arc::new(program), weights, settings.threads)?;
    let bar = ProgressBar::new(blocks.len() as u64);
    let result = evaluate(&mut session, blocks, batch_size, &mut |done| {
        bar.set_position(done as u64)
    });
    bar.finish_and_clear();
    let evaluation = result?;
    say(format_args!(
        "eval_loss {:.4}   perplexity {:.3}   over {} samples of {} tokens",
        evaluation.eval_loss,
        evaluation.perplexity,
        evaluation.eval_samples,
        blocks.block_size(),
    ));
    if let Some(directory) = settings.output_dir {
        let text =
            serde_json::to_string_pretty(&evaluation).map_err(|e| Error::failed(e.to_string()))?;
        atomic_file::write(
            &directory.join("eval_results.json"),
            format!("{text}\n").as_bytes(),
        )?;
    }
    Ok(evaluation)
}
