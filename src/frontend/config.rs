//! The shape of a GPT-2 and how it trains: `config.json`, read, checked and written back.
//!
//! Every field that changes what the model computes is understood or refused by name; the rest is kept and written back as
//! it was. The fields that give the shape must be there; the others default as in `transformers`. A shape that passes
//! here is possible: products of its sizes do not overflow, and its parameters are at most [`PARAMETERS_MAX`].

use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::config_fields::Fields;
use super::error::{FrontendError, shown};
use super::read::read_file;

/// More parameters than any machine described here could hold: a configuration beyond it is a mistake.
pub const PARAMETERS_MAX: u64 = 1 << 40;
/// Ten times as many layers as any model has: the compiler places them one by one, and more would take it hours.
pub const LAYERS_MAX: usize = 1 << 10;
/// Token ids and positions travel as i32.
const SIZE_MAX: usize = i32::MAX as usize;
/// A configuration is a page of text.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// The block size that `run_clm` takes when it is not told one, unless the model has fewer positions.
const BLOCK_SIZE_DEFAULT: usize = 1024;

/// The nonlinearity of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU by its tanh approximation, what GPT-2 was trained with.
    GeluNew,
    /// GELU by the error function.
    Gelu,
    /// max(0, x).
    Relu,
}

impl Activation {
    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::GeluNew => "gelu_new",
            Self::Gelu => "gelu",
            Self::Relu => "relu",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::GeluNew, Self::Gelu, Self::Relu]
            .into_iter()
            .find(|known| known.name() == name)
    }
}

/// A GPT-2 configuration with the field names of `config.json`. Sizes are counts of elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// Decoder blocks.
    pub n_layer: usize,
    /// Attention heads a block; divides `n_embd`.
    pub n_head: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of the MLP; `null` in the file means 4 × `n_embd`.
    pub n_inner: usize,
    /// Rows of the position embedding: the longest sequence.
    pub n_positions: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_epsilon: f64,
    /// Nonlinearity of the MLP.
    pub activation_function: Activation,
    /// Whether attention scores are divided by √(head size).
    pub scale_attn_weights: bool,
    /// Whether block i further divides its scores by i + 1.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether scores are scaled before the product and computed in f32. In exact arithmetic it changes nothing, and scores
    /// are held in f32 here anyway, so it is accepted, kept and written back, without further effect.
    pub reorder_and_upcast_attn: bool,
    /// Probability of dropping an element of each residual branch.
    pub resid_pdrop: f64,
    /// Probability of dropping an element of the embedding sum.
    pub embd_pdrop: f64,
    /// Probability of dropping an attention probability.
    pub attn_pdrop: f64,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// Beginning-of-text token, if any.
    pub bos_token_id: Option<u32>,
    /// End-of-text token, if any.
    pub eos_token_id: Option<u32>,
    /// The file as it was read, for the fields not understood here.
    source: Map<String, Value>,
}

/// Fields on which the program of a model depends.
const OF_THE_PROGRAM: [&str; 13] = [
    "n_layer",
    "n_head",
    "n_embd",
    "n_inner",
    "n_positions",
    "vocab_size",
    "layer_norm_epsilon",
    "activation_function",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
];

impl Gpt2Config {
    /// The fields in which a program for this model would differ from one for `other`, with both values.
    pub fn differences(&self, other: &Gpt2Config) -> Vec<(&'static str, Value, Value)> {
        let fields = |config: &Gpt2Config| {
            let mut map = config.to_map();
            map.insert("n_inner".into(), json!(config.n_inner));
            map
        };
        let (here, there) = (fields(self), fields(other));
        OF_THE_PROGRAM
            .into_iter()
            .filter(|&field| here[field] != there[field])
            .map(|field| (field, here[field].clone(), there[field].clone()))
            .collect()
    }

    /// Reads `config.json` of a model folder.
    pub fn load(dir: &Path) -> Result<Self, FrontendError> {
        Self::load_file(&dir.join("config.json"))
    }

    /// Reads a configuration file of any name.
    pub fn load_file(path: &Path) -> Result<Self, FrontendError> {
        Self::from_json(&read_file(path, FILE_BYTES_MAX)?, path)
    }

