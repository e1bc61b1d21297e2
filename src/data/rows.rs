//! Rows of text, one after the other, from files of several kinds. A long row comes in chunks, so only what is being read is in memory: of a
//! text a chunk, of JSON lines a line of some megabytes or a chunk, of Parquet a page.

mod jsonl;
mod other_format;
mod parquet;
mod text;

use std::path::{Path, PathBuf};

use super::DataError;
use super::corpus::Kind;
use super::file::open as open_file;

/// What came of asking for the next row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// A whole row was appended.
    Whole,
    /// A chunk of a long row was appended, cut at any character; the row goes on.
    Part,
    /// There are no more rows.
    End,
}

/// Longer rows come in chunks of about this size.
const CHUNK_BYTES: usize = 32 << 10;

/// The rows of one file.
pub(super) trait Rows: Send {
    /// Appends the next row, or a chunk of it, to `into`.
    fn next(&mut self, into: &mut String) -> Result<Row, DataError>;
}

/// The rows of several files, as if they were one.
pub(super) struct AllRows<'a> {
    files: std::slice::Iter<'a, PathBuf>,
    kind: Kind,
    column: Option<&'a str>,
    open: Option<Box<dyn Rows>>,
}

impl<'a> AllRows<'a> {
    pub(super) fn of(files: &'a [PathBuf], kind: Kind, column: Option<&'a str>) -> AllRows<'a> {
        AllRows {
            files: files.iter(),
            kind,
            column,
            open: None,
        }
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Rows>, DataError> {
        Ok(match self.kind {
            Kind::Text => Box::new(text::TextRows::open(path)?),
            Kind::JsonLines => Box::new(jsonl::JsonRows::open(path, self.column)?),
            Kind::Parquet => Box::new(parquet::ParquetRows::open(path, self.column)?),
        })
    }
}

impl Rows for AllRows<'_> {
    fn next(&mut self, into: &mut String) -> Result<Row, DataError> {
        loop {
            if let Some(rows) = &mut self.open {
                match rows.next(into)? {
                    Row::End => self.open = None,
                    row => return Ok(row),
                }
            }
            let Some(path) = self.files.next() else {
                return Ok(Row::End);
            };
            self.open = Some(self.open(path)?);
        }
    }
}
