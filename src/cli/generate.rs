//! `superstep generate`: continue a prompt.

use std::io::Write;
use std::sync::Arc;

use clap::Args;

use super::host_options::HostOptions;
use super::model_options::ModelOptions;
use super::output::say;
use super::plan_cache_options::PlanCacheOptions;
use super::program_options::{above_zero, at_least_one, ratio};
use crate::compile::{PlanCache, compile_generation, machine_named};
use crate::error::Error;
use crate::frontend::tokenizer::END_OF_TEXT;
use crate::frontend::{Gpt2Config, Tokenizer, Weights};
use crate::generate::{Generation, Sampling, generate};
use crate::precision::Precision;
use crate::session::Session;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Text to continue.
    #[arg(long = "prompt", value_name = "TEXT")]
    prompt: String,
    /// How many tokens to add.
    #[arg(long = "max_new_tokens", value_name = "N", default_value_t = 40)]
    max_new_tokens: usize,
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
    /// Positions that the model sees [default: the prompt and what is to come, at most n_positions].
    #[arg(long = "block_size", value_name = "N", value_parser = at_least_one::<usize>)]
    block_size: Option<usize>,
    /// Element types: f32, f16.16, f16.32; recipe is f16.16 here.
    #[arg(long = "precision", value_enum, value_name = "NAME", default_value_t = Precision::F32)]
    precision: Precision,
    /// Machine: ipu, pod4, pod8, pod16, pod32, pod64, or a file that describes one [default: pod4].
    #[arg(long = "machine", value_name = "NAME|FILE.toml")]
    machine: Option<String>,
    #[command(flatten)]
    plan_cache: PlanCacheOptions,
    #[command(flatten)]
    host: HostOptions,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
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
            sampling: self.sampling(),
            seed: self.seed,
            plans: &plans,
        };
        continuation.print(&self.prompt)
    }

    fn sampling(&self) -> Sampling {
        match (self.temperature, self.top_k, self.top_p) {
            (None, None, None) => Sampling::Greedy,
            (temperature, top_k, top_p) => Sampling::Draw {
                temperature: temperature.unwrap_or(1.0),
                top_k,
                top_p,
            },
        }
    }
}

/// A prompt's continuation by a model.
pub(super) struct Continuation<'a> {
    pub(super) config: &'a Gpt2Config,
    pub(super) weights: &'a Weights,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) machine: Option<&'a str>,
    pub(super) host: HostOptions,
    pub(super) precision: Precision,
    pub(super) max_new_tokens: usize,
    pub(super) block_size: Option<usize>,
    pub(super) sampling: Sampling,
    pub(super) seed: u64,
    pub(super) plans: &'a PlanCache,
}

impl Continuation<'_> {
    /// Prints the prompt and, as it comes, what the model adds to it.
    pub(super) fn print(&self, prompt: &str) -> Result<(), Error> {
        let mut ids = self.tokenizer.encode(prompt)?;
        // A model continues something: an empty prompt starts a text.
        if ids.is_empty() {
            ids.extend(self.config.bos_token_id);
        }
        if ids.is_empty() {
            return Err(Error::failed(
                "the prompt is empty, and the model has no token that starts a text",
            ));
        }
        let limit = self.config.vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= limit) {
            return Err(Error::failed(format!(
                "the prompt has token id {id}, outside the model's vocabulary of {limit}"
            )));
        }
        let wanted = (ids.len() + self.max_new_tokens).min(self.config.n_positions);
        let length = self
            .config
            .block_size(Some(self.block_size.unwrap_or(wanted)))?;
        let machine = machine_named(self.machine)?;
        let program =
            compile_generation(self.config, &machine, self.precision, length, self.plans)?;
        let mut session = Session::load(Arc::new(program), self.weights, &self.host.engine())?;
        let stop = self
            .config
            .eos_token_id
            .or_else(|| self.tokenizer.token_id(END_OF_TEXT));
        let generation = Generation {
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling,
            seed: self.seed,
            stop,
            length,
        };
        let mut out = TextSoFar {
            tokenizer: self.tokenizer,
            ids: Vec::new(),
            printed: 0,
        };
        show(prompt);
        generate(&mut session, &ids, &generation, &mut |id| out.push(id))?;
        say("");
        Ok(())
    }
}

/// Prints tokens as text; a character made of several tokens waits for its last.
struct TextSoFar<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    printed: usize,
}

impl TextSoFar<'_> {
    fn push(&mut self, id: u32) {
        self.ids.push(id);
        let Ok(text) = self.tokenizer.decode(&self.ids) else {
            return;
        };
        let whole = text.trim_end_matches('\u{FFFD}');
        if let Some(new) = whole.get(self.printed..) {
            show(new);
            self.printed = whole.len();
        }
    }
}

fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away is no reason to fail.
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}
