//! Which files of a model folder hold its weights: one `model.safetensors`, or shards listed in an index.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::error::{FrontendError, shown};
use super::read::read_file;
use super::safetensors_in::SafetensorsFile;

/// The file that `save_pretrained` writes, here and in `transformers`.
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// What PyTorch's own format is called; we do not read it.
const PICKLED_FILE: &str = "pytorch_model.bin";
const PICKLED_INDEX_FILE: &str = "pytorch_model.bin.index.json";
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// Whether a folder has the weights of a model, in whichever format.
pub fn holds_weights(dir: &Path) -> bool {
    let names = [WEIGHTS_FILE, INDEX_FILE, PICKLED_FILE, PICKLED_INDEX_FILE];
    names.iter().any(|name| dir.join(name).exists())
}

/// The open weight files of a model, and where each tensor is.
pub(super) struct WeightFiles {
    /// Named in errors about the model as a whole.
    pub(super) path: PathBuf,
    pub(super) files: Vec<SafetensorsFile>,
    /// (tensor name in its file, index into `files`), in file order.
    pub(super) tensors: Vec<(String, usize)>,
    /// Tensors that stand in a shard without the index knowing them.
    pub(super) unlisted: Vec<String>,
}

impl WeightFiles {
    /// Opens the weight files of the model in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, FrontendError> {
        let single = dir.join(WEIGHTS_FILE);
        let index = dir.join(INDEX_FILE);
        if single.exists() {
            let file = SafetensorsFile::open(&single)?;
            let tensors = file.names().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self {
                path: single,
                files: vec![file],
                tensors,
                unlisted: Vec::new(),
            });
        }
        if index.exists() {
            return open_shards(dir, index);
        }
        let hint = if dir.join(PICKLED_FILE).exists() {
            "; pytorch_model.bin is not read: save the model again with transformers, which writes safetensors"
        } else {
            ""
        };
        Err(FrontendError::NoWeights {
            dir: dir.to_path_buf(),
            hint,
        })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_shards(dir: &Path, path: PathBuf) -> Result<WeightFiles, FrontendError> {
    let bytes = read_file(&path, INDEX_BYTES_MAX)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|source| FrontendError::Json {
        path: path.clone(),
        source,
    })?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &index.weight_map {
        shards.entry(shard).or_default().push(tensor);
    }
    let mut found = WeightFiles {
        path,
        files: Vec::new(),
        tensors: Vec::new(),
        unlisted: Vec::new(),
    };
    for (shard, listed) in shards {
        if !is_plain_name(shard) {
            let reason = format!("shard {:?} is not a plain file name", shown(&shard));
            return Err(FrontendError::ShardIndex {
                path: found.path,
                reason,
            });
        }
        let file = SafetensorsFile::open(&dir.join(shard))?;
        let absent: Vec<String> = listed
            .iter()
            .filter(|name| file.shape(name).is_none())
            .map(|name| (*name).to_owned())
            .collect();
        if !absent.is_empty() {
            return Err(FrontendError::TensorsMissing {
                path: file.path().to_path_buf(),
                names: absent,
            });
        }
        let number = found.files.len();
        for name in file.names() {
            if index
                .weight_map
                .get(&name)
                .is_some_and(|listed_in| listed_in == shard)
            {
                found.tensors.push((name, number));
            } else {
                found.unlisted.push(name);
            }
        }
        found.files.push(file);
    }
    Ok(found)
}

/// Shards lie beside their index: no folders, no `..`, no absolute paths.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains(['\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for name in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "../a",
            "a/b",
            "a/",
            "./a",
            "a\\b",
            "a\0",
        ] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }
}
