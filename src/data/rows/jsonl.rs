//! Rows of a JSON-lines file: one field of the object on each line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Row, Rows, open_file};
use crate::data::DataError;

/// A longer line is no line of text data.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// The field that is read unless another is asked for.
pub(super) const COLUMN_DEFAULT: &str = "text";

/// The lines of a file.
pub(super) struct JsonRows {
    path: PathBuf,
    file: BufReader<File>,
    column: String,
    number: usize,
    line: Vec<u8>,
}

impl JsonRows {
    pub(super) fn open(path: &Path, column: Option<&str>) -> Result<JsonRows, DataError> {
        Ok(JsonRows {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(1 << 18, open_file(path)?),
            column: column.unwrap_or(COLUMN_DEFAULT).to_owned(),
            number: 0,
            line: Vec::new(),
        })
    }

    fn bad(&self, reason: String) -> DataError {
        DataError::JsonLine {
            path: self.path.clone(),
            line: self.number,
            reason,
        }
    }
}

impl Rows for JsonRows {
    fn next(&mut self, into: &mut String) -> Result<Row, DataError> {
        loop {
            self.line.clear();
            let mut limited = (&mut self.file).take(LINE_BYTES_MAX);
            let read = limited.read_until(b'\n', &mut self.line);
            let cut = limited.limit() == 0;
            self.number += 1;
            match read {
                Ok(0) => return Ok(Row::End),
                Ok(_) if cut => {
                    return Err(self.bad(format!("it is longer than {LINE_BYTES_MAX} bytes")));
                }
                Ok(_) if self.line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(_) => break,
                Err(source) => {
                    return Err(DataError::Read {
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
        let object: Map<String, Value> = serde_json::from_slice(&self.line)
            .map_err(|error| self.bad(format!("it is no JSON object: {error}")))?;
        match object.get(&self.column) {
            Some(Value::String(text)) => {
                into.push_str(text);
                Ok(Row::Whole)
            }
            Some(_) => Err(self.bad(format!("`{}` is no text", self.column))),
            None => Err(DataError::Column {
                path: self.path.clone(),
                column: self.column.clone(),
                found: object.keys().cloned().collect(),
            }),
        }
    }
}
