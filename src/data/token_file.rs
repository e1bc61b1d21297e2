//! Blocks of tokens on disk: written once, read block by block, so that a corpus of any size takes no memory.
//!
//! ```text
//! ids, little endian, 16 or 32 bits each · a line of JSON about them · its length, u32 · "ssTOKENS"
//! ```
//! The name is the digest of all that the ids depend on; the line has the digest of the ids themselves.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::DataError;
use super::tokenise::Counts;
use crate::atomic_file::AtomicFile;

const MAGIC: &[u8; 8] = b"ssTOKENS";
const TRAILER_BYTES: u64 = 12;
const ABOUT_BYTES_MAX: u64 = 4096;
/// Ids of larger vocabularies take 32 bits.
const NARROW_VOCABULARY: usize = 1 << 16;

/// The line about the ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    key: String,
    id_bytes: usize,
    block_size: usize,
    rows: u64,
    text_bytes: u64,
    tokens: u64,
    blocks: u64,
    dropped: u64,
    forced_cuts: u64,
    digest: String,
}

/// A token file that is open for reading.
#[derive(Debug)]
pub(super) struct TokenFile {
    file: File,
    about: About,
}

impl TokenFile {
    /// Opens `path` and checks every byte of it; `Err` says in words what is wrong.
    pub(super) fn open(path: &Path, key: &str) -> Result<TokenFile, String> {
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        TokenFile::check(&mut file, key).map(|about| TokenFile { file, about })
    }

    fn check(file: &mut File, key: &str) -> Result<About, String> {
        let said = |error: std::io::Error| error.to_string();
        let size = file.metadata().map_err(said)?.len();
        let mut trailer = [0; TRAILER_BYTES as usize];
        let before = size.checked_sub(TRAILER_BYTES).ok_or("it is too short")?;
        file.read_exact_at(&mut trailer, before).map_err(said)?;
        let length = u64::from(u32::from_le_bytes([
            trailer[0], trailer[1], trailer[2], trailer[3],
        ]));
        if trailer[4..] != MAGIC[..] || length > ABOUT_BYTES_MAX || length > before {
            return Err("it does not end as a token file does".into());
        }
        let mut line = vec![0; length as usize];
        file.read_exact_at(&mut line, before - length)
            .map_err(said)?;
        let about: About = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        let bytes = (about.id_bytes as u64)
            .checked_mul(about.block_size as u64)
            .and_then(|block| block.checked_mul(about.blocks));
        if about.key != key || bytes != Some(before - length) || !matches!(about.id_bytes, 2 | 4) {
            return Err("it is not the file its name says".into());
        }
        let mut hasher = blake3::Hasher::new();
        let ids = file.take(before - length);
        hasher.update_reader(ids).map_err(said)?;
        if hasher.finalize().to_hex().as_str() != about.digest {
            return Err("its ids are not what was written".into());
        }
        Ok(about)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            rows: self.about.rows,
            text_bytes: self.about.text_bytes,
            tokens: self.about.tokens,
            blocks: self.about.blocks,
            dropped: self.about.dropped,
            forced_cuts: self.about.forced_cuts,
            has_text: true,
        }
    }

    pub(super) fn digest(&self) -> &str {
        &self.about.digest
    }

    /// Appends the ids of block `i`.
    pub(super) fn read(&self, i: u64, into: &mut Vec<i32>) -> std::io::Result<()> {
        let mut bytes = vec![0; self.about.block_size * self.about.id_bytes];
        let offset = i * bytes.len() as u64;
        self.file.read_exact_at(&mut bytes, offset)?;
        if self.about.id_bytes == 2 {
            into.extend(
                bytes
                    .chunks_exact(2)
                    .map(|id| i32::from(u16::from_le_bytes([id[0], id[1]]))),
            );
        } else {
            into.extend(
                bytes
                    .chunks_exact(4)
                    .map(|id| i32::from_le_bytes([id[0], id[1], id[2], id[3]])),
            );
        }
        Ok(())
    }
}

/// A token file that is being written.
pub(super) struct TokenFileOut {
    out: AtomicFile,
    hasher: blake3::Hasher,
    id_bytes: usize,
    bytes: Vec<u8>,
}

impl TokenFileOut {
    pub(super) fn create(path: &Path, vocab_size: usize) -> Result<TokenFileOut, DataError> {
        Ok(TokenFileOut {
            out: AtomicFile::create(path)?,
            hasher: blake3::Hasher::new(),
            id_bytes: if vocab_size <= NARROW_VOCABULARY {
                2
            } else {
                4
            },
            bytes: Vec::new(),
        })
    }

    /// Adds a block. Ids must lie within the vocabulary.
    pub(super) fn block(&mut self, ids: &[u32]) -> Result<(), DataError> {
        self.bytes.clear();
        if self.id_bytes == 2 {
            let narrow = ids.iter().flat_map(|&id| (id as u16).to_le_bytes());
            self.bytes.extend(narrow);
        } else {
            self.bytes
                .extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        }
        self.hasher.update(&self.bytes);
        let written = self.out.write_all(&self.bytes);
        written.map_err(|source| self.out.failed("writing the data", source))?;
        Ok(())
    }

    pub(super) fn finish(
        mut self,
        key: &str,
        block_size: usize,
        counts: &Counts,
    ) -> Result<(), DataError> {
        let about = About {
            key: key.to_owned(),
            id_bytes: self.id_bytes,
            block_size,
            rows: counts.rows,
            text_bytes: counts.text_bytes,
            tokens: counts.tokens,
            blocks: counts.blocks,
            dropped: counts.dropped,
            forced_cuts: counts.forced_cuts,
            digest: self.hasher.finalize().to_hex().to_string(),
        };
        let mut end = serde_json::to_vec(&about).unwrap_or_default();
        end.push(b'\n');
        let length = end.len() as u32;
        end.extend(length.to_le_bytes());
        end.extend(MAGIC);
        let written = self.out.write_all(&end);
        written.map_err(|source| self.out.failed("writing the data", source))?;
        Ok(self.out.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for vocab_size in [500, 70_000] {
            let path = folder.path().join("a.tokens");
            let mut out = TokenFileOut::create(&path, vocab_size).unwrap();
            out.block(&[1, 2, 300]).unwrap();
            out.block(&[4, 5, vocab_size as u32 - 1]).unwrap();
            let counts = Counts {
                blocks: 2,
                tokens: 7,
                dropped: 1,
                has_text: true,
                ..Counts::default()
            };
            out.finish("k", 3, &counts).unwrap();
            let file = TokenFile::open(&path, "k").unwrap();
            assert_eq!(file.counts(), counts);
            let mut ids = Vec::new();
            file.read(1, &mut ids).unwrap();
            assert_eq!(ids, [4, 5, vocab_size as i32 - 1]);
            assert!(TokenFile::open(&path, "other").is_err());
            let whole = std::fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 4;
                std::fs::write(&path, bytes).unwrap();
                // A changed count of rows is no harm, but nothing else may pass.
                if let Ok(file) = TokenFile::open(&path, "k") {
                    assert_eq!(file.counts().blocks, 2, "byte {at}");
                }
                std::fs::write(&path, &whole[..at]).unwrap();
                assert!(TokenFile::open(&path, "k").is_err(), "cut at {at}");
            }
        }
    }
}
