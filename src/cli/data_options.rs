//! Data on the command line: files of text or tokens, or a data set by name, for training and for evaluation.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use indicatif::{ProgressBar, ProgressStyle};

use super::model_options::Model;
use super::output::{note, say};
use crate::data::dataset::{self, Split};
use crate::data::tokenise::Counts;
use crate::data::{Corpus, TokenBlocks, TokenCache, TokeniseWatch, read_blocks};
use crate::error::Error;
use crate::frontend::CacheLocation;
use crate::user_cache;

/// As much of a `.json` file as tells what it is.
const SNIFF_BYTES: u64 = 1 << 20;

/// Data sets by name, and how text becomes tokens.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct TextOptions {
    /// A folder with the files of a data set, or one in the Hugging Face cache, such as wikitext.
    #[arg(long = "dataset_name", value_name = "DIR|NAME")]
    pub(super) dataset_name: Option<String>,
    /// Its configuration, such as wikitext-103-raw-v1.
    #[arg(
        long = "dataset_config_name",
        value_name = "NAME",
        requires = "dataset_name"
    )]
    dataset_config_name: Option<String>,
    /// Column or field that holds the text [default: text].
    #[arg(long = "text_column", value_name = "NAME")]
    text_column: Option<String>,
    /// Folder that keeps tokenised text [default: superstep in the user's cache].
    #[arg(long = "cache_dir", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Tokenise anew.
    #[arg(long = "overwrite_cache", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    overwrite_cache: bool,
}

impl TextOptions {
    /// A file or folder and how to read it: token files are known by their name or, for `.json`, by how they begin.
    pub(super) fn file(&self, path: &Path) -> Result<DataFile, Error> {
        let extension = path.extension().and_then(|e| e.to_str());
        let is_tokens = match extension.unwrap_or_default().to_ascii_lowercase().as_str() {
            "npy" => true,
            "json" => !holds_json_lines(path),
            _ => false,
        };
        if is_tokens {
            return Ok(DataFile::Tokens(path.to_path_buf()));
        }
        let corpus = Corpus::at(path, self.text_column.as_deref())?;
        Ok(DataFile::of(corpus))
    }

    /// A split of the data set by name; none if it has no such split.
    pub(super) fn dataset(&self, name: &str, split: Split) -> Result<Option<DataFile>, Error> {
        let configuration = self.dataset_config_name.as_deref();
        let column = self.text_column.as_deref();
        let cache = CacheLocation::from_env();
        let found = dataset::find(name, configuration, split, column, &cache)?;
        Ok(found.map(DataFile::of))
    }

    fn cache(&self) -> TokenCache {
        let directory = self.cache_dir.clone();
        TokenCache {
            directory: directory.unwrap_or_else(user_cache::directory),
            overwrite: self.overwrite_cache,
        }
    }
}

/// Whether the first line is an object by itself, and not one of token ids.
fn holds_json_lines(path: &Path) -> bool {
    let Ok(file) = std::fs::File::open(path) else {
        return false;
    };
    let mut line = Vec::new();
    let read = BufReader::new(file.take(SNIFF_BYTES)).read_until(b'\n', &mut line);
    let object: Result<serde_json::Map<String, serde_json::Value>, _> =
        serde_json::from_slice(&line);
    read.is_ok() && object.is_ok_and(|object| !object.contains_key("ids"))
}

/// Samples to be made, and of what.
#[derive(Clone, Debug)]
pub(super) enum DataFile {
    Text(Corpus),
    Tokens(PathBuf),
}

impl DataFile {
    /// A text, and a word to the user if only a part of it is here.
    fn of(corpus: Corpus) -> DataFile {
        if let Some((missing, all)) = corpus.missing_shards() {
            let path = corpus.path.display();
            note(format_args!(
                "{missing} of {all} numbered files are not in {path}; going on with the others"
            ));
        }
        DataFile::Text(corpus)
    }

    /// The samples; without `block_size`, tokens keep the length they have and text is cut to the model's default. `purpose` says what
    /// they are for.
    pub(super) fn load(
        &self,
        model: &Model,
        block_size: Option<usize>,
        options: &TextOptions,
        purpose: &'static str,
    ) -> Result<TokenBlocks, Error> {
        let config = &model.config;
        let default = config.block_size(block_size)?;
        let blocks = match self {
            DataFile::Text(corpus) => {
                let tokenizer = model.tokenizer()?;
                let mut watch = Watch::new(purpose);
                let cache = options.cache();
                let made = cache.blocks(corpus, &tokenizer, default, config.vocab_size, &mut watch);
                watch.bar.finish_and_clear();
                made?
            }
            DataFile::Tokens(path) => read_blocks(path, block_size, default, config.vocab_size)?,
        };
        // Sequences of a file may still be longer than the model.
        config.block_size(Some(blocks.block_size()))?;
        Ok(blocks)
    }
}

/// Tokenising, as the user sees it.
struct Watch {
    purpose: &'static str,
    bar: ProgressBar,
}

impl Watch {
    fn new(purpose: &'static str) -> Watch {
        // Hidden by itself when stderr is no terminal.
        let bar = ProgressBar::new_spinner();
        let template = "tokenising  {bytes}  {bytes_per_sec}  {elapsed}  {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Watch { purpose, bar }
    }
}

impl TokeniseWatch for Watch {
    fn progress(&mut self, counts: &Counts) {
        self.bar.set_position(counts.text_bytes);
        self.bar
            .set_message(format!("{} rows, {} tokens", counts.rows, counts.tokens));
    }

    fn done(&mut self, counts: &Counts, kept: bool) {
        self.bar.finish_and_clear();
        let how = if kept {
            "found tokenised".to_owned()
        } else {
            format!("tokenised in {:.1} s", self.bar.elapsed().as_secs_f64())
        };
        say(format_args!(
            "{:10}  {} rows, {} tokens, {} samples ({} tokens left over), {how}",
            self.purpose, counts.rows, counts.tokens, counts.blocks, counts.dropped,
        ));
        if counts.forced_cuts > 0 {
            note(format_args!(
                "{} rows were cut at places that may show in their tokens: they are too long to be tokenised in one piece, and have no white space \
                 or marks behind words to cut at, or the tokenizer is not of GPT-2's form",
                counts.forced_cuts
            ));
        }
    }

    fn note(&mut self, text: String) {
        note(text);
    }
}
