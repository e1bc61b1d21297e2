//! The checkpoints of an output folder, in order, and which of them go.

use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";

/// A folder called `checkpoint-N`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub step: u64,
    pub path: PathBuf,
}

/// The folder of the checkpoint after `step`.
pub(crate) fn folder(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join(format!("{PREFIX}{step}"))
}

/// All checkpoints of `output_dir`, oldest first.
pub fn list(output_dir: &Path) -> io::Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for entry in std::fs::read_dir(output_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok());
        if let Some(step) = step
            && entry.path().is_dir()
        {
            let path = entry.path();
            listed.push(Listed { step, path });
        }
    }
    listed.sort();
    Ok(listed)
}

/// Removes the oldest until `limit` are left; the one after step `newest` stays, as does `best`.
///
/// A folder is first renamed, so that a killed run leaves no half of a checkpoint under its name.
pub fn remove_old(
    output_dir: &Path,
    limit: usize,
    newest: u64,
    best: Option<&Path>,
) -> io::Result<()> {
    let listed = list(output_dir)?;
    let mut surplus = listed.len().saturating_sub(limit.max(1));
    for old in listed {
        if surplus == 0 {
            break;
        }
        if old.step == newest || best.is_some_and(|best| best.file_name() == old.path.file_name()) {
            continue;
        }
        remove(output_dir, &old)?;
        surplus -= 1;
    }
    Ok(())
}

/// Removes all checkpoints.
pub fn clear(output_dir: &Path) -> io::Result<()> {
    let listed = list(output_dir)?;
    listed.iter().try_for_each(|old| remove(output_dir, old))
}

/// Removes one checkpoint.
fn remove(output_dir: &Path, old: &Listed) -> io::Result<()> {
    let aside = output_dir.join(format!(
        "{}{}.old",
        crate::atomic_file::TEMPORARY_PREFIX,
        old.step
    ));
    std::fs::rename(&old.path, &aside)?;
    std::fs::remove_dir_all(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_but_not_the_newest_or_the_best() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        for name in [
            "checkpoint-2",
            "checkpoint-10",
            "checkpoint-30",
            "checkpoint-x",
            "other",
        ] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("checkpoint-7"), "a file").unwrap();
        let steps = || -> Vec<u64> { list(dir).unwrap().iter().map(|c| c.step).collect() };
        assert_eq!(steps(), [2, 10, 30]);
        remove_old(dir, 2, 10, None).unwrap();
        assert_eq!(steps(), [10, 30]);
        remove_old(dir, 1, 30, Some(&dir.join("checkpoint-10"))).unwrap();
        assert_eq!(steps(), [10, 30]);
        remove_old(dir, 1, 10, None).unwrap();
        assert_eq!(steps(), [10]);
    }
}
