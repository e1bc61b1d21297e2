//! Files that are named like text but are something else, known by how they begin.

use std::io::Read;
use std::path::Path;

use super::open_file;

/// Beginnings, and what they are the beginning of.
const KNOWN: [(&[u8], &str); 9] = [
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"\xfd7zXZ\0", "compressed by xz"),
    (b"BZh", "compressed by bzip2"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PAR1", "a Parquet file"),
    (b"%PDF", "a PDF document"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
];

/// What the file at `path` is, if it is one of those.
pub(super) fn of(path: &Path) -> Option<&'static str> {
    let mut beginning = Vec::new();
    open_file(path)
        .ok()?
        .take(8)
        .read_to_end(&mut beginning)
        .ok()?;
    let known = KNOWN.iter().find(|known| beginning.starts_with(known.0));
    known.map(|known| known.1)
}
