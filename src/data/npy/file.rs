//! A `.npy` file whose ids stay where they are: read once to be checked, and then sample by sample.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{expected_bytes, integer, parse_header, split};
use crate::data::DataError;
use crate::data::array::Cut;
use crate::data::file;

/// A longer header is none.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Elements that are checked at a time.
const CHECKED: usize = 1 << 18;

/// Ids in a file, all of them checked.
#[derive(Debug)]
pub(crate) struct NpyFile {
    file: File,
    /// Where the elements begin.
    start: u64,
    signed: bool,
    element_bytes: usize,
    digest: String,
}

impl NpyFile {
    /// Opens `path`, and says how it is cut into samples of `asked` tokens, or of the natural length with `default` as the most for a
    /// stream. Ids beyond the last sample need not be in the vocabulary.
    pub(crate) fn open(
        path: &Path,
        asked: Option<usize>,
        default: usize,
        vocab_size: usize,
    ) -> Result<(NpyFile, Cut), DataError> {
        let read = |source| DataError::Read {
            path: path.to_path_buf(),
            source,
        };
        let bad = |reason: String| DataError::Npy {
            path: path.to_path_buf(),
            reason,
        };
        let file = file::open(path)?;
        let bytes = file.metadata().map_err(read)?.len();
        let mut beginning = vec![0; bytes.min(HEADER_BYTES_MAX) as usize];
        file.read_exact_at(&mut beginning, 0).map_err(read)?;
        let (header, data) = split(&beginning).map_err(bad)?;
        let start = (beginning.len() - data.len()) as u64;
        let header = parse_header(header).map_err(bad)?;
        let tokens = expected_bytes(&header, bytes - start, path)? / header.element_bytes;
        let cut = Cut::of(&header.shape, tokens, asked, default, path)?;
        let mut npy = NpyFile {
            file,
            start,
            signed: header.signed,
            element_bytes: header.element_bytes,
            digest: String::new(),
        };
        npy.digest = npy.check(path, tokens, cut.kept(), vocab_size)?;
        Ok((npy, cut))
    }

    /// Looks at all ids; the digest of the first `kept`.
    fn check(
        &self,
        path: &Path,
        tokens: usize,
        kept: usize,
        vocab_size: usize,
    ) -> Result<String, DataError> {
        let limit = vocab_size.min(i32::MAX as usize);
        let path = || path.to_path_buf();
        let mut hasher = blake3::Hasher::new();
        let mut ids = Vec::with_capacity(CHECKED);
        for first in (0..tokens).step_by(CHECKED) {
            ids.clear();
            let elements = self.elements(first, CHECKED.min(tokens - first));
            let elements = elements.map_err(|source| DataError::Read {
                path: path(),
                source,
            })?;
            for (index, element) in (first..).zip(elements.chunks_exact(self.element_bytes)) {
                let value = integer(element, self.signed);
                let id = u32::try_from(value).map_err(|_| DataError::NotAnId {
                    path: path(),
                    index,
                    value: value.to_string(),
                })?;
                if index < kept && id as usize >= limit {
                    return Err(DataError::OutOfVocabulary {
                        path: path(),
                        index,
                        id,
                        vocab_size,
                    });
                }
                ids.extend((index < kept).then_some(id));
            }
            hasher.update(bytemuck::cast_slice(&ids));
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The bytes of so many elements.
    fn elements(&self, first: usize, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count * self.element_bytes];
        let offset = self.start + first as u64 * self.element_bytes as u64;
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// A digest of the ids of all samples.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Appends so many ids.
    pub(crate) fn read(
        &self,
        first: usize,
        count: usize,
        into: &mut Vec<i32>,
    ) -> std::io::Result<()> {
        let elements = self.elements(first, count)?;
        let elements = elements.chunks_exact(self.element_bytes);
        into.extend(elements.map(|element| integer(element, self.signed) as i32));
        Ok(())
    }
}
