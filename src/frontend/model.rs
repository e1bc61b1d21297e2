//! The forward graph of a GPT-2, in the plain ops a person would draw; the compiler's passes do the fusing.
//!
//! Activations are rows `[B·S, D]`, one per position; attention views them as `[B·H, S, d]`. Every op carries the Hugging Face name
//! of the module it comes from (`h.3.attn.c_attn`), and the decoder layer it belongs to, so that reports speak the model's language.
//!
//! ```text
//! tokens ─ wte ─(+ wpe)─┬─ ln_1 ─ c_attn ─ q kᵀ ─ mask ─ softmax ─ · v ─ c_proj ─(+)─┬─ ln_2 ─ c_fc ─ gelu ─ c_proj ─(+)─ … ─ ln_f ─ · wteᵀ
//!                       └────────────────────────────────────────────────────────┘  └──────────────────────────────┘
//! ```

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{Op, ReduceKind, StateKind, UnaryOp};
use superstep_ir::types::{DType, Real, TensorType};

use super::config::{Activation, Gpt2Config};
use super::vocabulary::{TABLE, VocabularySlices};
use generation::Memory;
pub use generation::{CacheShape, gpt2_decode_graph, gpt2_prefill_graph};

mod generation;

/// What to build around the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphOptions {
    /// Sequences in a micro-batch.
    pub batch: usize,
    /// Positions of each sequence, at most `n_positions`.
    pub seq: usize,
    /// Read stream `labels` and write stream `loss`: the mean over the `batch·(seq − 1)` positions that have a successor.
    pub labels: bool,
    /// Write stream `logits`: `f32[batch·seq, vocab_size]`.
    pub logits: bool,
    /// Apply the configuration's dropout, seeded by stream `seed`; without it the graph is deterministic.
    pub dropout: bool,
    /// Row blocks the head works through one by one (1: all rows at once), so that only a part of the logits exists at a time.
    pub loss_chunks: usize,
    /// Slices of the vocabulary, for each of which the head is a product of its own.
    pub vocabulary: VocabularySlices,
}

/// Why there is no graph for a configuration and these options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("a batch of 0 sequences has nothing to compute")]
    EmptyBatch,
    #[error("sequences of {seq} positions do not fit a model with n_positions {n_positions}")]
    Sequence { seq: usize, n_positions: usize },
    #[error(
        "a loss needs sequences of at least 2 tokens: each token is predicted from those before it"
    )]
    NothingToPredict,
    #[error("{chunks} loss chunks for {rows} rows: there must be between 1 and one per row")]
    Chunks { chunks: usize, rows: usize },
    #[error(
        "{slices} slices of a vocabulary of {vocabulary}: there must be between 1 and one per entry"
    )]
    Slices { slices: usize, vocabulary: usize },
    #[error("{batch} sequences of {seq} tokens are more positions than 32-bit indices can name")]
    TooManyRows { batch: usize, seq: usize },
    /// A bug of this builder, not of the user's model.
    #[error("the model graph is ill-typed: {0}")]
    Type(#[from] TypeError),
}

/// The forward graph, named `forward`: `tokens` i32[batch, seq] (and `labels`, `seed`) in, `loss` and/or `logits` out.
pub fn gpt2_graph(config: &Gpt2Config, options: GraphOptions) -> Result<Graph, ModelError> {
    let mut graph = Graph::new("forward");
    let mut model = ModelBuilder::new(&mut graph, config, options)?;
    let (hidden, wte) = model.trunk()?;
    model.head(hidden, &wte)?;
    Ok(graph)
}

/// Rows of chunk `i` when `rows` are dealt out as evenly as possible.
fn chunk(rows: usize, chunks: usize, i: usize) -> (usize, usize) {
    let start = |i: usize| i * rows / chunks;
    (start(i), start(i + 1) - start(i))
}

struct ModelBuilder<'a> {
    b: Builder<'a>,
    config: &'a Gpt2Config,
    options: GraphOptions,
    /// `batch · seq`
    rows: usize,
    /// The `seed` stream, once a dropout has asked for it.
    seed: Option<Value>,
    /// Every dropout draws from a sequence of its own.
    next_key: u32,
    /// What attention remembers of earlier positions.
    memory: Memory,
}

type Built = Result<Value, ModelError>;

