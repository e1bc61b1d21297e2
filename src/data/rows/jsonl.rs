//! Rows of a JSON-lines file: one field of the object on each line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Row, Rows, give_chunk, open_file};
use crate::data::DataError;
use field::{Field, Found};

mod field;

/// A longer line is no line of text data.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// Buffers of long lines are given back.
const KEPT_BYTES: usize = 1 << 20;
/// The field that is read unless another is asked for.
pub(super) const COLUMN_DEFAULT: &str = "text";

/// The lines of a file.
pub(super) struct JsonRows {
    path: PathBuf,
    file: BufReader<File>,
    column: String,
    number: usize,
    line: Vec<u8>,
    /// The row that is being given, and how much of it was.
    row: String,
    given: usize,
}

impl JsonRows {
    pub(super) fn open(path: &Path, column: Option<&str>) -> Result<JsonRows, DataError> {
        Ok(JsonRows {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(1 << 18, open_file(path)?),
            column: column.unwrap_or(COLUMN_DEFAULT).to_owned(),
            number: 0,
            line: Vec::new(),
            row: String::new(),
            given: 0,
        })
    }

    fn bad(&self, reason: String) -> DataError {
        DataError::JsonLine {
            path: self.path.clone(),
            line: self.number,
            reason,
        }
    }

    /// Reads the next line that is not blank; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, DataError> {
        loop {
            self.line.clear();
            let mut limited = (&mut self.file).take(LINE_BYTES_MAX);
            let read = limited.read_until(b'\n', &mut self.line);
            let cut = limited.limit() == 0;
            self.number += 1;
            match read {
                Ok(0) => return Ok(false),
                Ok(_) if cut => {
                    let mib = LINE_BYTES_MAX >> 20;
                    return Err(self.bad(format!("it is longer than {mib} MiB")));
                }
                Ok(_) if self.line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(_) => return Ok(true),
                Err(source) => {
                    return Err(DataError::Read {
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }

    /// Makes the field of the line the row to give.
    fn parse(&mut self) -> Result<(), DataError> {
        self.row.clear();
        self.row.shrink_to(KEPT_BYTES);
        self.given = 0;
        let found = Field::of(&self.column, &mut self.row).read(&self.line);
        let found = found.map_err(|error| self.bad(format!("it is no JSON object: {error}")))?;
        self.line.clear();
        self.line.shrink_to(KEPT_BYTES);
        match found {
            Found::Text => Ok(()),
            Found::NoText => Err(self.bad(format!("`{}` is no text", self.column))),
            Found::Others(found) => Err(DataError::Column {
                path: self.path.clone(),
                column: self.column.clone(),
                found,
            }),
        }
    }
}

impl Rows for JsonRows {
    fn next(&mut self, into: &mut String) -> Result<Row, DataError> {
        if self.given == self.row.len() {
            if !self.read_line()? {
                return Ok(Row::End);
            }
            self.parse()?;
        }
        Ok(give_chunk(&self.row, &mut self.given, into))
    }
}
