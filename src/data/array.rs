//! Token ids with a shape, and the samples of one length that they give.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::corpus;
use super::npy::file::NpyFile;
use super::token_file::TokenFile;
use super::{DataError, file, json, npy};

/// Token ids as a file holds them: row-major, the last axis is the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenArray {
    /// Where they came from, for messages.
    pub path: PathBuf,
    pub shape: Vec<usize>,
    pub ids: Vec<u32>,
}

/// Samples of `block_size` tokens each, every id checked against a vocabulary. Clones share the ids.
#[derive(Clone, Debug)]
pub struct TokenBlocks {
    path: PathBuf,
    block_size: usize,
    /// Which samples of the store count.
    samples: Range<usize>,
    store: Arc<Store>,
}

/// Where the ids are.
#[derive(Debug)]
enum Store {
    Memory(Vec<i32>),
    File(TokenFile),
    Npy(NpyFile),
}

/// Reads `.npy` or `.json` by the ending of the name.
fn read_tokens(path: &Path) -> Result<TokenArray, DataError> {
    let extension = path
        .extension()
        .and_then(OsStr::to_str)
        .map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("npy") => npy::parse(&file::read(path)?, path),
        Some("json") => json::parse(&file::read(path)?, path),
        _ => Err(DataError::Extension {
            path: path.to_path_buf(),
        }),
    }
}

/// The samples of a file of ids, as [`TokenArray::into_blocks`] makes them. Those of a `.npy` stay in the file.
pub fn read_blocks(
    path: &Path,
    asked: Option<usize>,
    default: usize,
    vocab_size: usize,
) -> Result<TokenBlocks, DataError> {
    // A pipe can be read only once.
    if corpus::extension(path) != "npy" || !path.is_file() {
        return read_tokens(path)?.into_blocks(asked, default, vocab_size);
    }
    let (file, cut) = NpyFile::open(path, asked, default, vocab_size)?;
    Ok(TokenBlocks {
        path: path.to_path_buf(),
        block_size: cut.block_size,
        samples: 0..cut.samples,
        store: Arc::new(Store::Npy(file)),
    })
}

impl TokenArray {
    /// Samples of `asked` tokens, or of the natural length with `default` as the most for a stream.
    ///
    /// Leading axes are flattened in order. A flat list is one stream: it is cut into blocks, and what is left at the end is dropped.
    pub fn into_blocks(
        self,
        asked: Option<usize>,
        default: usize,
        vocab_size: usize,
    ) -> Result<TokenBlocks, DataError> {
        let TokenArray { path, shape, ids } = self;
        let cut = Cut::of(&shape, ids.len(), asked, default, &path)?;
        let kept = cut.kept();
        let limit = u32::try_from(vocab_size.min(i32::MAX as usize)).unwrap_or(u32::MAX);
        if let Some(index) = ids[..kept].iter().position(|&id| id >= limit) {
            return Err(DataError::OutOfVocabulary {
                path,
                index,
                id: ids[index],
                vocab_size,
            });
        }
        let ids = ids[..kept].iter().map(|&id| id as i32).collect();
        Ok(TokenBlocks {
            path,
            block_size: cut.block_size,
            samples: 0..cut.samples,
            store: Arc::new(Store::Memory(ids)),
        })
    }
}

/// How an array is cut into samples.
pub(super) struct Cut {
    block_size: usize,
    samples: usize,
}

impl Cut {
    /// Of an array with this shape and so many tokens; `path` is named in errors.
    pub(super) fn of(
        shape: &[usize],
        tokens: usize,
        asked: Option<usize>,
        default: usize,
        path: &Path,
    ) -> Result<Cut, DataError> {
        let length = shape.last().copied().unwrap_or(0);
        let block_size = asked.unwrap_or(natural_block_size(shape, default));
        let path = path.to_path_buf();
        if shape.len() > 1 && length != block_size {
            return Err(DataError::BlockSize {
                path,
                found: length,
                block_size,
            });
        }
        if block_size == 0 || tokens < block_size {
            return Err(DataError::TooShort {
                path,
                tokens,
                block_size,
            });
        }
        Ok(Cut {
            block_size,
            samples: tokens / block_size,
        })
    }

    /// Tokens of all samples.
    pub(super) fn kept(&self) -> usize {
        self.samples * self.block_size
    }
}

/// The length of samples when none is asked for: the last axis; a flat list is a stream, cut into `default` at most.
fn natural_block_size(shape: &[usize], default: usize) -> usize {
    match shape {
        [] => 1,
        [length] => default.min(*length).max(1),
        [.., length] => *length,
    }
}

impl TokenBlocks {
    /// The blocks of a token file.
    pub(super) fn in_file(path: PathBuf, block_size: usize, file: TokenFile) -> TokenBlocks {
        TokenBlocks {
            path,
            block_size,
            samples: 0..file.counts().blocks as usize,
            store: Arc::new(Store::File(file)),
        }
    }

    /// The first samples only, at most `limit`.
    pub fn at_most(mut self, limit: usize) -> TokenBlocks {
        self.samples.end = self.samples.end.min(self.samples.start + limit);
        self
    }

    /// The first samples, `percent` of them, and the others; `None` when one side would be empty.
    pub fn split(self, percent: f64) -> Option<(TokenBlocks, TokenBlocks)> {
        let Range { start, end } = self.samples;
        let middle = start + (self.len() as f64 * percent / 100.0).round() as usize;
        if middle == start || middle >= end {
            return None;
        }
        let part = |samples| TokenBlocks {
            path: self.path.clone(),
            block_size: self.block_size,
            samples,
            store: Arc::clone(&self.store),
        };
        Some((part(start..middle), part(middle..end)))
    }

