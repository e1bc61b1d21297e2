//! Training and evaluation data: from a text or an array of token ids to blocks of one length, in a known order.
//!
//! ```text
//! text ── tokenizer ──► one stream ──┐
//! .npy, .json ──► ids with a shape ──┴──► TokenBlocks [samples, block_size] ──► SampleOrder ──► micro-batches
//! ```

pub mod array;
pub mod error;
pub mod json;
pub mod npy;
pub mod order;

mod file;

pub use array::{TokenArray, TokenBlocks, read_tokens};
pub use error::DataError;
pub use order::SampleOrder;

use std::path::Path;

use crate::frontend::Tokenizer;

/// Tokenises the text in `path` as one stream and cuts it into blocks of `block_size`; what is left at the end is dropped.
pub fn read_text(
    path: &Path,
    tokenizer: &Tokenizer,
    block_size: usize,
    vocab_size: usize,
) -> Result<TokenBlocks, DataError> {
    let bytes = file::read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| DataError::NotUtf8 {
        path: path.to_path_buf(),
        offset: error.valid_up_to(),
    })?;
    text_blocks(text, path, tokenizer, block_size, vocab_size)
}

/// The same for a text at hand; `path` is named in errors.
pub fn text_blocks(
    text: &str,
    path: &Path,
    tokenizer: &Tokenizer,
    block_size: usize,
    vocab_size: usize,
) -> Result<TokenBlocks, DataError> {
    if text.trim().is_empty() {
        return Err(DataError::EmptyText {
            path: path.to_path_buf(),
        });
    }
    tokenizer.check_vocab(vocab_size)?;
    let ids = tokenizer.encode(text)?;
    let shape = vec![ids.len()];
    TokenArray {
        path: path.to_path_buf(),
        shape,
        ids,
    }
    .into_blocks(Some(block_size), block_size, vocab_size)
}
