//! Rows of a plain text: its lines, each with its line break.
//!
//! `\r\n` counts and comes out as `\n`, as where Python reads a text.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Row, Rows, open_file};
use crate::data::DataError;

/// A longer line comes in parts.
const PART_BYTES: u64 = 16 << 20;

/// The lines of a file.
pub(super) struct TextRows {
    path: PathBuf,
    file: BufReader<File>,
    /// Offset of the next byte, for messages.
    offset: usize,
    line: Vec<u8>,
    /// A space that the part before left to the next one.
    carried: bool,
    part_bytes: u64,
}

impl TextRows {
    pub(super) fn open(path: &Path) -> Result<TextRows, DataError> {
        Ok(TextRows {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(1 << 18, open_file(path)?),
            offset: 0,
            line: Vec::new(),
            carried: false,
            part_bytes: PART_BYTES,
        })
    }

    /// Reads a line, or so much of a long one that it ends in a space after something that is none.
    fn read(&mut self) -> std::io::Result<()> {
        self.line.clear();
        self.line.extend(self.carried.then_some(b' '));
        let mut limited = (&mut self.file).take(self.part_bytes);
        limited.read_until(b'\n', &mut self.line)?;
        if limited.limit() > 0 || self.line.ends_with(b"\n") {
            return Ok(());
        }
        loop {
            let Some(&byte) = self.file.fill_buf()?.first() else {
                return Ok(());
            };
            self.file.consume(1);
            let after_word = self.line.last().is_some_and(|b| !b.is_ascii_whitespace());
            self.line.push(byte);
            if byte == b'\n' || (byte == b' ' && after_word) {
                return Ok(());
            }
        }
    }
}

impl Rows for TextRows {
    fn next(&mut self, into: &mut String) -> Result<Row, DataError> {
        self.read().map_err(|source| DataError::Read {
            path: self.path.clone(),
            source,
        })?;
        let start = self.offset - usize::from(self.carried);
        self.offset = start + self.line.len();
        // The end of a file is a line without a break, too: only a cut leaves a space, and then there is more.
        let is_part = self.line.len() as u64 > self.part_bytes && self.line.ends_with(b" ");
        self.carried = is_part;
        let content = &self.line[..self.line.len() - usize::from(is_part)];
        if content.is_empty() {
            return Ok(Row::End);
        }
        let text = std::str::from_utf8(content).map_err(|error| DataError::NotUtf8 {
            path: self.path.clone(),
            offset: start + error.valid_up_to(),
        })?;
        match text.strip_suffix("\r\n") {
            Some(text) => {
                into.push_str(text);
                into.push('\n');
            }
            None => into.push_str(text),
        }
        Ok(if is_part { Row::Part } else { Row::Whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(content: &[u8], part_bytes: u64) -> Vec<(Row, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, content).unwrap();
        let mut rows = TextRows::open(&path).unwrap();
        rows.part_bytes = part_bytes;
        let mut all = Vec::new();
        loop {
            let mut text = String::new();
            match rows.next(&mut text).unwrap() {
                Row::End => return all,
                row => all.push((row, text)),
            }
        }
    }

    #[test]
    fn lines_keep_their_breaks() {
        let lines: Vec<String> = rows(b"a\n\n b\r\nc", 99).into_iter().map(|r| r.1).collect();
        assert_eq!(lines, ["a\n", "\n", " b\n", "c"]);
        assert!(rows(b"", 99).is_empty());
    }

    #[test]
    fn long_lines_come_in_parts_that_begin_with_their_space() {
        let found = rows("one two  three fö\nx y".as_bytes(), 4);
        let text: String = found.iter().map(|r| r.1.as_str()).collect();
        assert_eq!(text, "one two  three fö\nx y");
        assert_eq!(found[0], (Row::Part, "one two".to_owned()));
        assert!(found[1].1.starts_with("  three"));
        let whole = found.iter().filter(|r| r.0 == Row::Whole).count();
        assert_eq!(whole, 2);
    }

    #[test]
    fn bytes_that_are_no_text_are_told_by_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, b"fine\nno\xff").unwrap();
        let mut rows = TextRows::open(&path).unwrap();
        rows.next(&mut String::new()).unwrap();
        let error = rows.next(&mut String::new()).unwrap_err().to_string();
        assert!(error.contains("offset 7"), "{error}");
    }
}
