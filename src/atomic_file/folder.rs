//! Folders that appear whole or not at all.
//!
//! A folder is filled under a hidden name beside its destination, flushed, and renamed. Where the destination exists already the two are
//! exchanged in one step, so that at every moment one whole folder has the name; the old one is removed afterwards.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{AtomicWriteError, directory_of, sync_directory};

/// What the names of unfinished files and folders start with.
pub const TEMPORARY_PREFIX: &str = ".superstep-";

/// A folder being filled: it takes its name when it is committed, and vanishes when it is dropped before.
#[derive(Debug)]
pub struct StagedFolder {
    destination: PathBuf,
    temporary: tempfile::TempDir,
}

impl StagedFolder {
    /// Starts the folder that will be `destination`, whose parent must exist.
    pub fn create(destination: &Path) -> Result<StagedFolder, AtomicWriteError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY_PREFIX).suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o777));
        }
        let temporary = builder
            .tempdir_in(directory_of(destination))
            .map_err(|source| AtomicWriteError {
                path: destination.to_path_buf(),
                step: "creating a temporary folder beside it",
                source,
            })?;
        Ok(StagedFolder {
            destination: destination.to_path_buf(),
            temporary,
        })
    }

    /// Where its files go for now.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the folder its name. Its files must have been flushed, as everything in [`super`] does.
    pub fn commit(self) -> Result<(), AtomicWriteError> {
        let StagedFolder {
            destination,
            temporary,
        } = self;
        let failed = |step: &'static str| {
            let path = destination.clone();
            move |source: io::Error| AtomicWriteError { path, step, source }
        };
        sync_directory(temporary.path()).map_err(failed("flushing it to the disk"))?;
        let replaces = destination.exists();
        if replaces {
            exchange(temporary.path(), &destination)
                .map_err(failed("taking the old one's place"))?;
        } else {
            std::fs::rename(temporary.path(), &destination)
                .map_err(failed("giving it its name"))?;
        }
        sync_directory(directory_of(&destination)).map_err(failed("flushing its directory"))?;
        if replaces {
            return temporary.close().map_err(failed("removing the old one"));
        }
        // Nothing has the temporary name any more, so there is nothing to remove.
        let _ = temporary.keep();
        Ok(())
    }
}

/// Swaps two folders; where the file system cannot do it in one step, in three.
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
    }
    let mut aside = a.as_os_str().to_owned();
    aside.push(".old");
    std::fs::rename(b, &aside)?;
    std::fs::rename(a, b)?;
    std::fs::rename(&aside, a)
}

/// Unfinished files of a shared folder that are older were left by a killed run.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes unfinished files that nobody has written to for a day: what killed runs left in a folder that others may be writing to.
/// A cache that cannot be tidied is no error.
pub fn remove_stale(directory: &Path) {
    let is_stale = |path: &Path| -> io::Result<bool> {
        let known = path.symlink_metadata()?;
        let age = known.modified()?.elapsed().unwrap_or_default();
        Ok(known.is_file() && age > STALE)
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(TEMPORARY_PREFIX) && is_stale(&path).unwrap_or(false) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Removes what a killed run left unfinished in `directory`. Nobody else may be writing there.
pub fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn staged(destination: &Path, content: &str) -> StagedFolder {
        let folder = StagedFolder::create(destination).unwrap();
        super::super::write(&folder.path().join("a"), content.as_bytes()).unwrap();
        folder
    }

    #[test]
    fn a_folder_takes_its_name_or_that_of_an_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        for content in ["first", "second"] {
            staged(&path, content).commit().unwrap();
            assert_eq!(std::fs::read_to_string(path.join("a")).unwrap(), content);
            assert_eq!(names_in(directory.path()), ["out"]);
        }
    }

    #[test]
    fn what_is_not_committed_vanishes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        staged(&path, "kept").commit().unwrap();
        drop(staged(&path, "dropped"));
        assert_eq!(names_in(directory.path()), ["out"]);
        // A killed run has no time to tidy up.
        std::mem::forget(staged(&path, "killed"));
        std::fs::write(directory.path().join(".superstep-x.tmp"), "").unwrap();
        assert_eq!(names_in(directory.path()).len(), 3);
        remove_stale(directory.path());
        assert_eq!(names_in(directory.path()).len(), 3);
        let old = std::time::SystemTime::now() - 2 * STALE;
        let left = directory.path().join(".superstep-x.tmp");
        let left = std::fs::File::options().write(true).open(left);
        left.unwrap().set_modified(old).unwrap();
        remove_stale(directory.path());
        assert_eq!(names_in(directory.path()).len(), 2);
        remove_leftovers(directory.path()).unwrap();
        assert_eq!(names_in(directory.path()), ["out"]);
        assert_eq!(std::fs::read_to_string(path.join("a")).unwrap(), "kept");
    }
}
