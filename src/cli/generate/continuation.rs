//! Prompts continued by a model, and printed.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use superstep_runtime::timeline::{Timeline, timeline};

use super::NEW_TOKENS;
use crate::atomic_file;
use crate::cli::host_options::HostOptions;
use crate::cli::output::{note, print, say};
use crate::compile::{PlanCache, compile_generation, machine_named};
use crate::error::Error;
use crate::frontend::model::CacheShape;
use crate::frontend::tokenizer::END_OF_TEXT;
use crate::frontend::{Gpt2Config, Tokenizer, Weights};
use crate::generate::{Generation, Pace, Prompt, Sampling, generate, positions_needed};
use crate::precision::Precision;
use crate::report::format::{grouped, seconds, three_digits};
use crate::session::Session;

/// Sequences that go through the program together where the user does not say.
const BATCH_SIZE: usize = 16;

/// Texts of one command; all are kept until the end.
const MOST_SEQUENCES: usize = 1 << 20;

/// Continuations of prompts by a model.
pub(in crate::cli) struct Continuation<'a> {
    pub(in crate::cli) config: &'a Gpt2Config,
    pub(in crate::cli) weights: &'a Weights,
    pub(in crate::cli) tokenizer: &'a Tokenizer,
    pub(in crate::cli) machine: Option<&'a str>,
    pub(in crate::cli) host: HostOptions,
    pub(in crate::cli) precision: Precision,
    /// Absent: [`NEW_TOKENS`], or what fits.
    pub(in crate::cli) max_new_tokens: Option<usize>,
    /// Positions of the cache.
    pub(in crate::cli) block_size: Option<usize>,
    pub(in crate::cli) num_return_sequences: usize,
    pub(in crate::cli) batch_size: Option<usize>,
    pub(in crate::cli) sampling: Sampling,
    pub(in crate::cli) seed: u64,
    pub(in crate::cli) plans: &'a PlanCache,
}

/// A prompt and what was added to it.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Sequence {
    prompt: String,
    prompt_tokens: Vec<u32>,
    text: String,
    tokens: Vec<u32>,
}

impl Continuation<'_> {
    /// Prints every prompt and what the model adds to it: as it comes if there is one only. Then, on stderr, how long it took.
    pub(in crate::cli) fn print(&self, prompts: &[String]) -> Result<Vec<Sequence>, Error> {
        let ids: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| self.ids(prompt))
            .collect::<Result<_, _>>()?;
        let count = self.sequences(ids.len())?;
        let generation = self.generation(&ids, count)?;
        let machine = machine_named(self.machine)?;
        let shape = generation.shape;
        let program = compile_generation(self.config, &machine, self.precision, shape, self.plans)?;
        let timeline = timeline(&program);
        let mut session = Session::load(Arc::new(program), self.weights, &self.host.engine())?;
        let sequences: Vec<Prompt<'_>> = ids
            .iter()
            .flat_map(|ids| (0..self.num_return_sequences).map(|number| Prompt { ids, number }))
            .collect();
        let mut out = TextSoFar::new(self.tokenizer);
        if count == 1 {
            print(&prompts[0]);
        }
        let mut watch = |_: usize, id| {
            if count == 1 {
                out.push(id);
            }
        };
        let generated = generate(&mut session, &sequences, &generation, &mut watch)?;
        let mut made = Vec::with_capacity(count);
        for (i, tokens) in generated.tokens.into_iter().enumerate() {
            let prompt = i / self.num_return_sequences;
            made.push(Sequence {
                prompt: prompts[prompt].clone(),
                prompt_tokens: ids[prompt].clone(),
                text: self.tokenizer.decode(&tokens)?,
                tokens,
            });
        }
        match count {
            1 => say(""),
            _ => made.iter().enumerate().for_each(|(i, s)| self.say(i, s)),
        }
        print_pace(&generated.pace, &generation, &timeline, &machine.name);
        Ok(made)
    }

    /// How many texts there will be.
    fn sequences(&self, prompts: usize) -> Result<usize, Error> {
        let count = prompts.checked_mul(self.num_return_sequences);
        count.filter(|&count| count <= MOST_SEQUENCES).ok_or_else(|| {
            Error::failed(format!(
                "{prompts} prompts with {} continuations each are more than {MOST_SEQUENCES} texts",
                self.num_return_sequences
            ))
        })
    }

    fn say(&self, i: usize, sequence: &Sequence) {
        let (prompt, number) = (
            i / self.num_return_sequences + 1,
            i % self.num_return_sequences + 1,
        );
        let which = match self.num_return_sequences {
            1 => format!("prompt {prompt}"),
            _ => format!("prompt {prompt}, continuation {number}"),
        };
        let gap = if i == 0 { "" } else { "\n" };
        say(format_args!(
            "{gap}--- {which} ---\n{}{}",
            sequence.prompt, sequence.text
        ));
    }

    /// The token ids of a prompt, at least one.
    fn ids(&self, prompt: &str) -> Result<Vec<u32>, Error> {
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
        Ok(ids)
    }

    /// How far to go with `count` continuations of these prompts, and the program for it.
    fn generation(&self, prompts: &[Vec<u32>], count: usize) -> Result<Generation, Error> {
        let prompt = prompts.iter().map(Vec::len).max().unwrap_or(1);
        let limit = match self.block_size {
            Some(_) => self.config.block_size(self.block_size)?,
            None => self.config.n_positions,
        };
        let room = (limit + 1).saturating_sub(prompt);
        let wanted = self.max_new_tokens.unwrap_or(NEW_TOKENS.min(room));
        if room == 0 || wanted > room {
            return Err(self.no_room(prompt, wanted, limit));
        }
        let positions = self
            .block_size
            .unwrap_or(positions_needed(prompt, wanted).max(prompt));
        let stop = self
            .config
            .eos_token_id
            .or_else(|| self.tokenizer.token_id(END_OF_TEXT));
        Ok(Generation {
            max_new_tokens: wanted,
            sampling: self.sampling,
            seed: self.seed,
            stop,
            shape: CacheShape {
                batch: self.batch_size.unwrap_or(BATCH_SIZE).min(count.max(1)),
                prompt,
                positions,
            },
        })
    }

    /// Why a prompt and its new tokens are too long.
    fn no_room(&self, prompt: usize, wanted: usize, limit: usize) -> Error {
        let (whose, more) = match self.block_size {
            Some(_) => ("--block_size is", "a larger --block_size, or "),
            None => ("the model's n_positions are", ""),
        };
        let error = match prompt > limit {
            true => format!("the longest prompt has {prompt} tokens, {whose} {limit}"),
            false => format!(
                "the longest prompt has {prompt} tokens, and {wanted} new ones go beyond its positions: {whose} {limit}"
            ),
        };
        let hint = match prompt > limit {
            true => format!("{more}a shorter prompt"),
            false => format!("{more}--max_new_tokens {} or less", limit + 1 - prompt),
        };
        Error::failed(error).with_hint(hint)
    }
}

