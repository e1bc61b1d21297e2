//! From the name a user gives to the model it means.
//!
//! In this order: a folder of that name; a snapshot in the Hugging Face cache on this machine (nothing is downloaded); a preset.
//! A preset has a shape but no weights and no tokenizer, so whoever needs those asks [`ModelSource::directory`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::config::Gpt2Config;
use super::error::FrontendError;
use super::presets::{preset, preset_names};

/// The organisation under which the GPT-2 sizes are published today; their old names have none.
const PUBLISHER: &str = "openai-community";
const CONFIG_FILE: &str = "config.json";

/// Where a model's files are, or its shape where there are none.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// A folder with `config.json` and more.
    Directory(PathBuf),
    /// A shape known by name. `looked` lists where files for it were searched.
    Preset {
        name: String,
        config: Box<Gpt2Config>,
        looked: Vec<String>,
    },
}

impl ModelSource {
    /// The model's configuration.
    pub fn config(&self) -> Result<Gpt2Config, FrontendError> {
        match self {
            Self::Directory(dir) => Gpt2Config::load(dir),
            Self::Preset { config, .. } => Ok(config.as_ref().clone()),
        }
    }

    /// The folder with trained weights and a tokenizer; for a preset, an error that says where to put them.
    pub fn directory(&self) -> Result<&Path, FrontendError> {
        match self {
            Self::Directory(dir) => Ok(dir),
            Self::Preset { name, looked, .. } => Err(FrontendError::PresetWithoutFiles {
                name: name.clone(),
                looked: looked.clone(),
            }),
        }
    }
}

/// The Hugging Face cache: a folder of `models--ORG--NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLocation {
    /// None where the environment gives no home either.
    pub hub: Option<PathBuf>,
}

impl CacheLocation {
    /// Where `huggingface_hub` keeps its files: `$HF_HUB_CACHE`, `$HF_HOME/hub`, or `huggingface/hub` in the user's cache.
    pub fn from_env() -> Self {
        Self::from_lookup(|variable| std::env::var_os(variable))
    }

    fn from_lookup(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let folder = |name: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = || folder("HOME").or_else(|| folder("USERPROFILE"));
        let hub = folder("HF_HUB_CACHE")
            .or_else(|| folder("HF_HOME").map(|dir| dir.join("hub")))
            .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("huggingface/hub")))
            .or_else(|| home().map(|dir| dir.join(".cache/huggingface/hub")));
        Self { hub }
    }
}

/// What `name` means here.
pub fn resolve(name: &str, cache: &CacheLocation) -> Result<ModelSource, FrontendError> {
    let no_model = |reason: String, looked: Vec<String>| FrontendError::NoModel {
        name: name.to_owned(),
        reason,
        looked,
    };
    let path = Path::new(name);
    if !name.is_empty() && path.is_dir() {
        return Ok(ModelSource::Directory(path.to_path_buf()));
    }
    if path.is_file() {
        return Err(no_model(
            "that is a file; name the folder that holds config.json".into(),
            Vec::new(),
        ));
    }
    let mut looked = vec![format!("looked for a folder {name:?}")];
    let ids = hub_ids(name);
    for id in &ids {
        let Some(hub) = &cache.hub else { break };
        let model = hub.join(format!("models--{}", id.replace('/', "--")));
        match snapshot(&model) {
            Snapshot::Found(dir) => return Ok(ModelSource::Directory(dir)),
            Snapshot::Several(dirs) => {
                let reason = "the cache has several snapshots of it and none is marked `main`; name one of the folders";
                let dirs = dirs.iter().map(|dir| dir.display().to_string()).collect();
                return Err(no_model(reason.into(), dirs));
            }
            Snapshot::Absent => {
                looked.push(format!(
                    "looked for {}",
                    model.join("snapshots/*/config.json").display()
                ));
            }
        }
    }
    if let Some(config) = preset(name) {
        return Ok(ModelSource::Preset {
            name: name.to_owned(),
            config: Box::new(config),
            looked,
        });
    }
    let presets: Vec<&str> = preset_names().collect();
    looked.push(format!("looked for a preset: {}", presets.join(", ")));
    let reason = "give a folder with config.json, model.safetensors and tokenizer.json (or vocab.json and merges.txt), \
                  a model in the Hugging Face cache, or a preset";
    Err(no_model(reason.into(), looked))
}

/// The hub's names for `name`: itself if it is `name` or `org/name`, and the publisher's for the old GPT-2 names.
fn hub_ids(name: &str) -> Vec<String> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match name.split_once('/') {
        Some((org, model)) if plain(org) && plain(model) => vec![name.to_owned()],
        None if plain(name) && preset(name).is_some() => {
            vec![name.to_owned(), format!("{PUBLISHER}/{name}")]
        }
        None if plain(name) => vec![name.to_owned()],
        _ => Vec::new(),
    }
}

enum Snapshot {
    Found(PathBuf),
    Several(Vec<PathBuf>),
    Absent,
}

/// The snapshot that `refs/main` names, else the only one. A snapshot counts if it has a configuration: a cache may
/// hold nothing but the tokenizer.
fn snapshot(model: &Path) -> Snapshot {
    let snapshots = model.join("snapshots");
    if let Ok(revision) = std::fs::read_to_string(model.join("refs/main")) {
        let revision = revision.trim();
        let named = snapshots.join(revision);
        let is_hash =
            !revision.is_empty() && revision.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_hash && named.join(CONFIG_FILE).is_file() {
            return Snapshot::Found(named);
        }
    }
    let Ok(entries) = std::fs::read_dir(&snapshots) else {
        return Snapshot::Absent;
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| dir.join(CONFIG_FILE).is_file())
        .collect();
    found.sort();
    match found.len() {
        0 => Snapshot::Absent,
        1 => Snapshot::Found(found.remove(0)),
        _ => Snapshot::Several(found),
    }
}

#[cfg(test)]
mod tests;
