//! Data files on the command line: a text or tokens, for training and for evaluation.

use std::path::{Path, PathBuf};

use super::model_options::Model;
use crate::data::{TokenBlocks, read_text, read_tokens};
use crate::error::Error;

/// A file of samples and how to read it.
pub(super) enum DataFile {
    Text(PathBuf),
    Tokens(PathBuf),
}

impl DataFile {
    /// What two options that exclude each other name.
    pub(super) fn given(text: &Option<PathBuf>, tokens: &Option<PathBuf>) -> Option<DataFile> {
        text.clone()
            .map(DataFile::Text)
            .or_else(|| tokens.clone().map(DataFile::Tokens))
    }

    /// A file whose kind its name tells: `.npy` and `.json` hold tokens, everything else is text.
    pub(super) fn by_name(path: &Path) -> DataFile {
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default()
            .to_ascii_lowercase();
        match extension.as_str() {
            "npy" | "json" => DataFile::Tokens(path.to_path_buf()),
            _ => DataFile::Text(path.to_path_buf()),
        }
    }

    /// The samples; without `block_size`, tokens keep the length they have and text is cut to the model's default.
    pub(super) fn load(
        &self,
        model: &Model,
        block_size: Option<usize>,
    ) -> Result<TokenBlocks, Error> {
        let config = &model.config;
        let default = config.block_size(block_size)?;
        let blocks = match self {
            DataFile::Text(path) => {
                read_text(path, &model.tokenizer()?, default, config.vocab_size)?
            }
            DataFile::Tokens(path) => {
                read_tokens(path)?.into_blocks(block_size, default, config.vocab_size)?
            }
        };
        // Sequences of a file may still be longer than the model.
        config.block_size(Some(blocks.block_size()))?;
        Ok(blocks)
    }
}