impl<'a> ModelBuilder<'a> {
    fn new(
        graph: &'a mut Graph,
        config: &'a Gpt2Config,
        options: GraphOptions,
    ) -> Result<Self, ModelError> {
        let GraphOptions {
            batch,
            seq,
            labels,
            loss_chunks,
            vocabulary,
            ..
        } = options;
        if batch == 0 {
            return Err(ModelError::EmptyBatch);
        }
        if seq == 0 || seq > config.n_positions {
            return Err(ModelError::Sequence {
                seq,
                n_positions: config.n_positions,
            });
        }
        if labels && seq < 2 {
            return Err(ModelError::NothingToPredict);
        }
        let rows = batch
            .checked_mul(seq)
            .filter(|&rows| i32::try_from(rows).is_ok())
            .ok_or(ModelError::TooManyRows { batch, seq })?;
        if loss_chunks == 0 || loss_chunks > rows {
            return Err(ModelError::Chunks {
                chunks: loss_chunks,
                rows,
            });
        }
        if vocabulary.count() == 0 || vocabulary.count() > config.vocab_size {
            return Err(ModelError::Slices {
                slices: vocabulary.count(),
                vocabulary: config.vocab_size,
            });
        }
        Ok(Self {
            b: Builder::new(graph),
            config,
            options,
            rows,
            seed: None,
            next_key: 0,
            memory: Memory::None,
        })
    }

    /// Tokens to the rows that come out of `ln_f`; also hands out the slices of `wte`, which the head uses again.
    fn trunk(&mut self) -> Result<(Value, Vec<Value>), ModelError> {
        let config = self.config;
        let vocabulary = self.options.vocabulary;
        let shape = [vocabulary.rows(), config.n_embd];
        let wte = vocabulary
            .states(TABLE)
            .map(|state| self.weight(&state, &shape))
            .collect::<Result<Vec<_>, _>>()?;
        let mut x = self.embed(&wte)?;
        for layer in 0..config.n_layer {
            self.b.place.layer = Some(layer as u32);
            self.b.scope(format!("h.{layer}"));
            x = self.attention(layer, x)?;
            x = self.mlp(layer, x)?;
        }
        self.b.scope("");
        // The last norm belongs to the IPU of the last layer: what leaves it is what the head needs.
        let x = self.layer_norm("ln_f", "ln_f", x)?;
        self.b.place.layer = None;
        Ok((x, wte))
    }

    /// `wte[token] + wpe[position]`, as rows.
    fn embed(&mut self, wte: &[Value]) -> Built {
        let GraphOptions { batch, seq, .. } = self.options;
        let (rows, width) = (self.rows, self.config.n_embd);
        let b = &mut self.b;
        let tokens = b.input("tokens", TensorType::i32([batch, seq]))?;
        let ids = b.reshape("tokens.flat", tokens, [rows])?;
        let words = self.words(wte, ids)?;
        let b = &mut self.b;
        // Positions belong to the IPU of the first layer.
        b.place.layer = (self.config.n_layer > 0).then_some(0);
        let wpe = self.weight("wpe.weight", &[self.config.n_positions, width])?;
        let b = &mut self.b;
        let words = b.reshape("wte.by_sequence", words, [batch, seq, width])?;
        let positions = match self.memory {
            // One for each sequence.
            Memory::Read { at, .. } => {
                let found = self.b.op("wpe", Op::Gather { first: None }, &[wpe, at])?;
                self.b
                    .reshape("wpe.by_sequence", found, [batch, seq, width])?
            }
            _ => self.b.slice("wpe", wpe, 0, 0, seq)?,
        };
        let sum = self.b.add("embed", words, positions)?;
        let x = self.b.reshape("embed.rows", sum, [rows, width])?;
        self.dropout("drop", self.config.embd_pdrop, x)
    }

    /// The rows of the tokens; of a table in slices every token finds its row in one slice, and zeroes in the others.
    fn words(&mut self, wte: &[Value], ids: Value) -> Built {
        if let [whole] = *wte {
            return Ok(self
                .b
                .op("wte", Op::Gather { first: None }, &[whole, ids])?);
        }
        let mut found = None;
        for (i, &slice) in wte.iter().enumerate() {
            let first = Some(self.options.vocabulary.first(i));
            let name = format!("slice.{i}.wte");
            let rows = self.b.op(&name, Op::Gather { first }, &[slice, ids])?;
            found = Some(match found {
                None => rows,
                Some(sum) => self.b.add(&format!("slice.{i}.wte.found"), sum, rows)?,
            });
        }
        Ok(found.expect("a vocabulary has at least one slice"))
    }

