//! The bytes of a Parquet file, for its decoder, which holds a page as a whole: a page too large for that is refused by its header.

use std::fs::File;
use std::io::{BufReader, Read};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// Larger pages are refused; the decoder holds one compressed, one decompressed and one of a dictionary.
pub(super) const PAGE_BYTES_MAX: u64 = 256 << 20;
/// More than the fields of a header take that tell sizes.
const HEADER_BYTES: u64 = 16;
/// In a header: an integer of 32 bits that is the next field.
const NEXT_INTEGER: u8 = 0x15;

/// A file whose pages are looked at before they are read.
pub(super) struct Pages(pub(super) File);

/// A page is larger than is read.
#[derive(Debug, thiserror::Error)]
#[error("a page of {bytes} bytes")]
pub(super) struct PageTooLarge {
    pub(super) bytes: u64,
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Pages {
    type T = BufReader<File>;

    /// The decoder asks for this where a page begins (and at the end of the file).
    fn get_read(&self, start: u64) -> Result<BufReader<File>> {
        let mut header = Vec::new();
        let beginning = self.0.get_read(start)?;
        beginning.take(HEADER_BYTES).read_to_end(&mut header)?;
        match page_bytes(&header) {
            Some(bytes) if bytes > PAGE_BYTES_MAX => {
                Err(ParquetError::External(Box::new(PageTooLarge { bytes })))
            }
            _ => self.0.get_read(start),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// The size of the page whose header begins like this, compressed or not, whichever is more. The header is in Thrift's compact form, and
/// its first fields are the kind of page, its size and its compressed size.
fn page_bytes(header: &[u8]) -> Option<u64> {
    let mut bytes = header.iter().copied();
    let mut integer = || {
        let is_next = bytes.next()? == NEXT_INTEGER;
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = bytes.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
        // A positive number is stored as twice itself.
        is_next.then_some(value >> 1)
    };
    integer()?;
    Some(integer()?.max(integer()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_the_beginning_of_a_header() {
        // A data page of 300 MiB, 5 bytes compressed.
        let header = [
            0x15, 0, 0x15, 0x80, 0x80, 0x80, 0xac, 0x02, 0x15, 0x0a, 0x2c,
        ];
        assert_eq!(page_bytes(&header), Some(300 << 20));
        // The end of a file, and nothing.
        assert_eq!(page_bytes(b"\x15\x08\0\0PAR1"), None);
        assert_eq!(page_bytes(&header[..9]), None);
        assert_eq!(
            page_bytes(&[0x15, 0, 0x15, 255, 255, 255, 255, 255, 255]),
            None
        );
    }
}
