//! Tokenised corpora are kept: the next run with the same text, tokenizer and block size starts at once.

use std::path::{Path, PathBuf};

use super::corpus::{Corpus, Part};
use super::token_file::{TokenFile, TokenFileOut};
use super::tokenise::{Counts, ROWS_PER_BATCH, tokenise};
use super::{DataError, TokenBlocks};
use crate::atomic_file;
use crate::frontend::Tokenizer;

/// Version of what is kept.
const FORMAT: u32 = 3;

/// Where tokens are kept.
#[derive(Clone, Debug)]
pub struct TokenCache {
    pub directory: PathBuf,
    /// Tokenise anew whatever is there.
    pub overwrite: bool,
}

/// Who is told how it goes.
pub trait TokeniseWatch {
    fn progress(&mut self, counts: &Counts);
    /// The tokens are there; `kept` where they were found and not made.
    fn done(&mut self, counts: &Counts, kept: bool);
    fn note(&mut self, text: String);
}

impl TokenCache {
    /// The blocks of `corpus`, tokenised now or before.
    pub fn blocks(
        &self,
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        block_size: usize,
        vocab_size: usize,
        watch: &mut dyn TokeniseWatch,
    ) -> Result<TokenBlocks, DataError> {
        tokenizer.check_vocab(vocab_size)?;
        let key = key(corpus, tokenizer, block_size, vocab_size)?;
        atomic_file::create_directory(&self.directory)?;
        atomic_file::remove_stale(&self.directory);
        let path = self.directory.join(format!("{}.tokens", &key[..32]));
        if path.exists() && !self.overwrite {
            match TokenFile::open(&path, &key) {
                Ok(file) => {
                    watch.done(&file.counts(), true);
                    return Ok(blocks(file, corpus, block_size));
                }
                Err(reason) => watch.note(format!(
                    "{} is damaged ({reason}) and made anew",
                    path.display()
                )),
            }
        }
        let mut out = TokenFileOut::create(&path, vocab_size)?;
        let counts = tokenise(
            corpus,
            tokenizer,
            block_size,
            &mut |block| out.block(block),
            &mut |counts| watch.progress(counts),
        )?;
        if counts.rows == 0 && corpus.part != Part::All {
            return Err(DataError::EmptySide {
                path: corpus.path.clone(),
            });
        }
        if !counts.has_text {
            return Err(DataError::EmptyText {
                path: corpus.path.clone(),
            });
        }
        if counts.blocks == 0 {
            return Err(too_short(corpus, block_size, &counts));
        }
        out.finish(&key, block_size, &counts)?;
        watch.done(&counts, false);
        let file = TokenFile::open(&path, &key).map_err(|reason| DataError::Cache {
            path: path.clone(),
            reason,
        })?;
        Ok(blocks(file, corpus, block_size))
    }
}

fn blocks(file: TokenFile, corpus: &Corpus, block_size: usize) -> TokenBlocks {
    TokenBlocks::in_file(corpus.path.clone(), block_size, file)
}

fn too_short(corpus: &Corpus, block_size: usize, counts: &Counts) -> DataError {
    if counts.tokens == 0 {
        return DataError::NoTokens {
            path: corpus.path.clone(),
        };
    }
    DataError::TooShort {
        path: corpus.path.clone(),
        tokens: counts.tokens as usize,
        block_size,
    }
}

/// The digest of everything the blocks depend on.
fn key(
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    block_size: usize,
    vocab_size: usize,
) -> Result<String, DataError> {
    let mut hasher = blake3::Hasher::new();
    let part = match corpus.part {
        Part::All => "all".to_owned(),
        part => format!("{part:?}"),
    };
    let settings = format!(
        "superstep tokens {FORMAT}: {:?} {:?} {part} {block_size} {vocab_size} {ROWS_PER_BATCH} {}\n",
        corpus.kind,
        corpus.column,
        tokenizer.digest()
    );
    hasher.update(settings.as_bytes());
    for path in &corpus.files {
        let (digest, bytes) = file_digest(path)?;
        hasher.update(format!("{digest} {bytes}\n").as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn file_digest(path: &Path) -> Result<(blake3::Hash, u64), DataError> {
    if path.is_dir() {
        return Err(DataError::Directory {
            path: path.to_path_buf(),
        });
    }
    let read = || -> std::io::Result<(blake3::Hash, u64)> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(path)?)?;
        Ok((hasher.finalize(), hasher.count()))
    };
    read().map_err(|source| DataError::Read {
        path: path.to_path_buf(),
        source,
    })
}
