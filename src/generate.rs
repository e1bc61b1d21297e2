//! Continuing prompts, several at once: their positions together, which fills a cache of keys and values in tile memory, then a position of
//! each at a time. The host draws tokens and says where they stand; all else is the program's.

mod host;
pub mod sampling;

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::frontend::model::CacheShape;
use crate::session::Session;
use host::{DecodeHost, PrefillHost};
pub use sampling::Sampling;

/// How far to go and how to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generation {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    pub seed: u64,
    /// Ends a text when chosen.
    pub stop: Option<u32>,
    /// Of the compiled program.
    pub shape: CacheShape,
}

/// A text to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt<'a> {
    /// At least one token, and no more than the program's prompts have positions.
    pub ids: &'a [u32],
    /// Of several continuations of a prompt, which one: each draws random numbers of its own, whatever else is generated beside it.
    pub number: usize,
}

/// New tokens, by prompt, and what it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    pub tokens: Vec<Vec<u32>>,
    pub pace: Pace,
}

/// How often each part of the program ran, and how long it took on the host; without drawing tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    pub prefills: u32,
    pub prefill: Duration,
    pub decodes: u32,
    pub decode: Duration,
    /// Tokens whose logits came from `decode`.
    pub decoded_tokens: usize,
}

/// Cache positions that `new` tokens after a prompt take: the last one is drawn, but nothing reads it.
pub fn positions_needed(prompt: usize, new: usize) -> usize {
    prompt.saturating_add(new.saturating_sub(1))
}

/// Continues prompts, as many at once as the program takes; `watch` is told of every token as it comes, with the number of its prompt.
///
/// # Errors
/// A prompt that does not fit the program, logits that are no numbers, or whatever stops the program.
pub fn generate(
    session: &mut Session,
    prompts: &[Prompt<'_>],
    generation: &Generation,
    watch: &mut dyn FnMut(usize, u32),
) -> Result<Generated, Error> {
    let CacheShape {
        batch,
        prompt,
        positions,
    } = generation.shape;
    for (number, given) in prompts.iter().enumerate() {
        let length = given.ids.len();
        let needed = positions_needed(length, generation.max_new_tokens);
        if length == 0 || length > prompt || needed > positions {
            return Err(Error::failed(format!(
                "prompt {} of {length} tokens and {} new ones do not fit a program for prompts of 1 to {prompt} tokens and {positions} positions",
                number + 1,
                generation.max_new_tokens
            )));
        }
    }
    let mut generated = Generated::default();
    if generation.max_new_tokens == 0 {
        generated.tokens.resize(prompts.len(), Vec::new());
        return Ok(generated);
    }
    for (group, prompts) in prompts.chunks(batch.max(1)).enumerate() {
        let first = group * batch.max(1);
        let mut batch = Batch::new(prompts, generation);
        batch.run(session, &mut generated.pace, &mut |i, id| {
            watch(first + i, id)
        })?;
        generated
            .tokens
            .extend(batch.texts.into_iter().map(|text| text.new));
    }
    Ok(generated)
}

/// A text on its way.
struct Text<'p> {
    prompt: Prompt<'p>,
    new: Vec<u32>,
    open: bool,
}

/// Texts that go through the program together.
struct Batch<'p> {
    texts: Vec<Text<'p>>,
    generation: &'p Generation,
}

impl<'p> Batch<'p> {
    fn new(prompts: &[Prompt<'p>], generation: &'p Generation) -> Batch<'p> {
        let text = |&prompt: &Prompt<'p>| Text {
            prompt,
            new: Vec::new(),
            open: true,
        };
        Batch {
            texts: prompts.iter().map(text).collect(),
            generation,
        }
    }

    fn run(
        &mut self,
        session: &mut Session,
        pace: &mut Pace,
        watch: &mut dyn FnMut(usize, u32),
    ) -> Result<(), Error> {
        let start = Instant::now();
        let prompts: Vec<&[u32]> = self.texts.iter().map(|text| text.prompt.ids).collect();
        let mut host = PrefillHost::new(&prompts, self.generation.shape);
        session.run_part("prefill", &mut host)?;
        let mut logits = host.logits;
        pace.prefills += 1;
        pace.prefill += start.elapsed();
        self.draw(&logits, watch)?;
        while self.texts.iter().any(|text| text.open) {
            let start = Instant::now();
            let last = self.texts.iter().map(Text::last);
            let mut host = DecodeHost::new(last, self.generation.shape.batch);
            session.run_part("decode", &mut host)?;
            logits = host.logits;
            pace.decodes += 1;
            pace.decode += start.elapsed();
            pace.decoded_tokens += self.texts.iter().filter(|text| text.open).count();
            self.draw(&logits, watch)?;
        }
        Ok(())
    }

    /// Chooses the next token of every open text.
    fn draw(&mut self, logits: &[f32], watch: &mut dyn FnMut(usize, u32)) -> Result<(), Error> {
        let Generation {
            max_new_tokens,
            sampling,
            seed,
            stop,
            shape,
        } = *self.generation;
        let vocabulary = (logits.len() / shape.batch).max(1);
        let rows = logits.chunks_exact(vocabulary);
        let mut drawn = 0;
        for (i, (text, logits)) in self.texts.iter_mut().zip(rows).enumerate() {
            drawn += 1;
            if !text.open {
                continue;
            }
            let position = text.new.len();
            if logits.iter().any(|logit| logit.is_nan()) {
                return Err(Error::failed(format!(
                    "the logits of token {position} are no numbers: the weights or the arithmetic overflowed"
                )));
            }
            let number = text.prompt.number;
            let token = sampling.choose(logits, seed, number, position as u64);
            if Some(token) == stop {
                text.open = false;
                continue;
            }
            text.new.push(token);
            text.open = text.new.len() < max_new_tokens;
            watch(i, token);
        }
        match drawn == self.texts.len() {
            true => Ok(()),
            false => Err(Error::failed("the program gave no logits")),
        }
    }
}

impl Text<'_> {
    /// The last token and its position; of a text that has ended, one that the cache has room for.
    fn last(&self) -> (u32, usize) {
        let prompt = self.prompt.ids;
        let read = self.new.len() - usize::from(!self.open && !self.new.is_empty());
        let token = match read {
            0 => prompt.last(),
            n => self.new.get(n - 1),
        };
        (
            token.copied().unwrap_or(0),
            (prompt.len() + read).saturating_sub(1),
        )
    }
}
