//! The bytes of a Parquet file, for its decoder, which holds a page as a whole: a page too large for that is refused by its header.

use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// What pages may take at a time. Writers put a thousand rows into a page, however long they are, so books make large ones.
pub(super) const PAGE_BYTES_MAX: u64 = 800 << 20;
/// More than the fields of a header take that tell sizes.
const HEADER_BYTES: u64 = 16;
/// In a header: an integer of 32 bits that is the next field.
const NEXT_INTEGER: u8 = 0x15;
/// The kind of a page that holds the values which others name by number.
const DICTIONARY: u64 = 2;

/// A file whose pages are looked at before they are read.
pub(super) struct Pages {
    file: File,
    /// What the last dictionary takes, which the decoder keeps.
    dictionary_bytes: AtomicU64,
}

/// A page would take more than that.
#[derive(Debug, thiserror::Error)]
#[error("a page that takes {bytes} bytes")]
pub(super) struct PageTooLarge {
    pub(super) bytes: u64,
}

impl Pages {
    pub(super) fn of(file: File) -> Pages {
        Pages {
            file,
            dictionary_bytes: AtomicU64::new(0),
        }
    }

    /// Refuses the page whose header begins like this if it takes too much memory.
    fn check(&self, header: &[u8]) -> Result<()> {
        let Some(page) = Page::of(header) else {
            return Ok(());
        };
        let mut bytes = page.bytes_held();
        if page.kind == DICTIONARY {
            self.dictionary_bytes.store(page.bytes, Ordering::Relaxed);
        } else {
            bytes += self.dictionary_bytes.load(Ordering::Relaxed);
        }
        if bytes > PAGE_BYTES_MAX {
            return Err(ParquetError::External(Box::new(PageTooLarge { bytes })));
        }
        Ok(())
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl ChunkReader for Pages {
    type T = BufReader<File>;

    /// The decoder asks for this where a page begins (and at the end of the file).
    fn get_read(&self, start: u64) -> Result<BufReader<File>> {
        let mut header = Vec::new();
        let beginning = self.file.get_read(start)?;
        beginning.take(HEADER_BYTES).read_to_end(&mut header)?;
        self.check(&header)?;
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.file.get_bytes(start, length)
    }
}

/// What the beginning of a page's header says.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    kind: u64,
    bytes: u64,
    compressed_bytes: u64,
}

impl Page {
    /// A header is in Thrift's compact form.
    fn of(header: &[u8]) -> Option<Page> {
        let mut bytes = header.iter().copied();
        Some(Page {
            kind: next_integer(&mut bytes)?,
            bytes: next_integer(&mut bytes)?,
            compressed_bytes: next_integer(&mut bytes)?,
        })
    }

    /// The page as it is stored is in memory while it is decompressed.
    fn bytes_held(&self) -> u64 {
        match self.compressed_bytes == self.bytes {
            true => self.bytes,
            false => self.bytes + self.compressed_bytes,
        }
    }
}

fn next_integer(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    if bytes.next()? != NEXT_INTEGER {
        return None;
    }
    let (mut value, mut shift) = (0, 0);
    while shift < 35 {
        let byte = bytes.next()?;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            // A positive number is stored as twice itself.
            return Some(value >> 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_the_beginning_of_a_header() {
        let header = [
            0x15, 4, 0x15, 0x80, 0x80, 0x80, 0xac, 0x02, 0x15, 0x0a, 0x2c,
        ];
        let page = Page {
            kind: DICTIONARY,
            bytes: 300 << 20,
            compressed_bytes: 5,
        };
        assert_eq!(Page::of(&header), Some(page));
        // The end of a file, and nothing.
        assert_eq!(Page::of(b"\x15\x08\0\0PAR1"), None);
        assert_eq!(Page::of(&header[..9]), None);
        assert_eq!(Page::of(&[[0x15].as_slice(), &[255; 9]].concat()), None);
    }

    #[test]
    fn a_dictionary_counts_with_the_pages_that_use_it() {
        let pages = Pages::of(tempfile::tempfile().unwrap());
        let header = |kind: u8, megabytes: [u8; 2]| {
            let size = [0x15, 0x80, 0x80, 0x80, megabytes[0] | 0x80, megabytes[1]];
            [&[0x15, kind], size.as_slice(), &size].concat()
        };
        // 450 MiB each.
        let half = [0x42, 0x03];
        pages.check(&header(0, half)).unwrap();
        pages.check(&header(4, half)).unwrap();
        pages.check(&header(0, half)).unwrap_err();
        pages.check(&header(4, [1, 0])).unwrap();
        pages.check(&header(0, half)).unwrap();
    }
}
