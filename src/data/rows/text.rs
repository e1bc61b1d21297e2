//! Rows of a plain text: its lines, each with its line break.
//!
//! `\r\n` counts and comes out as `\n`, as where Python reads a text.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{CHUNK_BYTES, Row, Rows, open_file};
use crate::data::DataError;

/// The lines of a file.
pub(super) struct TextRows {
    path: PathBuf,
    file: BufReader<File>,
    /// Offset of the next byte, for messages.
    offset: usize,
    line: Vec<u8>,
    chunk_bytes: usize,
}

impl TextRows {
    pub(super) fn open(path: &Path) -> Result<TextRows, DataError> {
        Ok(TextRows {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(1 << 18, open_file(path)?),
            offset: 0,
            line: Vec::new(),
            chunk_bytes: CHUNK_BYTES,
        })
    }

    /// Reads to the end of the line, or a chunk of a long one that does not end within a character or a line break.
    fn read(&mut self) -> std::io::Result<Row> {
        self.line.clear();
        let mut limited = (&mut self.file).take(self.chunk_bytes as u64);
        limited.read_until(b'\n', &mut self.line)?;
        while !self.line.ends_with(b"\n") {
            let Some(&next) = self.file.fill_buf()?.first() else {
                break;
            };
            let continues_character = next & 0xc0 == 0x80;
            if !continues_character && !self.line.ends_with(b"\r") {
                return Ok(Row::Part);
            }
            self.file.consume(1);
            self.line.push(next);
            // No character is that long: this is no text, which is told below.
            if self.line.len() > self.chunk_bytes + 8 {
                return Ok(Row::Part);
            }
        }
        Ok(match self.line.is_empty() {
            true => Row::End,
            false => Row::Whole,
        })
    }
}

impl Rows for TextRows {
    fn next(&mut self, into: &mut String) -> Result<Row, DataError> {
        let row = self.read().map_err(|source| DataError::Read {
            path: self.path.clone(),
            source,
        })?;
        let start = self.offset;
        self.offset += self.line.len();
        let text = std::str::from_utf8(&self.line).map_err(|error| DataError::NotUtf8 {
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
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(content: &[u8], chunk_bytes: usize) -> Vec<(Row, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, content).unwrap();
        let mut rows = TextRows::open(&path).unwrap();
        rows.chunk_bytes = chunk_bytes;
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
    fn long_lines_come_in_chunks_of_whole_characters() {
        let text = "one two  three fö語\nx y\r\nends";
        for chunk_bytes in 1..30 {
            let found = rows(text.as_bytes(), chunk_bytes);
            let all: String = found.iter().map(|r| r.1.as_str()).collect();
            assert_eq!(all, text.replace('\r', ""), "{chunk_bytes}");
            assert!(found.iter().all(|r| r.1.len() <= chunk_bytes + 2));
            let whole = found.iter().filter(|r| r.0 == Row::Whole).count();
            assert_eq!(whole, 3, "{chunk_bytes}: {found:?}");
        }
        // A carriage return by itself is a character like any other.
        let texts: Vec<String> = rows(b"a\rb", 2).into_iter().map(|r| r.1).collect();
        assert_eq!(texts.concat(), "a\rb");
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
