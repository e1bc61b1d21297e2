//! Text to token ids and back, by the tokenizer files of a model folder.
//!
//! `tokenizer.json` is taken as it is; without it, `vocab.json` and `merges.txt` are put together the way GPT-2 uses them:
//! byte-level BPE, no space put in front, `<|endoftext|>` recognised inside text. The arithmetic is the `tokenizers` crate's. A
//! long text is encoded in parallel parts, cut only where that leaves the ids those of the whole text.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::error::{FrontendError, shown};
use super::read::read_file;
use super::split::Cuts;
use crate::atomic_file;

/// The token that ends a text.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The largest vocabularies make files of some 40 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Text encoded by one task: large against a task's overhead, small enough that two cores share a megabyte evenly.
const PART_BYTES: usize = 32 << 10;
/// Whatever of these a folder has goes with the model when it is saved.
const FILES: [&str; 6] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// A tokenizer and the files it came from.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// Where a text may be cut; none where it must be encoded whole.
    cuts: Option<Cuts>,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("cuts", &self.cuts)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the tokenizer of the model in `dir`.
    pub fn load(dir: &Path) -> Result<Self, FrontendError> {
        let mut files = Vec::new();
        for name in FILES {
            let path = dir.join(name);
            if path.exists() {
                files.push((name, read_file(&path, FILE_BYTES_MAX)?));
            }
        }
        let bytes_of = |name: &str| {
            files
                .iter()
                .find(|file| file.0 == name)
                .map(|file| file.1.as_slice())
        };
        let (path, inner) = match (bytes_of(FILES[0]), bytes_of(FILES[1]), bytes_of(FILES[2])) {
            (Some(json), _, _) => (dir.join(FILES[0]), from_json(json, &dir.join(FILES[0]))?),
            (None, Some(vocab), Some(merges)) => {
                (dir.join(FILES[1]), from_bpe_files(vocab, merges, dir)?)
            }
            _ => {
                return Err(FrontendError::NoTokenizer {
                    dir: dir.to_path_buf(),
                });
            }
        };
        let cuts = cuts(&inner);
        Ok(Self {
            path,
            inner,
            cuts,
            files,
        })
    }

    /// Writes the files the tokenizer was read from into `dir`.
    pub fn save(&self, dir: &Path) -> Result<(), FrontendError> {
        for (name, bytes) in &self.files {
            atomic_file::write(&dir.join(name), bytes)?;
        }
        Ok(())
    }

    /// The ids of `text`, with what special tokens the files ask for (GPT-2's ask for none).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, FrontendError> {
        let cuts = match &self.cuts {
            Some(cuts) if text.len() > PART_BYTES => cuts,
            _ => return self.encode_part(text),
        };
        let parts: Vec<Vec<u32>> = cuts
            .split(text, PART_BYTES)
            .into_par_iter()
            .map(|part| self.encode_part(part))
            .collect::<Result<_, _>>()?;
        Ok(parts.concat())
    }

    /// Appends the ids of `text`. Long texts are encoded in parallel, short ones on this thread.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), FrontendError> {
        if text.len() > PART_BYTES {
            ids.extend(self.encode(text)?);
            return Ok(());
        }
        let encoding = guarded(|| self.inner.encode_fast(text, true));
        let encoding = encoding.map_err(|reason| FrontendError::Tokens {
            action: "encoding",
            reason,
        })?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// The first place at or after byte `from` where `text`, and whatever follows it, may be cut: the ids of both parts are those of the
    /// whole. `None` where there is no such place, or no such place is known for this form of tokenizer.
    pub fn first_cut(&self, text: &str, from: usize) -> Option<usize> {
        self.cuts.as_ref()?.first(text, from)
    }

    /// A digest of the files it was read from.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in &self.files {
            hasher.update(format!("{name} {}\n", bytes.len()).as_bytes());
            hasher.update(bytes);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The text of `ids`, special tokens included. Ids that are no tokens, and bytes that are no UTF-8, become U+FFFD or nothing.
    pub fn decode(&self, ids: &[u32]) -> Result<String, FrontendError> {
        guarded(|| self.inner.decode(ids, false)).map_err(|reason| FrontendError::Tokens {
            action: "decoding",
            reason,
        })
    }

    /// The id of a token spelled out, such as [`END_OF_TEXT`].
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.largest().map_or(0, |(_, id)| id as usize + 1)
    }

    /// Whether every id this tokenizer can make is a row of an embedding with `vocab_size` rows. Fewer ids than rows are fine.
    pub fn check_vocab(&self, vocab_size: usize) -> Result<(), FrontendError> {
        match self.largest() {
            Some((token, id)) if id as usize >= vocab_size => Err(FrontendError::VocabMismatch {
                path: self.path.clone(),
                token: shown(&token),
                id,
                vocab_size,
            }),
            _ => Ok(()),
        }
    }

    fn largest(&self) -> Option<(String, u32)> {
        self.inner
            .get_vocab(true)
            .into_iter()
            .max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0)))
    }

    fn encode_part(&self, text: &str) -> Result<Vec<u32>, FrontendError> {
        guarded(|| self.inner.encode_fast(text, true))
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|reason| FrontendError::Tokens {
                action: "encoding",
                reason,
            })
    }
}

