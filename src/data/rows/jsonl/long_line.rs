//! A line of JSON that is too long to be held: it is read twice, first to check it and to find the field, then to give the field's text
//! chunk by chunk. Only a chunk of it is in memory.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::super::{CHUNK_BYTES, Row};
use super::field::{Found, NAMES_SHOWN};

/// A longer name is none of a field.
const NAME_BYTES_MAX: u64 = 1 << 20;

/// A text that is being given: the file stands within it.
pub(super) struct LongText {
    /// Where its line ends, with its break.
    pub(super) line_end: u64,
}

/// Looks through the line that begins at `start`, and leaves the file at the text of the field `column`, if it has one.
///
/// # Errors
/// What is wrong with the line, in words.
pub(super) fn find(
    file: &mut BufReader<File>,
    start: u64,
    column: &str,
) -> Result<(Found, LongText), String> {
    file.seek(SeekFrom::Start(start)).map_err(said)?;
    let place = Place::default();
    let line = Line {
        file,
        place: &place,
    };
    let mut json = serde_json::Deserializer::from_reader(line);
    let names = json
        .deserialize_map(Names {
            column,
            place: &place,
        })
        .map_err(said)?;
    json.end().map_err(said)?;
    drop(json);
    let is_broken = !file.fill_buf().map_err(said)?.is_empty();
    let text = LongText {
        line_end: start + place.read.get() + u64::from(is_broken),
    };
    let Some(value) = place.value.get() else {
        return Ok((Found::Others(names), text));
    };
    file.seek(SeekFrom::Start(start + value)).map_err(said)?;
    loop {
        match next_byte(file)? {
            byte if byte.is_ascii_whitespace() => {}
            b'"' => return Ok((Found::Text, text)),
            _ => return Ok((Found::NoText, text)),
        }
    }
}

fn said(error: impl fmt::Display) -> String {
    error.to_string()
}

/// How far the first reading is, in bytes from the beginning of the line.
#[derive(Default)]
struct Place {
    read: Cell<u64>,
    /// No reading beyond this.
    limit: Cell<Option<u64>>,
    /// Where the value of the field begins, behind the colon.
    value: Cell<Option<u64>>,
}

/// The bytes of a line, without its break. The parser takes one at a time, and none before it needs it.
struct Line<'a> {
    file: &'a mut BufReader<File>,
    place: &'a Place,
}

impl Read for Line<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.place.read.get();
        if self.place.limit.get().is_some_and(|limit| read >= limit) {
            let mib = NAME_BYTES_MAX >> 20;
            return Err(io::Error::other(format!("a name is longer than {mib} MiB")));
        }
        let (Some(slot), Some(&byte)) = (into.first_mut(), self.file.fill_buf()?.first()) else {
            return Ok(0);
        };
        if byte == b'\n' {
            return Ok(0);
        }
        *slot = byte;
        self.file.consume(1);
        self.place.read.set(read + 1);
        Ok(1)
    }
}

/// Notes where the value of the field `column` begins; gives the names of other fields, the first of them.
struct Names<'a> {
    column: &'a str,
    place: &'a Place,
}

impl<'de> Visitor<'de> for Names<'_> {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Vec<String>, A::Error> {
        let (mut names, place) = (Vec::new(), self.place);
        loop {
            place.limit.set(Some(place.read.get() + NAME_BYTES_MAX));
            let name = object.next_key::<String>()?;
            place.limit.set(None);
            let Some(name) = name else {
                return Ok(names);
            };
            if name == self.column {
                object.next_value_seed(Noted(place))?;
            } else {
                object.next_value::<IgnoredAny>()?;
                names.extend((names.len() < NAMES_SHOWN).then_some(name));
            }
        }
    }
}

/// A value of which only the place is wanted.
struct Noted<'a>(&'a Place);

impl<'de> serde::de::DeserializeSeed<'de> for Noted<'_> {
    type Value = IgnoredAny;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<IgnoredAny, D::Error> {
        self.0.value.set(Some(self.0.read.get()));
        from.deserialize_ignored_any(IgnoredAny)
    }
}

impl LongText {
    /// Appends the next chunk of the text; after the last the file stands at the end of the line.
    pub(super) fn give(
        &self,
        file: &mut BufReader<File>,
        into: &mut String,
    ) -> Result<Row, String> {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES + 8);
        let row = loop {
            let continues_character = peek_byte(file)? & 0xc0 == 0x80;
            // A chunk ends with a character, and no character is that long.
            let most = CHUNK_BYTES + if continues_character { 4 } else { 0 };
            if bytes.len() >= most {
                break Row::Part;
            }
            match next_byte(file)? {
                b'"' => break Row::Whole,
                b'\\' => {
                    let character = unescaped(file)?;
                    bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
                }
                byte => bytes.push(byte),
            }
        };
        into.push_str(std::str::from_utf8(&bytes).map_err(said)?);
        if row == Row::Whole {
            file.seek(SeekFrom::Start(self.line_end)).map_err(said)?;
        }
        Ok(row)
    }
}

fn peek_byte(file: &mut BufReader<File>) -> Result<u8, String> {
    let bytes = file.fill_buf().map_err(said)?;
    let first = bytes.first().copied();
    first.ok_or_else(|| "the file has become shorter".into())
}

fn next_byte(file: &mut BufReader<File>) -> Result<u8, String> {
    let byte = peek_byte(file)?;
    file.consume(1);
    Ok(byte)
}

/// The character that stands behind a backslash.
fn unescaped(file: &mut BufReader<File>) -> Result<char, String> {
    Ok(match next_byte(file)? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let mut units = vec![hex_unit(file)?];
            if (0xd800..0xdc00).contains(&units[0])
                && (next_byte(file)?, next_byte(file)?) == (b'\\', b'u')
            {
                units.push(hex_unit(file)?);
            }
            let mut characters = char::decode_utf16(units);
            match (characters.next(), characters.next()) {
                (Some(Ok(character)), None) => character,
                _ => return Err("half of a surrogate pair in its text".into()),
            }
        }
        byte => char::from(byte),
    })
}

/// Four hexadecimal digits.
fn hex_unit(file: &mut BufReader<File>) -> Result<u16, String> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = char::from(next_byte(file)?).to_digit(16);
        unit = unit << 4 | digit.ok_or("an escape is not hexadecimal")? as u16;
    }
    Ok(unit)
}
