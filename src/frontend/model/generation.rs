//! The two graphs of generation: the prompts at once, which fills a cache of keys and values, and one more position of every sequence, which
//! reads and extends it.
//!
//! Prompts of different lengths stand at the left, padding at the right. Attention is causal, so no real position sees the padding; what
//! the padding left in the cache is overwritten, or hidden by the mask, as long as a sequence has not come so far. So a sequence gets what
//! it would get alone.

use superstep_ir::graph::{Graph, Value};
use superstep_ir::op::{Op, StateKind};
use superstep_ir::types::{DType, TensorType};

use super::{
    Built, Gpt2Config, GraphOptions, ModelBuilder, ModelError, VocabularySlices, score_factor,
};

/// How much a generation works on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Sequences.
    pub batch: usize,
    /// Positions of the longest prompt.
    pub prompt: usize,
    /// Positions of the cache, prompts included; at most `n_positions`.
    pub positions: usize,
}

/// What attention remembers of earlier positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    None,
    /// Keys and values of all positions go into a cache of so many.
    Write {
        positions: usize,
    },
    /// Keys and values of one position more go into the cache, at row `at` (`i32[batch]`, and for each head again in `by_head`); attention
    /// is over the cache up to there.
    Read {
        positions: usize,
        at: Value,
        by_head: Value,
    },
}

/// The graph `prefill`: `tokens` i32[batch, prompt] and `last` i32[batch] in (the prompts' last positions as rows of the flattened batch),
/// the logits of those rows out: `logits` f32[batch, vocab_size]. States `h.0.attn.key_cache`, `h.0.attn.value_cache` and so on,
/// `[batch·n_head, positions, head_size]`, have the prompts' keys and values from position 0 on.
pub fn gpt2_prefill_graph(config: &Gpt2Config, shape: CacheShape) -> Result<Graph, ModelError> {
    let mut graph = Graph::new("prefill");
    let mut model = builder(&mut graph, config, shape, shape.prompt)?;
    model.memory = Memory::Write {
        positions: shape.positions,
    };
    let (hidden, wte) = model.trunk()?;
    let last = model.b.input("last", TensorType::i32([shape.batch]))?;
    let hidden = model
        .b
        .op("last", Op::Gather { first: None }, &[hidden, last])?;
    model.next_token_logits(hidden, wte[0])?;
    Ok(graph)
}

/// The graph `decode`: `tokens` i32[batch, 1] and `positions` i32[batch] in, the token of each sequence and its position; `logits`
/// f32[batch, vocab_size] out. The cache has to be filled up to the positions before.
pub fn gpt2_decode_graph(config: &Gpt2Config, shape: CacheShape) -> Result<Graph, ModelError> {
    let CacheShape {
        batch, positions, ..
    } = shape;
    let heads = config.n_head;
    let mut graph = Graph::new("decode");
    let mut model = builder(&mut graph, config, shape, 1)?;
    let at = model.b.input("positions", TensorType::i32([batch]))?;
    let copies = vec![at; heads];
    let copies = model
        .b
        .op("positions.copies", Op::Concat { axis: 0 }, &copies)?;
    let rows = model.b.reshape("positions.rows", copies, [heads, batch])?;
    let turned = model.b.transpose("positions.turned", rows, &[1, 0])?;
    let by_head = model
        .b
        .reshape("positions.by_head", turned, [batch * heads])?;
    model.memory = Memory::Read {
        positions,
        at,
        by_head,
    };
    let (hidden, wte) = model.trunk()?;
    model.next_token_logits(hidden, wte[0])?;
    Ok(graph)
}

fn builder<'a>(
    graph: &'a mut Graph,
    config: &'a Gpt2Config,
    shape: CacheShape,
    seq: usize,
) -> Result<ModelBuilder<'a>, ModelError> {
    let CacheShape {
        batch,
        prompt,
        positions,
    } = shape;
    if positions > config.n_positions || prompt > positions {
        return Err(ModelError::Sequence {
            seq: positions.max(prompt),
            n_positions: config.n_positions.min(positions),
        });
    }
    let rows = batch.saturating_mul(config.n_head);
    if rows
        .checked_mul(positions)
        .is_none_or(|n| i32::try_from(n).is_err())
    {
        return Err(ModelError::TooManyRows {
            batch,
            seq: positions,
        });
    }
    let options = GraphOptions {
        batch,
        seq,
        labels: false,
        logits: true,
        dropout: false,
        loss_chunks: 1,
        vocabulary: VocabularySlices::whole(config.vocab_size),
    };
    ModelBuilder::new(graph, config, options)
}

impl ModelBuilder<'_> {
    fn next_token_logits(&mut self, hidden: Value, wte: Value) -> Result<(), ModelError> {
        let logits = self.b.matmul("lm_head", hidden, wte, false, true)?;
        self.b.output("logits", logits)?;
        Ok(())
    }

    /// Keys or values `x` `[batch·n_head, seq, head_size]`: what attention is to read, after the cache, if there is one, has them.
    pub(super) fn remember(&mut self, layer: usize, what: &str, x: Value) -> Built {
        let (Memory::Write { positions } | Memory::Read { positions, .. }) = self.memory else {
            return Ok(x);
        };
        let matrices = self.options.batch * self.config.n_head;
        let state = format!("h.{layer}.attn.{what}_cache");
        let ty = TensorType::f32([matrices, positions, self.config.head_size()]);
        let cache = self.b.parameter(&state, StateKind::Cache, ty)?;
        let first = match self.memory {
            Memory::Read { by_head, .. } => by_head,
            _ => {
                let ty = TensorType::new(DType::I32, [matrices]);
                self.b.constant("attn.first", 0.0, ty)?
            }
        };
        let name = format!("attn.{what}_cache");
        let written = self.b.op(&name, Op::WriteRows, &[cache, first, x])?;
        self.b.assign(&state, written)?;
        match self.memory {
            Memory::Read { .. } => Ok(written),
            _ => Ok(x),
        }
    }

    /// Scores, scaled, of the positions that each position may see; the others are `−∞`.
    pub(super) fn mask(&mut self, layer: usize, scores: Value) -> Built {
        let factor = score_factor(self.config, layer);
        let scale = |this: &mut Self, x| match factor {
            Some(factor) => this.b.scale("attn.scale", x, factor),
            None => Ok(x),
        };
        match self.memory {
            // The scale comes last, where softmax can take it over.
            Memory::Read { by_head, .. } => {
                let seen = self.b.op("attn.mask", Op::MaskBeyond, &[scores, by_head])?;
                Ok(scale(self, seen)?)
            }
            _ => {
                let scaled = scale(self, scores)?;
                Ok(self.b.op("attn.mask", Op::CausalMask, &[scaled])?)
            }
        }
    }
}
