//! Reading a checkpoint back, trusting nothing in it.

use std::path::{Path, PathBuf};

use super::content::{CONTENT_FILE, Content, file_digest};
use super::identity::RunIdentity;
use super::write::stored_as;
use super::{OPTIMISER_FILE, TRAINER_STATE_FILE, list};
use crate::error::Error;
use crate::frontend::safetensors_in::SafetensorsFile;
use crate::frontend::{FrontendError, Gpt2Config, Weights, load_weights};
use crate::session::Session;
use crate::train::state::TrainerState;

/// Why a folder is no checkpoint to go on from.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{} is no checkpoint: it has no {CONTENT_FILE}", dir.display())]
    NoCheckpoint { dir: PathBuf },
    #[error("there is no checkpoint in {}", dir.display())]
    NoneFound { dir: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the checkpoint {} is damaged: {reason}", dir.display())]
    Damaged { dir: PathBuf, reason: String },
    #[error("the checkpoint {} cannot be continued: {}", dir.display(), differences.join("; "))]
    OtherShape {
        dir: PathBuf,
        differences: Vec<String>,
    },
    #[error("the checkpoint {} is of another run: {}", dir.display(), differences.join("; "))]
    OtherRun {
        dir: PathBuf,
        differences: Vec<String>,
    },
    #[error(transparent)]
    Frontend(#[from] FrontendError),
}

/// A checkpoint whose files are what was written.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub dir: PathBuf,
    pub content: Content,
    pub state: TrainerState,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and compares every file with its digest.
    pub fn open(dir: &Path) -> Result<Checkpoint, CheckpointError> {
        let path = dir.join(CONTENT_FILE);
        if !path.is_file() {
            return Err(CheckpointError::NoCheckpoint { dir: dir.into() });
        }
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| CheckpointError::Read {
                path: path.into(),
                source,
            })
        };
        let damaged = |reason: String| CheckpointError::Damaged {
            dir: dir.into(),
            reason,
        };
        let content = Content::unseal(&read(&path)?)
            .map_err(|reason| damaged(format!("{CONTENT_FILE}: {reason}")))?;
        for (name, digest) in &content.files {
            if Path::new(name).components().count() != 1 || name.starts_with('.') {
                return Err(damaged(format!("{name:?} is no file name")));
            }
            match file_digest(&dir.join(name)) {
                Ok(found) if found == *digest => {}
                Ok(_) => return Err(damaged(format!("{name} is not what was written"))),
                Err(error) => return Err(damaged(format!("{name}: {error}"))),
            }
        }
        let state = serde_json::from_slice(&read(&dir.join(TRAINER_STATE_FILE))?)
            .map_err(|error| damaged(format!("{TRAINER_STATE_FILE}: {error}")))?;
        Ok(Checkpoint {
            dir: dir.into(),
            content,
            state,
        })
    }

    /// The newest sound checkpoint of `output_dir`; `note` is told of damaged ones that were passed over.
    pub fn latest(
        output_dir: &Path,
        note: &mut dyn FnMut(&CheckpointError),
    ) -> Result<Checkpoint, CheckpointError> {
        let listed = match list(output_dir) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                return Err(CheckpointError::Read {
                    path: output_dir.into(),
                    source,
                });
            }
        };
        let mut last_error = None;
        for candidate in listed.iter().rev() {
            match Checkpoint::open(&candidate.path) {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(error) => {
                    note(&error);
                    last_error = Some(error);
                }
            }
        }
        Err(last_error.unwrap_or(CheckpointError::NoneFound {
            dir: output_dir.into(),
        }))
    }

    /// Compares with the run that wants to go on from here. Differences in settings are returned when they are `allowed`.
    pub fn check(&self, run: &RunIdentity, allowed: bool) -> Result<Vec<String>, CheckpointError> {
        let (shape, settings) = run.differences(&self.content.identity);
        let dir = self.dir.clone();
        if !shape.is_empty() {
            return Err(CheckpointError::OtherShape {
                dir,
                differences: shape,
            });
        }
        if !settings.is_empty() && !allowed {
            return Err(CheckpointError::OtherRun {
                dir,
                differences: settings,
            });
        }
        Ok(settings)
    }

    /// The weights as they were.
    pub fn weights(&self, config: &Gpt2Config) -> Result<Weights, CheckpointError> {
        Ok(load_weights(&self.dir, config)?.weights)
    }

    /// Puts moments and counters back where they were.
    pub fn restore_optimiser(&self, session: &mut Session) -> Result<(), Error> {
        let path = self.dir.join(OPTIMISER_FILE);
        let mut file = SafetensorsFile::open(&path)?;
        let states = session.optimiser_states();
        if states.len() != file.names().len() {
            let (here, there) = (states.len(), file.names().len());
            return Err(self
                .damaged(format!(
                    "{there} optimiser states, but the program has {here}"
                ))
                .into());
        }
        for state in states {
            let found = (file.dtype(&state.name), file.shape(&state.name));
            let wanted = (stored_as(state.ty.dtype), state.ty.shape.dims());
            if found != (Some(wanted.0), Some(wanted.1)) {
                let name = &state.name;
                return Err(self.damaged(format!("`{name}` is not {}", state.ty)).into());
            }
            let bytes = file.read_bytes(&state.name)?;
            session.write(&state, &bytes)?;
        }
        Ok(())
    }

    fn damaged(&self, reason: String) -> CheckpointError {
        CheckpointError::Damaged {
            dir: self.dir.clone(),
            reason,
        }
    }
}
