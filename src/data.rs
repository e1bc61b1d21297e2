//! Training and evaluation data: from files of text or token ids to blocks of one length, in a known order.
//!
//! ```text
//! .txt .jsonl .parquet ── rows ── tokenise, 1,000 rows a stream ──► token file (kept) ──┐
//! .npy, .json ──► ids with a shape ─────────────────────────────────────────────────────┴──► TokenBlocks ──► SampleOrder ──► micro-batches
//! ```

pub mod array;
pub mod cache;
pub mod corpus;
pub mod dataset;
pub mod error;
pub mod json;
pub mod npy;
pub mod order;
pub mod tokenise;

mod file;
mod rows;
mod token_file;

pub use array::{TokenArray, TokenBlocks, read_blocks};
pub use cache::{TokenCache, TokeniseWatch};
pub use corpus::Corpus;
pub use error::DataError;
pub use order::SampleOrder;

use std::path::Path;

use crate::frontend::Tokenizer;

/// Tokenises a text at hand as one stream and cuts it into blocks of `block_size`; what is left at the end is dropped. `path` is named
/// in errors.
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