/// The crate below takes some malformed tokenizers for granted that a user can hand us: its panics are errors here.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| shown(&error)),
        Err(_) => Err("the tokenizer's files are inconsistent".to_owned()),
    }
}

fn from_json(json: &[u8], path: &Path) -> Result<tokenizers::Tokenizer, FrontendError> {
    let unusable = |reason: String| FrontendError::Tokenizer {
        path: path.to_path_buf(),
        reason,
    };
    // Broken JSON first: this parser says where, and the crate does not expect it everywhere.
    let _: serde_json::Value =
        serde_json::from_slice(json).map_err(|source| FrontendError::Json {
            path: path.to_path_buf(),
            source,
        })?;
    let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(unusable)?;
    // Truncation and padding are settings of the batch the file was last used for, not of the tokenizer.
    inner
        .with_truncation(None)
        .map_err(|error| unusable(error.to_string()))?;
    inner.with_padding(None);
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && bpe.dropout.is_some_and(|dropout| dropout > 0.0)
    {
        return Err(unusable(
            "it merges at random (`dropout` is set), so a text has no fixed ids".into(),
        ));
    }
    Ok(inner)
}

fn from_bpe_files(
    vocab: &[u8],
    merges: &[u8],
    dir: &Path,
) -> Result<tokenizers::Tokenizer, FrontendError> {
    let (vocab_path, merges_path) = (dir.join(FILES[1]), dir.join(FILES[2]));
    let vocab: HashMap<String, u32> =
        serde_json::from_slice(vocab).map_err(|source| FrontendError::Json {
            path: vocab_path,
            source,
        })?;
    let unusable = |reason: String| FrontendError::Tokenizer {
        path: merges_path.clone(),
        reason,
    };
    let has_end_of_text = vocab.contains_key(END_OF_TEXT);
    let merges = parse_merges(merges).map_err(unusable)?;
    let vocab = vocab
        .into_iter()
        .collect::<tokenizers::models::bpe::Vocab>();
    let bpe =
        guarded(|| BPE::builder().vocab_and_merges(vocab, merges).build()).map_err(unusable)?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    inner.with_decoder(Some(ByteLevel::default()));
    if has_end_of_text {
        inner
            .add_special_tokens([AddedToken::from(END_OF_TEXT, true)])
            .map_err(|error| unusable(error.to_string()))?;
    }
    Ok(inner)
}

/// The pairs of `merges.txt` in order of rank: a version line, then two tokens a line.
fn parse_merges(bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let mut merges = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.is_empty() || (i == 0 && line.starts_with("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((left, right))
                if !left.is_empty() && !right.is_empty() && !right.contains(' ') =>
            {
                merges.push((left.to_owned(), right.to_owned()));
            }
            _ => {
                return Err(format!(
                    "line {}: {:?} is not two tokens with a space between",
                    i + 1,
                    shown(&line)
                ));
            }
        }
    }
    Ok(merges)
}

/// Where texts may be cut, if this is a tokenizer of GPT-2's form, for which the argument in [`super::split`] holds.
fn cuts(inner: &tokenizers::Tokenizer) -> Option<Cuts> {
    let gpt2_pieces = match inner.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::ByteLevel(byte_level)) => {
            byte_level.use_regex && !byte_level.add_prefix_space
        }
        _ => false,
    };
    let adds_nothing = matches!(
        inner.get_post_processor(),
        None | Some(PostProcessorWrapper::ByteLevel(_))
    );
    if !gpt2_pieces || !adds_nothing || inner.get_normalizer().is_some() {
        return None;
    }
    let tokens = inner.get_added_vocabulary().get_added_tokens_decoder();
    // Such a token could reach over a cut, swallow the white space at one, or depend on what is beyond it.
    let is_delicate = |token: &AddedToken| {
        token.lstrip
            || token.rstrip
            || token.single_word
            || token.content.contains(char::is_whitespace)
    };
    if tokens.values().any(is_delicate) {
        return None;
    }
    let contents = || tokens.values().map(|token| token.content.as_str());
    let mut token_starts: Vec<char> = contents()
        .filter_map(|token| token.chars().next())
        .collect();
    token_starts.sort_unstable();
    token_starts.dedup();
    Some(Cuts {
        token_starts,
        token_bytes_max: contents().map(str::len).max().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests;