    fn attention(&mut self, layer: usize, x: Value) -> Built {
        let GraphOptions { batch, seq, .. } = self.options;
        let config = self.config;
        let (width, heads, head_size) = (config.n_embd, config.n_head, config.head_size());
        let normal = self.layer_norm(&format!("h.{layer}.ln_1"), "ln_1", x)?;
        let qkv = self.linear(layer, "attn.c_attn", normal, width, 3 * width)?;
        let mut part = |name: &str, i: usize| -> Built {
            let b = &mut self.b;
            let flat = b.slice(&format!("attn.{name}"), qkv, 1, i * width, width)?;
            let split = b.reshape(
                &format!("attn.{name}.split"),
                flat,
                [batch, seq, heads, head_size],
            )?;
            let turned = b.transpose(&format!("attn.{name}.by_head"), split, &[0, 2, 1, 3])?;
            Ok(b.reshape(
                &format!("attn.{name}.heads"),
                turned,
                [batch * heads, seq, head_size],
            )?)
        };
        let (q, k, v) = (part("q", 0)?, part("k", 1)?, part("v", 2)?);
        let k = self.remember(layer, "key", k)?;
        let v = self.remember(layer, "value", v)?;
        let scores = self.b.matmul("attn.scores", q, k, false, true)?;
        let masked = self.mask(layer, scores)?;
        let probs = self.b.op(
            "attn.probs",
            Op::Softmax {
                scale: Real(1.0),
                causal: false,
            },
            &[masked],
        )?;
        let probs = self.dropout("attn.attn_dropout", config.attn_pdrop, probs)?;
        let mixed = self.b.matmul("attn.context", probs, v, false, false)?;
        let split = self
            .b
            .reshape("attn.context.split", mixed, [batch, heads, seq, head_size])?;
        let turned = self
            .b
            .transpose("attn.context.by_position", split, &[0, 2, 1, 3])?;
        let merged = self.b.reshape("attn.merged", turned, [self.rows, width])?;
        let out = self.linear(layer, "attn.c_proj", merged, width, width)?;
        let out = self.dropout("attn.resid_dropout", config.resid_pdrop, out)?;
        Ok(self.b.add("attn.residual", x, out)?)
    }

    fn mlp(&mut self, layer: usize, x: Value) -> Built {
        let config = self.config;
        let (width, inner) = (config.n_embd, config.n_inner);
        let normal = self.layer_norm(&format!("h.{layer}.ln_2"), "ln_2", x)?;
        let wide = self.linear(layer, "mlp.c_fc", normal, width, inner)?;
        let (name, op) = match config.activation_function {
            Activation::GeluNew => ("mlp.gelu", UnaryOp::GeluTanh),
            Activation::Gelu => ("mlp.gelu", UnaryOp::GeluErf),
            Activation::Relu => ("mlp.relu", UnaryOp::Relu),
        };
        let active = self.b.unary(name, op, wide)?;
        let out = self.linear(layer, "mlp.c_proj", active, inner, width)?;
        let out = self.dropout("mlp.dropout", config.resid_pdrop, out)?;
        Ok(self.b.add("out", x, out)?)
    }

    /// Logits by row chunks and slices of the vocabulary, and what the options ask to make of them.
    fn head(&mut self, hidden: Value, wte: &[Value]) -> Result<(), ModelError> {
        let GraphOptions {
            batch,
            seq,
            labels,
            logits,
            loss_chunks,
            ..
        } = self.options;
        let targets = if labels {
            let labels = self.b.input("labels", TensorType::i32([batch, seq]))?;
            Some(self.b.reshape("labels.flat", labels, [self.rows])?)
        } else {
            None
        };
        let (mut all_logits, mut all_losses) = (Vec::new(), Vec::new());
        for i in 0..loss_chunks {
            if loss_chunks > 1 {
                self.b.scope(format!("chunk.{i}"));
            }
            let part = self.rows_of_chunk("hidden", hidden, i)?;
            let mut operands = self.chunk_logits(part, wte)?;
            if logits {
                all_logits.push(self.classes(&operands)?);
            }
            if let Some(targets) = targets {
                operands.push(self.rows_of_chunk("labels", targets, i)?);
                let padding = self.options.vocabulary.padding();
                let cross_entropy = Op::CrossEntropy { padding };
                all_losses.push(self.b.op("cross_entropy", cross_entropy, &operands)?);
            }
        }
        self.b.scope("");
        if labels {
            let losses = self.join("losses", &all_losses)?;
            let sum = self.b.reduce("loss.sum", ReduceKind::Sum, 1, losses)?;
            let loss = self
                .b
                .scale("loss", sum, 1.0 / (batch * (seq - 1)) as f64)?;
            self.b.output("loss", loss)?;
        }
        if logits {
            let logits = self.join("logits", &all_logits)?;
            self.b.output("logits", logits)?;
        }
        Ok(())
    }

