//! The one error of the facade: what went wrong in whichever part, and what might help.

use superstep_ir::executable::ExecutableError;
use superstep_passes::compile::CompileError;
use superstep_passes::memory::Overflow;
use superstep_passes::place::PlacementError;
use superstep_runtime::EngineError;

use crate::atomic_file::AtomicWriteError;
use crate::data::DataError;
use crate::frontend::FrontendError;
use crate::frontend::model::ModelError;
use crate::train::checkpoint::CheckpointError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("cannot build the training graph: {0}")]
    Training(#[from] superstep_passes::training::TrainingError),
    #[error(transparent)]
    Compile(#[from] Box<CompileError>),
    #[error("{}: {source}", path.display())]
    Executable {
        path: std::path::PathBuf,
        source: ExecutableError,
    },
    #[error("the program cannot run: {0}")]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The user ended the run.
    #[error("{0}")]
    Interrupted(String),
    /// A combination of options that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Anything with a message of its own.
    #[error("{message}")]
    Failed {
        message: String,
        hint: Option<String>,
    },
}

impl Error {
    pub fn usage(message: impl Into<String>) -> Error {
        Error::Usage(message.into())
    }

    pub fn failed(message: impl Into<String>) -> Error {
        Error::Failed {
            message: message.into(),
            hint: None,
        }
    }

    /// The same error with a hint, if it had none.
    pub fn with_hint(self, hint: impl Into<String>) -> Error {
        match self {
            Error::Failed {
                message,
                hint: None,
            } => Error::Failed {
                message,
                hint: Some(hint.into()),
            },
            other => other,
        }
    }

    /// 2 for a wrong command line, 130 after Ctrl-C, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Interrupted(_) => 130,
            _ => 1,
        }
    }

    /// Whether more memory would have helped.
    pub fn is_overflow(&self) -> bool {
        self.overflow().is_some()
    }

    /// The tile that is too full, if that is what is wrong.
    pub fn overflow(&self) -> Option<&Overflow> {
        let Error::Compile(error) = self else {
            return None;
        };
        match error.as_ref() {
            CompileError::Placement(PlacementError::Overflow { overflow, .. }) => Some(overflow),
            _ => None,
        }
    }

    /// What might help, in a line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Failed { hint, .. } => hint.clone(),
            Error::Compile(error) => match error.as_ref() {
                CompileError::Placement(PlacementError::Overflow { tried, ipus, .. }) => {
                    let more = if tried < ipus {
                        "--layers_per_ipu over more of the machine's IPUs"
                    } else {
                        "a machine with more IPUs (--machine pod16)"
                    };
                    Some(format!("try a smaller --per_device_train_batch_size or --block_size, or {more}"))
                }
                CompileError::Placement(PlacementError::TooFewMicroBatches { stages, .. }) => {
                    Some(format!(
                        "give --gradient_accumulation_steps {stages} or more, or --pipeline false"
                    ))
                }
                _ => None,
            },
            Error::Data(DataError::TooShort { .. }) => Some("give more text or a smaller --block_size".into()),
            Error::Data(DataError::TooFewSamples { .. }) => {
                Some("give more data, or a smaller --per_device_train_batch_size or --gradient_accumulation_steps".into())
            }
            Error::Data(DataError::Column { .. }) => Some("name another column with --text_column".into()),
            Error::Data(DataError::NoDataset { name, .. }) => Some(format!(
                "give a folder with its files as --dataset_name, or download {name} into the Hugging Face cache on a machine that is connected"
            )),
            Error::Data(DataError::BlockSize { found, .. }) => Some(format!("use --block_size {found}, in `superstep compile` too")),
            Error::Checkpoint(error) => match error {
                CheckpointError::OtherRun { .. } => Some(
                    "go on all the same with --allow_resume_mismatch, or start anew with --overwrite_output_dir".into(),
                ),
                CheckpointError::OtherShape { .. } => {
                    Some("start anew with --overwrite_output_dir, or choose another --output_dir".into())
                }
                CheckpointError::NoneFound { .. } => {
                    Some("start without --resume_from_checkpoint, or name a checkpoint-N folder".into())
                }
                _ => None,
            },
            Error::Executable { .. } => Some("compile the model again with `superstep compile`".into()),
            _ => None,
        }
    }
}
