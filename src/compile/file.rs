//! Executables on disk.

use std::path::Path;

use superstep_ir::executable::Executable;

use super::Compiled;
use crate::atomic_file;
use crate::error::Error;
use crate::manifest::Manifest;

/// Writes an executable; returns its size in bytes.
pub fn save(compiled: &Compiled, path: &Path) -> Result<usize, Error> {
    let manifest = serde_json::to_string(&compiled.manifest)
        .map_err(|error| Error::failed(error.to_string()))?;
    let bytes = Executable {
        manifest,
        program: compiled.program.clone(),
    }
    .to_bytes();
    atomic_file::write(path, &bytes)?;
    Ok(bytes.len())
}

/// Reads an executable and checks it.
pub fn open(path: &Path) -> Result<Compiled, Error> {
    let cannot = |what: String| Error::failed(format!("cannot read {}: {what}", path.display()));
    if path.is_dir() {
        return Err(cannot("it is a directory".into()));
    }
    let bytes = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
    let executable = Executable::from_bytes(&bytes).map_err(|source| Error::Executable {
        path: path.to_path_buf(),
        source,
    })?;
    let manifest: Manifest = serde_json::from_str(&executable.manifest).map_err(|error| {
        Error::failed(format!(
            "{}: its manifest is not one of this version: {error}",
            path.display()
        ))
    })?;
    if manifest.kind != Manifest::TRAINING {
        return Err(Error::failed(format!(
            "{} holds a {} program, not a training program",
            path.display(),
            manifest.kind
        )));
    }
    Ok(Compiled {
        manifest,
        program: executable.program,
    })
}
