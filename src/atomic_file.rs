//! Files that are either the old version or the new one, never something between.
//!
//! The bytes go to a temporary file in the destination's own directory, are flushed to the disk, and only then take the
//! destination's name; at last the directory entry itself is flushed. A killed run or a full disk leaves the old file as it
//! was, and at worst a hidden `.superstep-*` file beside it. This is the only place of the crate that writes files.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

mod folder;

pub use folder::{StagedFolder, TEMPORARY_PREFIX, remove_leftovers, remove_stale};

/// Large enough that a 500 MB model is written in a few hundred calls.
const BUFFER_BYTES: usize = 1 << 20;

/// What went wrong, during which step, to which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {step}: {source}", path.display())]
pub struct AtomicWriteError {
    /// The destination, as the caller named it.
    pub path: PathBuf,
    /// The step that failed, in words.
    pub step: &'static str,
    /// What the operating system said.
    pub source: io::Error,
}

impl AtomicWriteError {
    /// Whether there was no room: a full disk, a quota, a limit on the size of files.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(
            self.source.kind(),
            FileTooLarge | QuotaExceeded | StorageFull
        )
    }
}

/// Writes `bytes` to `path`, replacing what was there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), AtomicWriteError> {
    write_with(path, |out| out.write_all(bytes))
}

/// Replaces `path` by what `fill` writes. The directory must exist; an error from `fill` leaves `path` untouched.
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), AtomicWriteError> {
    let mut file = AtomicFile::create(path)?;
    let filled = fill(&mut file);
    filled.map_err(|source| file.failed("writing the data", source))?;
    file.commit()
}

/// A file being written: it takes its name when it is committed, and vanishes when it is dropped before.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    out: BufWriter<tempfile::NamedTempFile>,
}

impl AtomicFile {
    /// Starts the file that will be `path`. The directory must exist; a device, socket or pipe of that name is an error.
    pub fn create(path: &Path) -> Result<AtomicFile, AtomicWriteError> {
        let failed = |step: &'static str, source| AtomicWriteError {
            path: path.to_path_buf(),
            step,
            source,
        };
        if path.file_name().is_none() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
            return Err(failed("looking at the path", source));
        }
        if is_special(path) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not an ordinary file");
            return Err(failed("looking at the path", source));
        }
        let file = temporary_in(directory_of(path))
            .map_err(|source| failed("creating a temporary file beside it", source))?;
        Ok(AtomicFile {
            path: path.to_path_buf(),
            out: BufWriter::with_capacity(BUFFER_BYTES, file),
        })
    }

    /// Makes what was written the content of the file.
    pub fn commit(self) -> Result<(), AtomicWriteError> {
        let AtomicFile { path, out } = self;
        let failed = |step: &'static str| {
            let path = path.clone();
            move |source: io::Error| AtomicWriteError { path, step, source }
        };
        let file = out
            .into_inner()
            .map_err(|error| failed("writing the data")(error.into_error()))?;
        file.as_file()
            .sync_all()
            .map_err(failed("flushing it to the disk"))?;
        file.persist(&path)
            .map_err(|error| failed("giving it its name")(error.error))?;
        sync_directory(directory_of(&path)).map_err(failed("flushing its directory"))
    }

    /// The error for a step of writing this file.
    pub fn failed(&self, step: &'static str, source: io::Error) -> AtomicWriteError {
        AtomicWriteError {
            path: self.path.clone(),
            step,
            source,
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Creates `directory` and its parents; the error names the directory.
pub fn create_directory(directory: &Path) -> Result<(), AtomicWriteError> {
    std::fs::create_dir_all(directory).map_err(|source| AtomicWriteError {
        path: directory.to_path_buf(),
        step: "creating the directory",
        source,
    })
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A device, socket or pipe: taking its name would destroy it. A directory cannot be replaced by a file anyway.
fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|known| !known.is_file() && !known.is_dir())
}

fn temporary_in(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).suffix(".tmp");
    // Temporary files are private by default; this one becomes an ordinary file, so the user's umask decides.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(directory)
}

/// A rename is durable only once its directory is. Only Unix lets a directory be opened and flushed.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(directory)?.sync_all()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_the_old_content_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(names_in(directory.path()), ["a.bin"]);
    }

    #[test]
    fn a_failing_writer_keeps_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |out| {
            out.write_all(b"half of the new")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.bin"), "{error}");
        assert!(error.to_string().contains("writing the data"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(directory.path()), ["a.bin"]);
    }

    #[test]
    fn errors_name_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("no_such_directory").join("a.bin");
        let error = write(&absent, b"x").unwrap_err();
        assert!(
            error.to_string().contains("no_such_directory/a.bin"),
            "{error}"
        );

        let taken = directory.path().join("taken");
        create_directory(&taken.join("full")).unwrap();
        assert_eq!(write(&taken, b"x").unwrap_err().step, "giving it its name");
        assert_eq!(
            names_in(directory.path()),
            ["taken"],
            "the temporary file is gone"
        );

        write(&directory.path().join("file"), b"x").unwrap();
        assert!(create_directory(&directory.path().join("file/sub")).is_err());
        assert!(write(Path::new("/"), b"x").is_err());
        assert!(write(Path::new(""), b"x").is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error() {
        // A directory on a full device cannot be made here; the writer of one can.
        let error = write_with(&std::env::temp_dir().join("superstep_full"), |_| {
            let mut full = File::options().write(true).open("/dev/full")?;
            full.write_all(b"x")
        })
        .unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
    }

    #[cfg(unix)]
    #[test]
    fn a_special_file_is_refused_and_stays() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = directory.path().join("link");
        symlink(&socket, &link).unwrap();
        for path in [&socket, &link] {
            let error = write(path, b"x").unwrap_err();
            assert!(
                error.to_string().contains("not an ordinary file"),
                "{error}"
            );
        }
        let kind = std::fs::metadata(&socket).unwrap().file_type();
        assert!(kind.is_socket(), "it was replaced");
        assert_eq!(names_in(directory.path()), ["link", "socket"]);
    }

    #[cfg(unix)]
    #[test]
    fn the_umask_decides_who_may_read() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let ours = directory.path().join("ours");
        let plain = directory.path().join("plain");
        write(&ours, b"x").unwrap();
        std::fs::write(&plain, b"x").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
