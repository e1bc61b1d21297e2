//! Rows of a JSON-lines file: one field of the object on each line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{CHUNK_BYTES, Row, Rows, open_file, other_format};
use crate::data::DataError;
use field::{Field, Found};
use long_line::LongText;

mod field;
mod long_line;

/// Lines up to this are held and parsed as a whole; longer ones are read twice.
const HELD_BYTES_MAX: u64 = 8 << 20;
/// What some programs put in front of a file; readers of JSON pass over it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
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
    /// How many had the field.
    rows: usize,
    /// Where the file stands when it is at the beginning of a line.
    offset: u64,
    held_bytes_max: u64,
    line: Vec<u8>,
    /// The row that is being given, and how much of it was.
    row: String,
    given: usize,
    /// The row that is being given where it is too long for that.
    long: Option<LongText>,
}

impl JsonRows {
    pub(super) fn open(path: &Path, column: Option<&str>) -> Result<JsonRows, DataError> {
        let mut file = BufReader::with_capacity(1 << 18, open_file(path)?);
        let beginning = file.fill_buf().map_err(|source| DataError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let mark = match beginning.starts_with(BYTE_ORDER_MARK) {
            true => BYTE_ORDER_MARK.len(),
            false => 0,
        };
        file.consume(mark);
        Ok(JsonRows {
            path: path.to_path_buf(),
            file,
            column: column.unwrap_or(COLUMN_DEFAULT).to_owned(),
            number: 0,
            rows: 0,
            offset: mark as u64,
            held_bytes_max: HELD_BYTES_MAX,
            line: Vec::new(),
            row: String::new(),
            given: 0,
            long: None,
        })
    }

    fn bad(&self, reason: String) -> DataError {
        DataError::JsonLine {
            path: self.path.clone(),
            line: self.number,
            reason,
        }
    }

    fn no_object(&self, reason: impl std::fmt::Display) -> DataError {
        if let Some(format) = other_format::of(&self.path) {
            let path = self.path.clone();
            return DataError::OtherFormat { path, format };
        }
        self.bad(format!("it is no JSON object: {reason}"))
    }

    /// Goes to the next line that is not blank, and holds it or as much of it as may be held; false at the end of the file.
    fn read_line(&mut self) -> std::io::Result<bool> {
        loop {
            self.line.clear();
            let mut limited = (&mut self.file).take(self.held_bytes_max);
            let bytes = limited.read_until(b'\n', &mut self.line)?;
            let is_blank = self.line.iter().all(u8::is_ascii_whitespace);
            self.number += usize::from(!is_blank || self.line.ends_with(b"\n"));
            if bytes == 0 || !is_blank {
                return Ok(bytes > 0);
            }
            self.offset += bytes as u64;
        }
    }

    /// Whether the line goes on behind what is held of it.
    fn is_cut(&self) -> bool {
        self.line.len() as u64 == self.held_bytes_max && !self.line.ends_with(b"\n")
    }

    /// Makes the field of the line the row to give.
    fn parse(&mut self) -> Result<(), DataError> {
        self.row.clear();
        self.row.shrink_to(KEPT_BYTES);
        self.given = 0;
        let found = if self.is_cut() {
            self.line = Vec::new();
            let found = long_line::find(&mut self.file, self.offset, &self.column);
            let (found, text) = found.map_err(|reason| self.no_object(reason))?;
            self.offset = text.line_end;
            self.long = Some(text);
            found
        } else {
            let found = Field::of(&self.column, &mut self.row).read(&self.line);
            self.offset += self.line.len() as u64;
            found.map_err(|error| self.no_object(error))?
        };
        self.line.clear();
        self.line.shrink_to(KEPT_BYTES);
        match found {
            Found::Text => {
                self.rows += 1;
                Ok(())
            }
            Found::NoText => Err(self.bad(format!("`{}` is no text", self.column))),
            // Rows before had it.
            Found::Others(found) if self.rows > 0 => {
                let found = found.join(", ");
                Err(self.bad(format!("it has no `{}`, only {found}", self.column)))
            }
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
        if self.long.is_none() && self.given == self.row.len() {
            let is_there = self.read_line().map_err(|source| DataError::Read {
                path: self.path.clone(),
                source,
            })?;
            if !is_there {
                return Ok(Row::End);
            }
            self.parse()?;
        }
        let Some(text) = &self.long else {
            return Ok(give_chunk(&self.row, &mut self.given, into));
        };
        let row = text.give(&mut self.file, into);
        let row = row.map_err(|reason| self.no_object(reason))?;
        if row == Row::Whole {
            self.long = None;
        }
        Ok(row)
    }
}

/// Appends what comes next of a row that is in memory as a whole, of which `given` bytes went out before.
fn give_chunk(row: &str, given: &mut usize, into: &mut String) -> Row {
    let rest = &row[*given..];
    let mut end = rest.len().min(CHUNK_BYTES);
    while !rest.is_char_boundary(end) {
        end += 1;
    }
    into.push_str(&rest[..end]);
    *given += end;
    match end == rest.len() {
        true => Row::Whole,
        false => Row::Part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of a file whose lines are held up to so many bytes, or what is wrong with it.
    fn rows(content: &[u8], held_bytes_max: u64) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        let mut rows = JsonRows::open(&path, None).unwrap();
        rows.held_bytes_max = held_bytes_max;
        let (mut all, mut text) = (Vec::new(), String::new());
        loop {
            match rows.next(&mut text).map_err(|error| error.to_string())? {
                Row::End => return Ok(all),
                Row::Part => {}
                Row::Whole => all.push(std::mem::take(&mut text)),
            }
        }
    }

    #[test]
    fn long_lines_are_the_same_as_held_ones() {
        let long = "é語🎈\"\\/\u{8}\u{c}\n\r\t\u{1}\u{2028} words".repeat(9000);
        let escaped = r#""\u00e9\ud83c\udf88\b\f\n\r\t\/\"\\""#;
        let content = [
            serde_json::json!({ "text": &long }).to_string(),
            format!(r#" {{"a": [1, {{"text": 2}}], "text" : {escaped}, "c": null}} "#),
            r#"{"text": "first", "text": ""}"#.into(),
            String::new(),
            "   ".into(),
            r#"{"text":"the last, without a line break"}"#.into(),
        ]
        .join("\n");
        let held = rows(content.as_bytes(), HELD_BYTES_MAX).unwrap();
        assert_eq!(held[0], long);
        assert_eq!(
            held[1..],
            [
                "é🎈\u{8}\u{c}\n\r\t/\"\\",
                "",
                "the last, without a line break"
            ]
        );
        for held_bytes_max in [1, 2, 3, 20, 41, 42, 43] {
            assert_eq!(rows(content.as_bytes(), held_bytes_max).unwrap(), held);
        }
        let marked = [BYTE_ORDER_MARK, content.as_bytes()].concat();
        for held_bytes_max in [2, HELD_BYTES_MAX] {
            assert_eq!(rows(&marked, held_bytes_max).unwrap(), held);
        }
        let breaks = content.replace('\n', "\r\n") + "\r\n";
        assert_eq!(rows(breaks.as_bytes(), 3).unwrap(), held);
    }

    #[test]
    fn what_is_wrong_with_a_long_line_is_told_as_with_a_held_one() {
        for (line, what) in [
            ("[1]", "line 2: it is no JSON object"),
            (r#"{"text": "a""#, "line 2: it is no JSON object"),
            (r#"{"text": "a"} x"#, "line 2: it is no JSON object"),
            (r#"{"text": "\ud800"}"#, "line 2: it is no JSON object"),
            (
                r#"{"text": "\ud800\u0041"}"#,
                "line 2: it is no JSON object",
            ),
            (r#"{"text": "\udc00"}"#, "line 2: it is no JSON object"),
            (r#"{"text": 7}"#, "line 2: `text` is no text"),
            (r#"{"text": {"text": ""}}"#, "line 2: `text` is no text"),
            (
                r#"{"x": 1, "y": ""}"#,
                "line 2: it has no `text`, only x, y",
            ),
        ] {
            for held_bytes_max in [HELD_BYTES_MAX, 2] {
                let content = format!("{{\"text\": \"a\"}}\n{line}\n");
                let error = rows(content.as_bytes(), held_bytes_max).unwrap_err();
                assert!(error.contains(what), "{line}: {error}");
            }
        }
        let error = rows(b"{\"x\": 1}\n", 2).unwrap_err();
        assert!(error.contains("no column `text`; it has x"), "{error}");
        let bad = b"{\"text\": \"\xff\"}\n";
        assert!(rows(bad, HELD_BYTES_MAX).is_err() && rows(bad, 2).is_err());
        let name = format!("{{\"{}\": 1}}", "n".repeat(2 << 20));
        let error = rows(name.as_bytes(), 2).unwrap_err();
        assert!(error.contains("longer than 1 MiB"), "{error}");
    }
}
