//! `superstep eval`: loss and perplexity over a file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Map, Value};
use superstep_ir::machine::Machine;

use super::data_options::{DataFile, TextOptions};
use super::host_options::HostOptions;
use super::model_options::ModelOptions;
use super::output::{note, prepare_directory, say};
use super::plan_cache_options::PlanCacheOptions;
use super::program_options::at_least_one;
use crate::compile::{ExecutableCache, Origin, machine_named};
use crate::data::TokenBlocks;
use crate::data::dataset::Split;
use crate::error::Error;
use crate::evaluate::{Evaluation, evaluate};
use crate::frontend::{Gpt2Config, Weights};
use crate::precision::Precision;
use crate::session::Session;
use crate::train::results;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    text: TextOptions,
    /// Text (.txt, .jsonl, .parquet, a folder) or tokens (.npy, .json) to evaluate on.
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
    /// Machine: ipu, pod4, pod8, pod16, pod32, pod64, or a file that describes one [default: pod4].
    #[arg(long = "machine", value_name = "NAME|FILE.toml")]
    machine: Option<String>,
    /// Element types: f32, f16.16, f16.32; recipe is f16.16 here.
    #[arg(long = "precision", value_enum, value_name = "NAME", default_value_t = Precision::F32)]
    precision: Precision,
    /// Seed of the weights of a model that has a shape only.
    #[arg(long = "seed", value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Folder for eval_results.json.
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Folder that keeps compiled programs for the next run of the same shape.
    #[arg(long = "executable_cache_dir", value_name = "DIR")]
    executable_cache_dir: Option<PathBuf>,
    #[command(flatten)]
    plan_cache: PlanCacheOptions,
    #[command(flatten)]
    host: HostOptions,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        let data = match (&self.validation_file, &self.validation_tokens) {
            (Some(file), _) => self.text.file(file)?,
            (None, Some(tokens)) => DataFile::Tokens(tokens.clone()),
            (None, None) => self.dataset()?,
        };
        if let Some(directory) = &self.output_dir {
            prepare_directory(directory)?;
        }
        let model = self.model.load()?;
        let weights = model.weights(self.seed)?;
        let blocks = data.load(&model, self.block_size, &self.text, "validation")?;
        let machine = machine_named(self.machine.as_deref())?;
        let mut evaluator = Evaluator::new(&model.config, &machine, blocks, self.batch_size);
        evaluator.host = self.host;
        evaluator.precision = self.precision;
        evaluator.cache = ExecutableCache {
            directory: self.executable_cache_dir.clone(),
            plans: self.plan_cache.cache()?,
        };
        let evaluation = evaluator.evaluate(&weights)?;
        say(evaluator.line(&evaluation));
        match &self.output_dir {
            Some(directory) => results::write(directory, "eval", &evaluator.results(&evaluation)),
            None => Ok(()),
        }
    }

    fn dataset(&self) -> Result<DataFile, Error> {
        let Some(name) = &self.text.dataset_name else {
            return Err(Error::usage(
                "no data: give --validation_file FILE or --dataset_name NAME",
            ));
        };
        let found = self.text.dataset(name, Split::Validation)?;
        found.ok_or_else(|| {
            let message = format!("the data set `{name}` has no files of a validation split");
            Error::failed(message).with_hint("name a file with --validation_file")
        })
    }
}

/// A model's forward pass over held-out samples, compiled when it is first needed and then kept.
pub(super) struct Evaluator<'a> {
    config: &'a Gpt2Config,
    machine: &'a Machine,
    blocks: TokenBlocks,
    batch_size: usize,
    pub(super) host: HostOptions,
    pub(super) precision: Precision,
    pub(super) cache: ExecutableCache,
    session: Option<Session>,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(
        config: &'a Gpt2Config,
        machine: &'a Machine,
        blocks: TokenBlocks,
        batch_size: usize,
    ) -> Evaluator<'a> {
        Evaluator {
            config,
            machine,
            batch_size: batch_size.min(blocks.len()),
            blocks,
            host: HostOptions::default(),
            precision: Precision::default(),
            cache: ExecutableCache::default(),
            session: None,
        }
    }

    /// Loss and perplexity of these weights.
    pub(super) fn evaluate(&mut self, weights: &Weights) -> Result<Evaluation, Error> {
        let session = match &mut self.session {
            Some(session) => {
                session.write_weights(weights)?;
                session
            }
            none => {
                let length = self.blocks.block_size();
                let (program, origin) = self.cache.evaluation(
                    self.config,
                    self.machine,
                    self.precision,
                    self.batch_size,
                    length,
                )?;
                if let Origin::MadeAnew(reason) = origin {
                    note(format_args!("the kept program cannot be used: {reason}"));
                }
                none.insert(Session::load(
                    Arc::new(program),
                    weights,
                    &self.host.engine(),
                )?)
            }
        };
        let bar = ProgressBar::new(self.blocks.len() as u64);
        let result = evaluate(session, &self.blocks, self.batch_size, &mut |done| {
            bar.set_position(done as u64)
        });
        bar.finish_and_clear();
        result
    }

    /// The result in a line.
    pub(super) fn line(&self, evaluation: &Evaluation) -> String {
        format!(
            "eval_loss {:.4}   perplexity {:.3}   over {} samples of {} tokens",
            evaluation.eval_loss,
            evaluation.perplexity,
            evaluation.eval_samples,
            self.blocks.block_size(),
        )
    }

    /// The result as `eval_results.json` has it.
    pub(super) fn results(&self, evaluation: &Evaluation) -> Map<String, Value> {
        match serde_json::to_value(evaluation) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}
