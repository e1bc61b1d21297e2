//! Reading small files whole, without trusting that they are small, or files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::FrontendError;

/// The bytes of the regular file `path`, refused beyond `limit` bytes.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, FrontendError> {
    let (file, bytes) = open_file(path)?;
    let too_large = |bytes| FrontendError::TooLarge {
        path: path.to_path_buf(),
        bytes,
        limit,
    };
    if bytes > limit {
        return Err(too_large(bytes));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    // The file may grow while it is read: the length above is a promise of nobody.
    file.take(limit + 1)
        .read_to_end(&mut content)
        .map_err(cannot_read(path))?;
    if content.len() as u64 > limit {
        return Err(too_large(content.len() as u64));
    }
    Ok(content)
}

/// Opens the regular file `path` and says how many bytes it has. A pipe is refused before opening it could block.
pub(super) fn open_file(path: &Path) -> Result<(File, u64), FrontendError> {
    let metadata = std::fs::metadata(path).map_err(cannot_read(path))?;
    if !metadata.is_file() {
        return Err(FrontendError::NotAFile {
            path: path.to_path_buf(),
        });
    }
    let file = File::open(path).map_err(cannot_read(path))?;
    Ok((file, metadata.len()))
}

/// Makes the operating system's error one that names the file.
pub(super) fn cannot_read(path: &Path) -> impl Fn(std::io::Error) -> FrontendError + '_ {
    move |source| FrontendError::Read {
        path: path.to_path_buf(),
        source,
    }
}
