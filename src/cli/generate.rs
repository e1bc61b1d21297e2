//! `superstep generate`: continue prompts.

mod continuation;

use std::path::{Path, PathBuf};

use clap::Args;

use super::host_options::HostOptions;
use super::model_options::ModelOptions;
use super::output::check_writable_file;
use super::plan_cache_options::PlanCacheOptions;
use super::program_options::{above_zero, at_least_one, ratio};
use crate::error::Error;
use crate::generate::Sampling;
use crate::precision::Precision;
pub(super) use continuation::Continuation;

/// Tokens to add where the user does not say, if the model has so many positions.
const NEW_TOKENS: usize = 40;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Text to continue; more than once: several texts side by side.
    #[arg(
        long = "prompt",
        value_name = "TEXT",
        required_unless_present = "prompt_file"
    )]
    prompt: Vec<String>,
    /// File with a text to continue in each line; blank lines are passed over.
    #[arg(long = "prompt_file", value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// How many tokens to add [default: 40, or as many as the model has positions for].
    #[arg(long = "max_new_tokens", value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Continuations of each prompt, which need a draw to differ.
    #[arg(
        long = "num_return_sequences",
        value_name = "N",
        value_parser = at_least_one::<usize>,
        default_value = "1"
    )]
    num_return_sequences: usize,
    /// Sequences that go through the program together [default: all, at most 16].
    #[arg(long = "batch_size", value_name = "N", value_parser = at_least_one::<usize>)]
    batch_size: Option<usize>,
    /// Take the most likely token each time; this is so unless one of the options below asks for a draw.
    #[arg(long = "greedy", conflicts_with_all = ["temperature", "top_k", "top_p"])]
    greedy: bool,
    /// Draw, after dividing the logits by this.
    #[arg(long = "temperature", value_name = "X", value_parser = above_zero)]
    temperature: Option<f64>,
    /// Draw among the N most likely tokens.
    #[arg(long = "top_k", value_name = "N", value_parser = at_least_one::<usize>)]
    top_k: Option<usize>,
    /// Draw among the fewest tokens that together have this probability.
    #[arg(long = "top_p", value_name = "X", value_parser = ratio)]
    top_p: Option<f64>,
    /// Seed of the draws.
    #[arg(long = "seed", value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Positions of the cache of keys and values [default: the longest prompt and what is to come].
    #[arg(long = "block_size", value_name = "N", value_parser = at_least_one::<usize>)]
    block_size: Option<usize>,
    /// Write what is generated to this file, a JSON object for each sequence and line.
    #[arg(long = "output_file", value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Element types: f32, f16.16, f16.32; recipe is f16.16 here.
    #[arg(long = "precision", value_enum, value_name = "NAME", default_value_t = Precision::F32)]
    precision: Precision,
    /// Machine: ipu, pod4, pod8, pod16, pod32, pod64, or a file that describes one; behind it what differs, as in pod4,tiles_per_ipu=256 [default: pod4].
    #[arg(long = "machine", value_name = "NAME|FILE.toml[,KEY=VALUE…]")]
    machine: Option<String>,
    #[command(flatten)]
    plan_cache: PlanCacheOptions,
    #[command(flatten)]
    host: HostOptions,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        let sampling = self.sampling()?;
        let prompts = self.prompts()?;
        if let Some(file) = &self.output_file {
            check_writable_file(file)?;
        }
        let model = self.model.load()?;
        let weights = model.trained_weights()?;
        let tokenizer = model.tokenizer()?;
        let plans = self.plan_cache.cache()?;
        let continuation = Continuation {
            config: &model.config,
            weights: &weights,
            tokenizer: &tokenizer,
            machine: self.machine.as_deref(),
            host: self.host,
            precision: self.precision,
            max_new_tokens: self.max_new_tokens,
            block_size: self.block_size,
            num_return_sequences: self.num_return_sequences,
            batch_size: self.batch_size,
            sampling,
            seed: self.seed,
            plans: &plans,
        };
        let sequences = continuation.print(&prompts)?;
        match &self.output_file {
            Some(file) => continuation::write_json_lines(file, &sequences),
            None => Ok(()),
        }
    }

    fn sampling(&self) -> Result<Sampling, Error> {
        match (self.temperature, self.top_k, self.top_p) {
            (None, None, None) if self.num_return_sequences > 1 => Err(Error::usage(
                "--num_return_sequences gives the same text every time when the most likely token is taken: add --temperature, --top_k or --top_p",
            )),
            (None, None, None) => Ok(Sampling::Greedy),
            (temperature, top_k, top_p) => Ok(Sampling::Draw {
                temperature: temperature.unwrap_or(1.0),
                top_k,
                top_p,
            }),
        }
    }

    fn prompts(&self) -> Result<Vec<String>, Error> {
        let mut prompts = self.prompt.clone();
        if let Some(file) = &self.prompt_file {
            prompts.extend(lines_of(file)?);
        }
        Ok(prompts)
    }
}

/// The lines of a file that are not blank, at least one.
fn lines_of(file: &Path) -> Result<Vec<String>, Error> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::failed(format!("cannot read {name}: {error}")))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    match lines.is_empty() {
        true => Err(Error::failed(format!("{name} has no line to continue"))),
        false => Ok(lines),
    }
}