    /// Logits of these rows, a product for each slice of the vocabulary.
    fn chunk_logits(&mut self, rows: Value, wte: &[Value]) -> Result<Vec<Value>, ModelError> {
        let name = |i: usize| match wte.len() {
            1 => "lm_head".to_owned(),
            _ => format!("slice.{i}.lm_head"),
        };
        let product =
            |(i, &slice): (usize, &Value)| Ok(self.b.matmul(&name(i), rows, slice, false, true)?);
        wte.iter().enumerate().map(product).collect()
    }

    /// The slices of the logits side by side, without padding.
    fn classes(&mut self, slices: &[Value]) -> Built {
        if let [whole] = *slices {
            return Ok(whole);
        }
        let all = self.b.concat("lm_head.slices", slices, 1)?;
        let classes = self.config.vocab_size;
        Ok(self.b.slice("lm_head.classes", all, 1, 0, classes)?)
    }

    fn rows_of_chunk(&mut self, name: &str, x: Value, i: usize) -> Built {
        if self.options.loss_chunks == 1 {
            return Ok(x);
        }
        let (start, len) = chunk(self.rows, self.options.loss_chunks, i);
        Ok(self.b.slice(name, x, 0, start, len)?)
    }

    fn join(&mut self, name: &str, parts: &[Value]) -> Built {
        match parts {
            [only] => Ok(*only),
            _ => Ok(self.b.concat(name, parts, 0)?),
        }
    }

    fn weight(&mut self, state: &str, shape: &[usize]) -> Built {
        Ok(self
            .b
            .parameter(state, StateKind::Weight, TensorType::f32(shape))?)
    }

    /// `x · weight + bias` with the model's `[in, out]` weight of that name.
    fn linear(
        &mut self,
        layer: usize,
        name: &str,
        x: Value,
        inputs: usize,
        outputs: usize,
    ) -> Built {
        let weight = self.weight(&format!("h.{layer}.{name}.weight"), &[inputs, outputs])?;
        let bias = self.weight(&format!("h.{layer}.{name}.bias"), &[outputs])?;
        let product = self.b.matmul(name, x, weight, false, false)?;
        Ok(self.b.add(&format!("{name}.add_bias"), product, bias)?)
    }

    /// `state` is the full name of the module, `name` the one inside the current scope.
    fn layer_norm(&mut self, state: &str, name: &str, x: Value) -> Built {
        let width = self.config.n_embd;
        let scale = self.weight(&format!("{state}.weight"), &[width])?;
        let shift = self.weight(&format!("{state}.bias"), &[width])?;
        let epsilon = Real(self.config.layer_norm_epsilon);
        let results = self
            .b
            .results(name, Op::LayerNorm { epsilon }, &[x, scale, shift])?;
        Ok(results[0])
    }

    /// Dropout where the options and the configuration ask for it; each one gets a key of its own.
    fn dropout(&mut self, name: &str, p: f64, x: Value) -> Built {
        if !self.options.dropout || p <= 0.0 {
            return Ok(x);
        }
        let seed = match self.seed {
            Some(seed) => seed,
            None => {
                let place = self.b.place;
                self.b.place.layer = None;
                let seed = self.b.input("seed", TensorType::new(DType::U32, [2]))?;
                self.b.place = place;
                *self.seed.insert(seed)
            }
        };
        let key = self.next_key;
        self.next_key += 1;
        Ok(self
            .b
            .op(name, Op::Dropout { p: Real(p), key }, &[x, seed])?)
    }
}

/// What attention scores of a layer are multiplied with, if anything.
fn score_factor(config: &Gpt2Config, layer: usize) -> Option<f64> {
    let by_head = config
        .scale_attn_weights
        .then(|| 1.0 / (config.head_size() as f64).sqrt());
    let by_layer = config
        .scale_attn_by_inverse_layer_idx
        .then(|| 1.0 / (layer + 1) as f64);
    match (by_head, by_layer) {
        (None, None) => None,
        (head, layer) => Some(head.unwrap_or(1.0) * layer.unwrap_or(1.0)),
    }
}

#[cfg(test)]
mod tests;
