//! Everything that can be wrong with a model folder, as data: which file, which field or tensor, what was found.

use std::fmt;
use std::path::PathBuf;

use safetensors::Dtype;

use crate::atomic_file::AtomicWriteError;

/// What is wrong with the user's model, and where.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// The operating system would not give us the file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The path is there, but is a directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    /// A small file, such as a configuration, that is not small.
    #[error("{} is {bytes} bytes long; at most {limit} are expected of such a file", path.display())]
    TooLarge {
        path: PathBuf,
        bytes: u64,
        limit: u64,
    },
    /// Writing failed; the former file is untouched.
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
    /// Broken JSON, with line and column inside `source`.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// A configuration field with an impossible value.
    #[error("{}: `{field}` is {value}, but {needs}", file.display())]
    Field {
        file: PathBuf,
        field: &'static str,
        value: String,
        needs: String,
    },
    /// A configuration field that must be there.
    #[error("{}: `{field}` is missing", file.display())]
    FieldMissing { file: PathBuf, field: &'static str },
    /// A `--config_overrides` item that is not `known_field=value`.
    #[error("cannot override `{item}`: {reason}")]
    Override { item: String, reason: String },
    /// A folder without weights in a format read here.
    #[error("{} has no weights: looked for model.safetensors and model.safetensors.index.json{hint}", dir.display())]
    NoWeights { dir: PathBuf, hint: &'static str },
    /// Not a safetensors file, or a damaged one.
    #[error("{} is not a sound safetensors file: {reason}", path.display())]
    Safetensors { path: PathBuf, reason: String },
    /// The shard index is damaged or names files it must not.
    #[error("{}: {reason}", path.display())]
    ShardIndex { path: PathBuf, reason: String },
    /// Parameters the configuration asks for that no file holds.
    #[error("{} lacks {}", path.display(), Names(names))]
    TensorsMissing { path: PathBuf, names: Vec<String> },
    /// The same parameter under two names, with and without `transformer.`.
    #[error("{} holds `{name}` twice, with and without the `transformer.` prefix", path.display())]
    TensorTwice { path: PathBuf, name: String },
    /// A parameter whose shape is not the configuration's.
    #[error("{}: `{name}` has shape {found:?}, but config.json asks for {expected:?}", path.display())]
    TensorShape {
        path: PathBuf,
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    /// A parameter stored as something that is not a plain float.
    #[error("{}: `{name}` is stored as {found}; F64, F32, F16 and BF16 are read", path.display())]
    TensorDtype {
        path: PathBuf,
        name: String,
        found: Dtype,
    },
    /// A separate output head, which this model family does not have.
    #[error(
        "{}: `lm_head.weight` differs from `wte.weight` at element {element} ({head} and {embedding}); \
         only models with tied embeddings are supported", path.display()
    )]
    UntiedHead {
        path: PathBuf,
        element: usize,
        head: f32,
        embedding: f32,
    },
    /// Weights handed over for saving that are not the configuration's.
    #[error("the weights to save do not fit the configuration: {reason}")]
    WeightsMismatch { reason: String },
    /// A folder without tokenizer files.
    #[error(
        "{} has no tokenizer: put tokenizer.json there, or vocab.json together with merges.txt", dir.display()
    )]
    NoTokenizer { dir: PathBuf },
    /// Tokenizer files that make no tokenizer.
    #[error("{} is not a usable tokenizer: {reason}", path.display())]
    Tokenizer { path: PathBuf, reason: String },
    /// Encoding or decoding failed.
    #[error("{action} failed: {reason}")]
    Tokens {
        action: &'static str,
        reason: String,
    },
    /// The tokenizer makes ids that the model's embedding does not have.
    #[error(
        "tokenizer/vocab mismatch: the tokenizer in {} has token {token:?} with id {id}, \
         but the model's vocab_size is {vocab_size}", path.display()
    )]
    VocabMismatch {
        path: PathBuf,
        token: String,
        id: u32,
        vocab_size: usize,
    },
    /// A model name that is no folder, no preset and not in the cache.
    #[error("no model `{name}`: {reason}{}", Looked(looked))]
    NoModel {
        name: String,
        reason: String,
        looked: Vec<String>,
    },
    /// A preset where trained weights were asked for.
    #[error(
        "preset `{name}` has a shape but no trained weights: put config.json, model.safetensors and tokenizer.json into \
         a folder `{name}` here, or download {name} into the Hugging Face cache{}",
        Looked(looked)
    )]
    PresetWithoutFiles { name: String, looked: Vec<String> },
}

/// A list of names for a message: the first few, and how many more.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (i, name) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}`{name}`", if i == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Places that were searched, or to choose from, one a line.
struct Looked<'a>(&'a [String]);

impl fmt::Display for Looked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|place| write!(f, "\n  {place}"))
    }
}

/// A value from a file as it goes into a message: on one line, and never longer than a line.
pub(super) fn shown(value: &impl fmt::Display) -> String {
    const CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