    /// Number of samples, at least one.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Never: blocks without a sample are refused when they are made.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Tokens of a sample.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The file, as the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of several samples, one after the other.
    pub fn gather(&self, samples: &[u32]) -> Result<Vec<i32>, DataError> {
        let mut ids = Vec::with_capacity(samples.len() * self.block_size);
        for &sample in samples {
            let i = self.samples.start + sample as usize;
            match self.store.as_ref() {
                Store::Memory(all) => {
                    ids.extend(&all[i * self.block_size..(i + 1) * self.block_size]);
                }
                Store::File(file) => {
                    file.read(i as u64, &mut ids)
                        .map_err(|source| DataError::Cache {
                            path: self.path.clone(),
                            reason: source.to_string(),
                        })?;
                }
                Store::Npy(file) => file
                    .read(i * self.block_size, self.block_size, &mut ids)
                    .map_err(|source| DataError::Read {
                        path: self.path.clone(),
                        source,
                    })?,
            }
        }
        Ok(ids)
    }

    /// A digest of all samples and their length.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for number in [self.block_size, self.samples.start, self.samples.end] {
            hasher.update(&(number as u64).to_le_bytes());
        }
        match self.store.as_ref() {
            Store::Memory(ids) => hasher.update(bytemuck::cast_slice(ids)),
            Store::File(file) => hasher.update(file.digest().as_bytes()),
            Store::Npy(file) => hasher.update(file.digest().as_bytes()),
        };
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize]) -> TokenArray {
        let count = shape.iter().product::<usize>() as u32;
        TokenArray {
            path: "t.npy".into(),
            shape: shape.to_vec(),
            ids: (0..count).collect(),
        }
    }

    #[test]
    fn leading_axes_are_flattened_in_order() {
        let blocks = array(&[2, 3, 4]).into_blocks(None, 1024, 24).unwrap();
        assert_eq!((blocks.len(), blocks.block_size()), (6, 4));
        assert_eq!(blocks.gather(&[5]).unwrap(), [20, 21, 22, 23]);
    }

    /// What `numpy.save` makes of 32-bit integers.
    fn npy(shape: &str, ids: &[i32]) -> Vec<u8> {
        let dict = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}");
        let mut bytes = b"\x93NUMPY\x01\0".to_vec();
        bytes.extend((dict.len() as u16).to_le_bytes());
        bytes.extend(dict.as_bytes());
        bytes.extend(bytemuck::cast_slice(ids));
        bytes
    }

    #[test]
    fn samples_of_a_file_are_those_of_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let ids: Vec<i32> = (0..600_000).map(|i| i % 499).collect();
        for (shape, asked) in [("(600000,)", Some(7)), ("(2, 3000, 100)", None)] {
            let bytes = npy(shape, &ids);
            std::fs::write(&path, &bytes).unwrap();
            let file = read_blocks(&path, asked, 1024, 499).unwrap();
            let memory = npy::parse(&bytes, &path).unwrap();
            let memory = memory.into_blocks(asked, 1024, 499).unwrap();
            assert_eq!(
                (file.len(), file.block_size()),
                (memory.len(), memory.block_size())
            );
            let some = [0, 1, file.len() as u32 - 1, 17];
            assert_eq!(file.gather(&some).unwrap(), memory.gather(&some).unwrap());
            assert_eq!(
                file.digest(),
                read_blocks(&path, asked, 1024, 499).unwrap().digest()
            );
        }
        let error = |ids: &[i32], asked| {
            let shape = format!("({},)", ids.len());
            std::fs::write(&path, npy(&shape, ids)).unwrap();
            read_blocks(&path, asked, 1024, 10)
                .map(|blocks| blocks.len())
                .map_err(|e| e.to_string())
        };
        assert!(
            error(&[1, 2, 10, 3], Some(2))
                .unwrap_err()
                .contains("id 10 at position 2")
        );
        assert!(
            error(&[1, 2, -3], Some(2))
                .unwrap_err()
                .contains("-3 at position 2")
        );
        assert!(error(&[1, 2], Some(3)).unwrap_err().contains("not enough"));
        // What fills no sample may be anything that is an id.
        assert_eq!(error(&[1, 2, 10], Some(2)), Ok(1));
    }

    #[test]
    fn a_flat_list_is_a_stream() {
        let blocks = array(&[23]).into_blocks(Some(5), 1024, 24).unwrap();
        assert_eq!(
            (blocks.len(), blocks.gather(&[3]).unwrap()),
            (4, vec![15, 16, 17, 18, 19])
        );
        assert_eq!(array(&[23]).into_blocks(None, 7, 24).unwrap().len(), 3);
        assert_eq!(
            array(&[23])
                .into_blocks(None, 1024, 24)
                .unwrap()
                .block_size(),
            23
        );
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let error = |a: TokenArray, asked, vocab| a.into_blocks(asked, 1024, vocab).unwrap_err();
        assert!(matches!(
            error(array(&[2, 4]), Some(3), 99),
            DataError::BlockSize {
                found: 4,
                block_size: 3,
                ..
            }
        ));
        assert!(matches!(
            error(array(&[3]), Some(4), 99),
            DataError::TooShort { tokens: 3, .. }
        ));
        assert!(matches!(
            error(array(&[2, 0]), None, 99),
            DataError::TooShort { tokens: 0, .. }
        ));
        assert!(matches!(
            error(array(&[2, 4]), None, 7),
            DataError::OutOfVocabulary {
                index: 7,
                id: 7,
                ..
            }
        ));
    }
}