    /// Parses a configuration; `file` is named in errors.
    pub fn from_json(bytes: &[u8], file: &Path) -> Result<Self, FrontendError> {
        let source: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|source| FrontendError::Json {
                path: file.to_path_buf(),
                source,
            })?;
        Self::from_map(source, file)
    }

    /// The configuration with `n_layer=2,resid_pdrop=0.0,…` applied on top, checked as a whole again.
    pub fn with_overrides(&self, overrides: &str) -> Result<Self, FrontendError> {
        let mut map = self.to_map();
        for item in overrides
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let refuse = |reason: &str| FrontendError::Override {
                item: shown(&item),
                reason: reason.to_owned(),
            };
            let (field, text) = item
                .split_once('=')
                .ok_or_else(|| refuse("write field=value"))?;
            let (field, text) = (field.trim(), text.trim());
            let known = map
                .get(field)
                .ok_or_else(|| refuse("config.json has no such field"))?;
            // A string field takes the text as it is; the others are JSON, or the words Python uses for it.
            let value = match text {
                "True" => Value::Bool(true),
                "False" => Value::Bool(false),
                "None" => Value::Null,
                _ if known.is_string() => Value::from(text),
                _ => Value::from_str(text)
                    .map_err(|_| refuse("the value is not a number, true, false or null"))?,
            };
            map.insert(field.to_owned(), value);
        }
        Self::from_map(map, Path::new("--config_overrides"))
    }

    /// Features of a head: the width a head sees of the residual stream.
    pub fn head_size(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// The length of training sequences: what was asked for, else 1024, never beyond `n_positions`.
    pub fn block_size(&self, asked: Option<usize>) -> Result<usize, FrontendError> {
        let block_size = asked.unwrap_or(BLOCK_SIZE_DEFAULT.min(self.n_positions));
        if (1..=self.n_positions).contains(&block_size) {
            return Ok(block_size);
        }
        Err(FrontendError::Field {
            file: "--block_size".into(),
            field: "block_size",
            value: block_size.to_string(),
            needs: format!(
                "it must be from 1 to the model's n_positions, {}",
                self.n_positions
            ),
        })
    }

    /// The text of `config.json` for a model saved in f32: the file as it was read, with today's values on top.
    pub fn to_json(&self) -> String {
        self.to_json_as("float32")
    }

    /// The same for weights of another type, by its name in PyTorch.
    pub fn to_json_as(&self, dtype: &str) -> String {
        let mut map = self.to_map();
        // `transformers` casts to this type on load, so it must be that of the weights beside it.
        let named: Vec<&str> = ["dtype", "torch_dtype"]
            .into_iter()
            .filter(|field| map.contains_key(*field))
            .collect();
        let fields = match named.is_empty() {
            true if dtype != "float32" => vec!["torch_dtype"],
            _ => named,
        };
        for field in fields {
            map.insert(field.to_owned(), dtype.into());
        }
        format!("{:#}\n", Value::Object(map))
    }

    fn from_map(source: Map<String, Value>, file: &Path) -> Result<Self, FrontendError> {
        let fields = Fields { file, map: &source };
        check_family(&fields)?;
        let n_embd = fields.required_size("n_embd", SIZE_MAX)?;
        // `n_ctx` is the older name; the newer one wins where a file has both.
        let n_positions = match (
            fields.size("n_positions", SIZE_MAX)?,
            fields.size("n_ctx", SIZE_MAX)?,
        ) {
            (None, Some(n_ctx)) => n_ctx,
            _ => fields.required_size("n_positions", SIZE_MAX)?,
        };
        let config = Self {
            n_layer: fields.required_size("n_layer", LAYERS_MAX)?,
            n_head: fields.required_size("n_head", SIZE_MAX)?,
            n_embd,
            n_inner: fields
                .size("n_inner", SIZE_MAX)?
                .unwrap_or(n_embd.saturating_mul(4)),
            n_positions,
            vocab_size: fields.required_size("vocab_size", SIZE_MAX)?,
            layer_norm_epsilon: epsilon(&fields)?,
            activation_function: activation(&fields)?,
            scale_attn_weights: fields.flag("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: fields
                .flag("scale_attn_by_inverse_layer_idx", false)?,
            reorder_and_upcast_attn: fields.flag("reorder_and_upcast_attn", false)?,
            resid_pdrop: probability(&fields, "resid_pdrop")?,
            embd_pdrop: probability(&fields, "embd_pdrop")?,
            attn_pdrop: probability(&fields, "attn_pdrop")?,
            initializer_range: deviation(&fields)?,
            bos_token_id: fields.token_id("bos_token_id")?,
            eos_token_id: fields.token_id("eos_token_id")?,
            source: Map::new(),
        };
        config.check_shape(&fields)?;
        Ok(Self { source, ..config })
    }

    fn check_shape(&self, fields: &Fields) -> Result<(), FrontendError> {
        if self.n_head > self.n_embd || !self.n_embd.is_multiple_of(self.n_head) {
            return Err(fields.refuse(
                "n_embd",
                format!("it must be a multiple of n_head, {}", self.n_head),
            ));
        }
        let [layer, embd, inner, positions, vocab] = [
            self.n_layer,
            self.n_embd,
            self.n_inner,
            self.n_positions,
            self.vocab_size,
        ]
        .map(|size| size as u128);
        // The weights alone, to name the largest term; sizes are below 2^31, so u128 does not overflow.
        let inner_field = if fields.map.get("n_inner").is_none_or(Value::is_null) {
            "n_embd"
        } else {
            "n_inner"
        };
        let terms = [
            ("vocab_size", vocab * embd),
            ("n_positions", positions * embd),
            (inner_field, layer * 2 * embd * inner),
            ("n_layer", layer * 4 * embd * embd),
        ];
        let total: u128 = terms.iter().map(|term| term.1).sum();
        let largest = terms.into_iter().max_by_key(|term| term.1);
        match largest {
            Some((field, _)) if total > u128::from(PARAMETERS_MAX) => Err(fields.refuse(
                field,
                format!("with n_embd {embd} that makes {total} parameters; at most {PARAMETERS_MAX} are accepted"),
            )),
            _ => Ok(()),
        }
    }

    /// All fields as they would stand in a file.
    fn to_map(&self) -> Map<String, Value> {
        let mut map = self.source.clone();
        let inner_is_default = self.n_inner == 4 * self.n_embd;
        let keeps_null = inner_is_default && map.get("n_inner").is_none_or(Value::is_null);
        let fields = [
            ("architectures", json!(["GPT2LMHeadModel"])),
            ("model_type", json!("gpt2")),
            ("n_layer", json!(self.n_layer)),
            ("n_head", json!(self.n_head)),
            ("n_embd", json!(self.n_embd)),
            (
                "n_inner",
                if keeps_null {
                    Value::Null
                } else {
                    json!(self.n_inner)
                },
            ),
            ("n_positions", json!(self.n_positions)),
            ("vocab_size", json!(self.vocab_size)),
            ("layer_norm_epsilon", json!(self.layer_norm_epsilon)),
            (
                "activation_function",
                json!(self.activation_function.name()),
            ),
            ("scale_attn_weights", json!(self.scale_attn_weights)),
            (
                "scale_attn_by_inverse_layer_idx",
                json!(self.scale_attn_by_inverse_layer_idx),
            ),
            (
                "reorder_and_upcast_attn",
                json!(self.reorder_and_upcast_attn),
            ),
            ("resid_pdrop", json!(self.resid_pdrop)),
            ("embd_pdrop", json!(self.embd_pdrop)),
            ("attn_pdrop", json!(self.attn_pdrop)),
            ("initializer_range", json!(self.initializer_range)),
            ("bos_token_id", json!(self.bos_token_id)),
            ("eos_token_id", json!(self.eos_token_id)),
        ];
        for (field, value) in fields {
            map.insert(field.to_owned(), value);
        }
        if map.contains_key("n_ctx") {
            map.insert("n_ctx".to_owned(), json!(self.n_positions));
        }
        map
    }
}

/// Refuses what is not a plain decoder-only GPT-2 with a tied head.
fn check_family(fields: &Fields) -> Result<(), FrontendError> {
    if fields
        .text("model_type")?
        .is_some_and(|model_type| model_type != "gpt2")
    {
        return Err(fields.refuse("model_type", "only \"gpt2\" is supported"));
    }
    if !fields.flag("tie_word_embeddings", true)? {
        return Err(fields.refuse(
            "tie_word_embeddings",
            "only models whose head is the token embedding are supported",
        ));
    }
    if fields.flag("add_cross_attention", false)? {
        return Err(fields.refuse("add_cross_attention", "cross-attention is not supported"));
    }
    Ok(())
}

fn activation(fields: &Fields) -> Result<Activation, FrontendError> {
    match fields.text("activation_function")? {
        None => Ok(Activation::GeluNew),
        Some(name) => Activation::named(name).ok_or_else(|| {
            fields.refuse(
                "activation_function",
                "gelu_new, gelu and relu are supported",
            )
        }),
    }
}

/// 1 is refused: what is kept is scaled by 1/(1 − p).
fn probability(fields: &Fields, field: &'static str) -> Result<f64, FrontendError> {
    fields.number(
        field,
        0.1,
        "it must be a probability, at least 0 and below 1",
        |p| (0.0..1.0).contains(&p),
    )
}

/// It must still be there after rounding to f32, or a constant row divides by zero.
fn epsilon(fields: &Fields) -> Result<f64, FrontendError> {
    let accept = |x: f64| (f64::from(f32::MIN_POSITIVE)..=1.0).contains(&x);
    fields.number(
        "layer_norm_epsilon",
        1e-5,
        "it must be above 0 (in 32 bits) and at most 1",
        accept,
    )
}

fn deviation(fields: &Fields) -> Result<f64, FrontendError> {
    let accept = |x: f64| (0.0..=1e6).contains(&x);
    fields.number(
        "initializer_range",
        0.02,
        "it must be from 0 to 1e6",
        accept,
    )
}

#[cfg(test)]
mod tests;
