//! The small file that makes a folder a checkpoint.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::RunIdentity;
use crate::train::loss_scale::LossScale;
use crate::train::meter::Meter;

/// Written last; a folder that has it is whole.
pub const CONTENT_FILE: &str = "superstep_checkpoint.json";
/// Version of the layout of checkpoints.
pub(super) const FORMAT: u32 = 2;

/// Where the run was, what it was, and what the other files must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    pub format: u32,
    /// The version of superstep that wrote it.
    pub version: String,
    /// Steps done: the next one has this number, counted from 0.
    pub global_step: u64,
    /// Position in the data: the epoch and the step within it that come next.
    pub epoch: u64,
    pub step_in_epoch: u64,
    pub meter: Meter,
    pub loss_scale: LossScale,
    /// The evaluation after the last step was interrupted: it comes before the next step. Left out where it is false, as in older files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evaluation_is_due: bool,
    pub identity: RunIdentity,
    /// blake3 digests by file name.
    pub files: BTreeMap<String, String>,
}

/// The content with its own digest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    digest: String,
    content: Content,
}

impl Content {
    /// The file's text.
    pub(super) fn seal(&self) -> serde_json::Result<String> {
        let sealed = Sealed {
            digest: self.digest()?,
            content: self.clone(),
        };
        Ok(serde_json::to_string_pretty(&sealed)? + "\n")
    }

    /// Reads the file's text, or says why it cannot be trusted.
    pub(super) fn unseal(bytes: &[u8]) -> Result<Content, String> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let format = value.pointer("/content/format").and_then(|f| f.as_u64());
        if let Some(format) = format.filter(|&f| f != u64::from(FORMAT)) {
            return Err(format!(
                "it is in format {format}; this superstep reads {FORMAT}"
            ));
        }
        // Not from `value`, which has lost the order of the fields.
        let sealed: Sealed = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        match sealed.content.digest() {
            Ok(digest) if digest == sealed.digest => Ok(sealed.content),
            _ => Err("it is not what was written: its digest does not match".into()),
        }
    }

    fn digest(&self) -> serde_json::Result<String> {
        let text = serde_json::to_vec(self)?;
        Ok(blake3::hash(&text).to_hex().to_string())
    }
}

/// The blake3 digest of a file.
pub(super) fn file_digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
