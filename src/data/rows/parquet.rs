//! Rows of a column of text in a Parquet file, as Hugging Face stores datasets.

use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::jsonl::COLUMN_DEFAULT;
use super::{CHUNK_BYTES, Row, Rows, open_file};
use crate::data::DataError;
use pages::{PageTooLarge, Pages};

mod pages;

/// Rows decoded at a time, at most.
const RECORDS: usize = 256;
/// Bytes decoded at a time, about.
const DECODED_BYTES: i64 = 4 << 20;

/// One column of a file.
pub(super) struct ParquetRows {
    path: PathBuf,
    file: SerializedFileReader<Pages>,
    column: usize,
    name: String,
    /// Definition level of a value that is there.
    defined: i16,
    row_group: usize,
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Rows to decode at a time, from how long they are in this row group.
    records: usize,
    /// Decoded values, the next one last.
    ready: Vec<ByteArray>,
    /// The row that is being given, and how much of it was.
    row: ByteArray,
    given: usize,
    /// The number of the row behind it.
    number: usize,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, column: Option<&str>) -> Result<ParquetRows, DataError> {
        let bad = |reason: String| DataError::Parquet {
            path: path.to_path_buf(),
            reason,
        };
        let file = Pages::of(open_file(path)?);
        let file = guarded(|| SerializedFileReader::new(file)).map_err(|e| bad(e.to_string()))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let wanted = column.unwrap_or(COLUMN_DEFAULT);
        let index = match names.iter().position(|name| name == wanted) {
            Some(index) => index,
            // Like Hugging Face's scripts: the first column where nothing else is said.
            None if column.is_none() && names.len() == 1 => 0,
            None => {
                return Err(DataError::Column {
                    path: path.to_path_buf(),
                    column: wanted.to_owned(),
                    found: names,
                });
            }
        };
        let described = schema.column(index);
        if described.physical_type() != Type::BYTE_ARRAY || described.max_rep_level() > 0 {
            let name = &names[index];
            return Err(bad(format!("its column `{name}` is no column of texts")));
        }
        Ok(ParquetRows {
            path: path.to_path_buf(),
            column: index,
            name: names[index].clone(),
            defined: described.max_def_level(),
            file,
            row_group: 0,
            reader: None,
            records: RECORDS,
            ready: Vec::new(),
            row: ByteArray::from(""),
            given: 0,
            number: 0,
        })
    }

    fn bad(&self, reason: String) -> DataError {
        DataError::Parquet {
            path: self.path.clone(),
            reason,
        }
    }

    /// The error for what stopped the decoder at the row `number`.
    fn stopped(&self, error: ParquetError) -> DataError {
        if let ParquetError::External(inner) = &error
            && let Some(page) = inner.downcast_ref::<PageTooLarge>()
        {
            return DataError::PageTooLarge {
                path: self.path.clone(),
                row: self.number,
                mib: page.bytes >> 20,
                mib_max: pages::PAGE_BYTES_MAX >> 20,
            };
        }
        let reason = error.to_string();
        self.bad(reason.trim_start_matches("Parquet error: ").to_owned())
    }

    /// Decodes more values; false at the end of the file.
    fn decode(&mut self) -> Result<bool, ParquetError> {
        loop {
            let Some(reader) = &mut self.reader else {
                if self.row_group == self.file.num_row_groups() {
                    return Ok(false);
                }
                let group = self.file.get_row_group(self.row_group)?;
                let ColumnReader::ByteArrayColumnReader(reader) =
                    group.get_column_reader(self.column)?
                else {
                    let reason = format!("its column `{}` is no column of texts", self.name);
                    return Err(ParquetError::General(reason));
                };
                let chunk = group.metadata().column(self.column);
                let mean = chunk.uncompressed_size() / chunk.num_values().max(1);
                self.records = (DECODED_BYTES / mean.max(1)).clamp(1, RECORDS as i64) as usize;
                self.reader = Some(reader);
                self.row_group += 1;
                continue;
            };
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let (records, found, _) =
                reader.read_records(self.records, Some(&mut levels), None, &mut values)?;
            if records == 0 {
                self.reader = None;
                continue;
            }
            let missing = levels.iter().position(|&level| level != self.defined);
            if let Some(at) = missing.or((found != records).then_some(0)) {
                let row = self.number + at;
                let reason = format!("row {row} of its column `{}` is null", self.name);
                return Err(ParquetError::General(reason));
            }
            values.reverse();
            self.ready = values;
            return Ok(true);
        }
    }

    /// Appends what comes next of the row that is being given.
    fn give(&mut self, into: &mut String) -> Result<Row, DataError> {
        let rest = &self.row.data()[self.given..];
        let continues_character =
            |end: usize| rest.get(end).is_some_and(|byte| byte & 0xc0 == 0x80);
        let end = rest.len().min(CHUNK_BYTES);
        // Four bytes before, a character has begun at the latest.
        let end = (end.saturating_sub(4)..=end).rfind(|&end| !continues_character(end));
        let text = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        let text = text.filter(|text| !text.is_empty() || rest.is_empty());
        let Some(text) = text else {
            let (row, name) = (self.number - 1, &self.name);
            return Err(self.bad(format!("row {row} of its column `{name}` is not UTF-8")));
        };
        into.push_str(text);
        self.given += text.len();
        Ok(match self.given == self.row.len() {
            true => Row::Whole,
            false => Row::Part,
        })
    }
}

impl Rows for ParquetRows {
    fn next(&mut self, into: &mut String) -> Result<Row, DataError> {
        if self.given == self.row.len() {
            if self.ready.is_empty() && !guarded(|| self.decode()).map_err(|e| self.stopped(e))? {
                return Ok(Row::End);
            }
            let Some(value) = self.ready.pop() else {
                return Ok(Row::End);
            };
            self.row = value;
            self.given = 0;
            self.number += 1;
        }
        self.give(into)
    }
}

/// A damaged file may trip the decoder: its panics are errors here.
fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let inconsistent = |_| ParquetError::General("its pages are inconsistent".into());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(inconsistent(panic)))
}
