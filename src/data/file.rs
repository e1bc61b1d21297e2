//! Opening a data file or reading a whole one, or saying why not.

use std::path::Path;

use super::DataError;

/// The bytes of `path`. A pipe is as good as a file; a directory is refused by name.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    if path.is_dir() {
        return Err(DataError::Directory {
            path: path.to_path_buf(),
        });
    }
    std::fs::read(path).map_err(|source| DataError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// Opens `path` for reading; a directory is refused by name.
pub(super) fn open(path: &Path) -> Result<std::fs::File, DataError> {
    if path.is_dir() {
        return Err(DataError::Directory {
            path: path.to_path_buf(),
        });
    }
    std::fs::File::open(path).map_err(|source| DataError::Read {
        path: path.to_path_buf(),
        source,
    })
}
