//! Where a user's cached files are, unless told otherwise.

use std::path::PathBuf;

/// `$SUPERSTEP_CACHE_DIR`, or `superstep` in the user's cache, or in the system's folder for temporary files.
pub fn directory() -> PathBuf {
    let folder = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    folder("SUPERSTEP_CACHE_DIR")
        .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("superstep")))
        .or_else(|| folder("HOME").map(|dir| dir.join(".cache/superstep")))
        .unwrap_or_else(|| std::env::temp_dir().join("superstep"))
}
