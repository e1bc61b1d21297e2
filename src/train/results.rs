//! `train_results.json`, `eval_results.json` and `all_results.json`, as Hugging Face's scripts leave them.

use std::path::Path;

use serde_json::{Map, Value};

use crate::atomic_file;
use crate::error::Error;

/// Writes `NAME_results.json` and adds its values to `all_results.json`.
pub fn write(output_dir: &Path, name: &str, values: &Map<String, Value>) -> Result<(), Error> {
    write_map(&output_dir.join(format!("{name}_results.json")), values)?;
    let path = output_dir.join("all_results.json");
    // A file that another program left there may hold anything: what cannot be read is replaced.
    let old = std::fs::read(&path).ok();
    let mut all: Map<String, Value> = old
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    all.extend(values.clone());
    write_map(&path, &all)
}

fn write_map(path: &Path, values: &Map<String, Value>) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(values).map_err(|e| Error::failed(e.to_string()))?;
    Ok(atomic_file::write(path, format!("{text}\n").as_bytes())?)
}
