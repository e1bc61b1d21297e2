//! Everything that can be wrong with data files.

use std::path::PathBuf;

use crate::atomic_file::AtomicWriteError;
use crate::frontend::FrontendError;

/// What is wrong, in which file, where.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is a directory, not a file", path.display())]
    Directory { path: PathBuf },
    /// A pipe or a device: what was read of it is gone.
    #[error("{} is no ordinary file, and text is read more than once", path.display())]
    Special { path: PathBuf },
    /// A folder with nothing in it to read.
    #[error("{} has no files of text, JSON lines or Parquet (.txt, .jsonl, .parquet)", path.display())]
    NoFiles { path: PathBuf },
    #[error("{} holds files of different kinds: {} and {}", path.display(), one.display(), other.display())]
    MixedKinds {
        path: PathBuf,
        one: PathBuf,
        other: PathBuf,
    },
    #[error("{}, line {line}: {reason}", path.display())]
    JsonLine {
        path: PathBuf,
        line: usize,
        reason: String,
    },
    #[error("{} is no usable Parquet file: {reason}", path.display())]
    Parquet { path: PathBuf, reason: String },
    /// The decoder would hold all of it.
    #[error("row {row} of {} is in a page that takes {mib} MiB of memory; up to {mib_max} MiB are allowed", path.display())]
    PageTooLarge {
        path: PathBuf,
        row: usize,
        mib: u64,
        mib_max: u64,
    },
    #[error("{} has no column `{column}`; it has {}", path.display(), found.join(", "))]
    Column {
        path: PathBuf,
        column: String,
        found: Vec<String>,
    },
    #[error(
        "no data set `{name}` on this machine, and nothing is ever downloaded{}",
        Lines(looked)
    )]
    NoDataset { name: String, looked: Vec<PathBuf> },
    #[error(
        "the data set `{name}` has no files here; put files such as train-00000-of-00001.parquet and \
         validation-00000-of-00001.parquet (or train.txt, train.jsonl) into one of{}",
        Lines(folders)
    )]
    DatasetWithoutFiles { name: String, folders: Vec<PathBuf> },
    #[error("the token cache {} cannot be used: {reason}", path.display())]
    Cache { path: PathBuf, reason: String },
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
    /// Neither `.npy` nor `.json`.
    #[error("{} is no token file: its name must end in .npy or .json", path.display())]
    Extension { path: PathBuf },
    #[error("{} is no usable .npy file: {reason}", path.display())]
    Npy { path: PathBuf, reason: String },
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} holds no array of token ids: {reason}", path.display())]
    Shape { path: PathBuf, reason: String },
    #[error("{}: {value} at position {index} is no token id", path.display())]
    NotAnId {
        path: PathBuf,
        index: usize,
        value: String,
    },
    #[error("{}: token id {id} at position {index} is outside the model's vocabulary of {vocab_size}", path.display())]
    OutOfVocabulary {
        path: PathBuf,
        index: usize,
        id: u32,
        vocab_size: usize,
    },
    #[error("{} is not UTF-8 text: the first bad byte is at offset {offset}", path.display())]
    NotUtf8 { path: PathBuf, offset: usize },
    /// By its first bytes.
    #[error("{} is not text but {format}", path.display())]
    OtherFormat { path: PathBuf, format: &'static str },
    #[error("{} holds no text", path.display())]
    EmptyText { path: PathBuf },
    /// One side of a split.
    #[error("{} has too few rows to split: one side has none", path.display())]
    EmptySide { path: PathBuf },
    /// The tokenizer knows nothing of it.
    #[error("the tokenizer makes no tokens of {}: its vocabulary has none of the text", path.display())]
    NoTokens { path: PathBuf },
    #[error("{} has {tokens} tokens, not enough for one block of {block_size}", path.display())]
    TooShort {
        path: PathBuf,
        tokens: usize,
        block_size: usize,
    },
    #[error("{} holds sequences of {found} tokens, but the block size is {block_size}", path.display())]
    BlockSize {
        path: PathBuf,
        found: usize,
        block_size: usize,
    },
    #[error(
        "{} gives {samples} samples, but one optimiser step needs {}: {batch} per micro-batch × {accumulation} accumulation steps{}{}",
        path.display(),
        batch.saturating_mul(*accumulation).saturating_mul(*replicas).saturating_mul(*device_iterations),
        Factor(*replicas, "replicas"),
        Factor(*device_iterations, "device iterations"),
    )]
    TooFewSamples {
        path: PathBuf,
        samples: usize,
        batch: usize,
        accumulation: usize,
        replicas: usize,
        device_iterations: usize,
    },
    #[error(transparent)]
    Frontend(#[from] FrontendError),
}

/// A further factor of a product, if it is one.
struct Factor(usize, &'static str);

impl std::fmt::Display for Factor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => Ok(()),
            factor => write!(f, " × {factor} {}", self.1),
        }
    }
}

/// Places, one a line.
struct Lines<'a>(&'a [PathBuf]);

impl std::fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut places = self.0.iter();
        places.try_for_each(|place| write!(f, "\n  looked in {}", place.display()))
    }
}
