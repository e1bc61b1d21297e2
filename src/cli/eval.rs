//! `superstep eval`: loss and perplexity over a file.

use std::path::PathBuf;

use clap::Args;
use superstep_ir::machine::Machine;

use super::data_options::{DataFile, TextOptions};
use super::evaluator::Evaluator;
use super::host_options::HostOptions;
use super::inference_options::InferenceOptions;
use super::ipu_options::{IpuLayout, IpuOptions};
use super::layer_list::{LayerList, parse_layers};
use super::model_options::ModelOptions;
use super::output::{prepare_directory, say};
use super::plan_cache_options::PlanCacheOptions;
use super::program_options::at_least_one;
use crate::compile::ExecutableCache;
use crate::data::dataset::Split;
use crate::error::Error;
use crate::precision::Precision;
use crate::settings::EvaluationSettings;
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
    /// Machine: ipu, pod4, pod8, pod16, pod32, pod64, or a file that describes one; behind it what differs, as in pod4,tiles_per_ipu=256 [default: pod4].
    #[arg(long = "machine", value_name = "NAME|FILE.toml[,KEY=VALUE…]")]
    machine: Option<String>,
    #[command(flatten)]
    ipu: IpuOptions,
    /// Decoder layers on each IPU, such as "[1 1]" [default: found by the compiler].
    #[arg(long = "layers_per_ipu", value_name = "LIST", value_parser = parse_layers)]
    layers_per_ipu: Option<LayerList>,
    /// Divide every layer over a group of N IPUs: each entry of --layers_per_ipu is a group then [default: 1].
    #[arg(long = "tensor_parallel", value_name = "N", value_parser = at_least_one::<u32>)]
    tensor_parallel: Option<u32>,
    /// All IPUs work at the same time, each on another micro-batch [default: true with --ipu_config_name, else false].
    #[arg(long = "pipeline", value_name = "true|false")]
    pipeline: Option<bool>,
    #[command(flatten)]
    inference: InferenceOptions,
    /// Element types: f32, f16.16, f16.32; recipe is f16.16 here [default: f32].
    #[arg(long = "precision", value_enum, value_name = "NAME")]
    precision: Option<Precision>,
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
        let machine = self.ipu.machine(self.machine.as_deref())?;
        let layout = self
            .ipu
            .load(&machine, &model.config, self.tensor_parallel)?;
        let settings = self.settings(machine, blocks.block_size(), &layout);
        settings.check()?;
        let mut evaluator = Evaluator::new(&model.config, settings, blocks);
        evaluator.host = self.host;
        let cache = &layout.settings.executable_cache_dir;
        evaluator.cache = ExecutableCache {
            directory: self.executable_cache_dir.clone().or(cache.clone()),
            plans: self.plan_cache.cache()?,
        };
        let evaluation = evaluator.evaluate(&weights)?;
        if let Some(pace) = evaluator.pace() {
            say(pace);
        }
        say(evaluator.line(&evaluation));
        match &self.output_dir {
            Some(directory) => results::write(directory, "eval", &evaluator.results(&evaluation)),
            None => Ok(()),
        }
    }

    /// The command line goes before the IPU configuration.
    fn settings(
        &self,
        machine: Machine,
        block_size: usize,
        layout: &IpuLayout,
    ) -> EvaluationSettings {
        let ipu = &layout.settings;
        let mut inference = self.inference;
        inference.fill(ipu);
        let precision = self.precision.unwrap_or(ipu.precision);
        let mut open = EvaluationSettings::new(machine, precision, block_size, self.batch_size);
        open.pipelined = self.pipeline.unwrap_or(layout.config.is_some());
        let members = self.tensor_parallel.or(ipu.tensor_parallel);
        open.tensor_parallel = members.unwrap_or(1);
        let training_layers = ipu.layers_per_ipu.as_deref().filter(|_| open.pipelined);
        let mut settings = inference.apply(ipu, training_layers, open);
        if let Some(LayerList(layers)) = &self.layers_per_ipu {
            settings.layers_per_ipu = Some(layers.clone());
            settings.ipus_per_replica = None;
        }
        settings.tensor_parallel = members.unwrap_or(settings.tensor_parallel);
        settings
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
