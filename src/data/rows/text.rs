//! Rows of a plain text: its lines, each with its line break.
//!
//! `\r\n` and `\r` are line breaks too and come out as `\n`, as where Python reads a text.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::{CHUNK_BYTES, Row, Rows, open_file, other_format};
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

    /// Reads to the end of the line, or a chunk of a long one that does not end within a character; and how many bytes of the file that took.
    fn read(&mut self) -> std::io::Result<(Row, usize)> {
        self.line.clear();
        loop {
            let bytes = self.file.fill_buf()?;
            let Some(&next) = bytes.first() else {
                let row = match self.line.is_empty() {
                    true => Row::End,
                    false => Row::Whole,
                };
                return Ok((row, self.line.len()));
            };
            let room = self.chunk_bytes.saturating_sub(self.line.len());
            let continues_character = next & 0xc0 == 0x80;
            // No character is that long: then this is no text, which is told below.
            let is_too_long = self.line.len() > self.chunk_bytes + 8;
            if room == 0 && !is_break(next) && (!continues_character || is_too_long) {
                return Ok((Row::Part, self.line.len()));
            }
            let bytes = &bytes[..bytes.len().min(room.max(1))];
            if let Some(end) = bytes.iter().position(|&byte| is_break(byte)) {
                let is_return = bytes[end] == b'\r';
                self.line.extend(&bytes[..end]);
                self.line.push(b'\n');
                self.file.consume(end + 1);
                let is_pair = is_return && self.file.fill_buf()?.first() == Some(&b'\n');
                self.file.consume(usize::from(is_pair));
                return Ok((Row::Whole, self.line.len() + usize::from(is_pair)));
            }
            self.line.extend(bytes);
            let taken = bytes.len();
            self.file.consume(taken);
        }
    }
}

fn no_text(path: &Path, offset: usize) -> DataError {
    let path = path.to_path_buf();
    match other_format::of(&path) {
        Some(format) => DataError::OtherFormat { path, format },
        None => DataError::NotUtf8 { path, offset },
    }
}

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

impl Rows for TextRows {
    fn next(&mut self, into: &mut String) -> Result<Row, DataError> {
        let (row, bytes) = self.read().map_err(|source| DataError::Read {
            path: self.path.clone(),
            source,
        })?;
        let start = self.offset;
        self.offset += bytes;
        let text = std::str::from_utf8(&self.line)
            .map_err(|error| no_text(&self.path, start + error.valid_up_to()))?;
        into.push_str(text);
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
        let lines =
            |content| -> Vec<String> { rows(content, 99).into_iter().map(|r| r.1).collect() };
        assert_eq!(lines(b"a\n\n b\r\nc"), ["a\n", "\n", " b\n", "c"]);
        assert_eq!(lines(b"a\rb\r\r\n"), ["a\n", "b\n", "\n"]);
        // What Python's str.splitlines would cut at, but a file is not cut at.
        assert_eq!(lines("a\0\x0b\x0c\u{85}\u{2028}b\n".as_bytes()).len(), 1);
        assert!(rows(b"", 99).is_empty());
    }

    #[test]
    fn long_lines_come_in_chunks_of_whole_characters() {
        let text = "one two  three fö語\nx y\r\nends\r\r\n";
        let wanted = text.replace("\r\n", "\n").replace('\r', "\n");
        for chunk_bytes in 1..30 {
            let found = rows(text.as_bytes(), chunk_bytes);
            let all: String = found.iter().map(|r| r.1.as_str()).collect();
            assert_eq!(all, wanted, "{chunk_bytes}");
            assert!(found.iter().all(|r| r.1.len() <= chunk_bytes + 3));
            let whole = found.iter().filter(|r| r.0 == Row::Whole).count();
            assert_eq!(whole, 4, "{chunk_bytes}: {found:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_told_by_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, b"fin\r\nno\xff").unwrap();
        let mut rows = TextRows::open(&path).unwrap();
        rows.next(&mut String::new()).unwrap();
        let error = rows.next(&mut String::new()).unwrap_err().to_string();
        assert!(error.contains("offset 7"), "{error}");
    }
}