/// What a host and the machine take for both parts of the program.
fn print_pace(pace: &Pace, generation: &Generation, timeline: &Timeline, machine: &str) {
    let CacheShape {
        batch,
        prompt,
        positions,
    } = generation.shape;
    let part = |name: &str| {
        let cycles = timeline.procedure_cycles(name).unwrap_or(0);
        (cycles, cycles as f64 / timeline.clock_hz)
    };
    if pace.prefills > 0 {
        let (cycles, on_machine) = part("prefill");
        note(format_args!(
            "prefill of {batch} × {prompt} tokens: {} here; {} cycles, {} on {machine}",
            seconds(pace.prefill.as_secs_f64() / f64::from(pace.prefills)),
            grouped(cycles),
            seconds(on_machine),
        ));
    }
    if pace.decodes > 0 {
        let (cycles, on_machine) = part("decode");
        note(format_args!(
            "decode of {batch} at once over {positions} positions: {} tokens, {} tokens/s here; {} cycles a token of each, {} on {machine}, {} tokens/s",
            pace.decoded_tokens,
            three_digits(pace.decoded_tokens as f64 / pace.decode.as_secs_f64()),
            grouped(cycles),
            seconds(on_machine),
            three_digits(batch as f64 / on_machine),
        ));
    }
}

/// A JSON object a line for every sequence.
pub(super) fn write_json_lines(file: &Path, sequences: &[Sequence]) -> Result<(), Error> {
    let mut text = String::new();
    for sequence in sequences {
        let line = serde_json::to_string(sequence)
            .map_err(|error| Error::failed(format!("cannot write {}: {error}", file.display())))?;
        text.push_str(&line);
        text.push('\n');
    }
    Ok(atomic_file::write(file, text.as_bytes())?)
}

/// Prints tokens as text; a character made of several tokens waits for its last.
struct TextSoFar<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    printed: usize,
}

impl<'a> TextSoFar<'a> {
    fn new(tokenizer: &'a Tokenizer) -> TextSoFar<'a> {
        TextSoFar {
            tokenizer,
            ids: Vec::new(),
            printed: 0,
        }
    }

    fn push(&mut self, id: u32) {
        self.ids.push(id);
        let Ok(text) = self.tokenizer.decode(&self.ids) else {
            return;
        };
        let whole = text.trim_end_matches('\u{FFFD}');
        if let Some(new) = whole.get(self.printed..) {
            print(new);
            self.printed = whole.len();
        }
    }
}
