//! Data sets by name: a folder, or a data set in the Hugging Face cache on this machine. Nothing is downloaded.
//!
//! The files of a split are found as Hugging Face finds them: `train`, `validation` (`valid`, `val`, `dev`) or `test` as a word of the
//! file's name, in the folder of the configuration if there is one.

use std::path::{Path, PathBuf};

use super::DataError;
use super::corpus::{Corpus, is_data};
use crate::frontend::CacheLocation;

/// Old names of data sets that have moved to their publishers.
const MOVED: [(&str, &str); 1] = [("wikitext", "Salesforce/wikitext")];

/// Which rows a data set is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Validation,
}

impl Split {
    pub const fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
        }
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Split::Train => &["train", "training"],
            Split::Validation => &["validation", "valid", "val", "dev"],
        }
    }
}

/// The corpus of a split; `Ok(None)` where the data set is there but has no such split.
pub fn find(
    name: &str,
    configuration: Option<&str>,
    split: Split,
    column: Option<&str>,
    cache: &CacheLocation,
) -> Result<Option<Corpus>, DataError> {
    let root = root(name, cache)?;
    let mut folders = Vec::new();
    if let Some(configuration) = configuration {
        folders.push(root.join(configuration));
        folders.push(root.join("data").join(configuration));
    }
    if configuration.is_none() || !folders.iter().any(|folder| folder.is_dir()) {
        folders.extend([root.clone(), root.join("data")]);
    }
    let mut others = Vec::new();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let (files, rest) = files_of(folder, split)?;
        if !files.is_empty() {
            return Corpus::of(folder, files, column).map(Some);
        }
        others.extend(rest);
    }
    if others.is_empty() {
        return Err(DataError::DatasetWithoutFiles {
            name: name.to_owned(),
            folders,
        });
    }
    Ok(None)
}

/// The files of a split in a folder, and its other data files.
fn files_of(folder: &Path, split: Split) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let cannot = |source| DataError::Read {
        path: folder.to_path_buf(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_file() && (is_data(&path) || super::corpus::extension(&path) == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files.into_iter().partition(|path| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut parts = stem.split(|c: char| !c.is_ascii_alphanumeric());
        parts.any(|part| split.words().contains(&part.to_ascii_lowercase().as_str()))
    }))
}

/// The folder of a data set.
fn root(name: &str, cache: &CacheLocation) -> Result<PathBuf, DataError> {
    if Path::new(name).is_dir() {
        return Ok(PathBuf::from(name));
    }
    let moved = MOVED.iter().find(|(old, _)| *old == name);
    let mut looked = vec![PathBuf::from(name)];
    for id in std::iter::once(name).chain(moved.map(|(_, id)| *id)) {
        let Some(hub) = &cache.hub else { break };
        let dataset = hub.join(format!("datasets--{}", id.replace('/', "--")));
        let snapshots = dataset.join("snapshots");
        let main = std::fs::read_to_string(dataset.join("refs/main")).ok();
        if let Some(folder) = main.map(|revision| snapshots.join(revision.trim()))
            && folder.is_dir()
        {
            return Ok(folder);
        }
        let mut found: Vec<PathBuf> = std::fs::read_dir(&snapshots)
            .map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
            .unwrap_or_default();
        found.sort();
        if let Some(folder) = found.into_iter().find(|folder| folder.is_dir()) {
            return Ok(folder);
        }
        looked.push(snapshots);
    }
    Err(DataError::NoDataset {
        name: name.to_owned(),
        looked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_found_where_hugging_face_puts_them() {
        let folder = tempfile::tempdir().unwrap();
        let hub = folder.path().join("hub");
        let cache = CacheLocation {
            hub: Some(hub.clone()),
        };
        let dir = hub.join("datasets--Salesforce--wikitext/snapshots/abc/wikitext-103-raw-v1");
        std::fs::create_dir_all(&dir).unwrap();
        let shards = [
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
        ];
        for name in shards
            .into_iter()
            .chain(["validation-00000-of-00001.parquet"])
        {
            std::fs::write(dir.join(name), "").unwrap();
        }
        let find = |name, config, split| super::find(name, config, split, None, &cache);
        let config = Some("wikitext-103-raw-v1");
        for name in ["wikitext", "Salesforce/wikitext"] {
            let train = find(name, config, Split::Train).unwrap().unwrap();
            assert_eq!(train.files, shards.map(|shard| dir.join(shard)));
        }
        let held_out = find("wikitext", config, Split::Validation)
            .unwrap()
            .unwrap();
        assert_eq!(held_out.files.len(), 1);
        std::fs::remove_file(&held_out.files[0]).unwrap();
        assert_eq!(find("wikitext", config, Split::Validation).unwrap(), None);
        let error = find("nothing/here", None, Split::Train)
            .unwrap_err()
            .to_string();
        assert!(error.contains("datasets--nothing--here"), "{error}");
        let error = find("wikitext", Some("other"), Split::Train)
            .unwrap_err()
            .to_string();
        assert!(error.contains("train-00000-of-00001.parquet"), "{error}");
    }
}
