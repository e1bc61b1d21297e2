//! The one error of the facade: what went wrong in whichever part, and what might help.

use superstep_ir::executable::ExecutableError;
use superstep_passes::compile::CompileError;
use superstep_passes::place::PlacementError;
use superstep_runtime::EngineError;

use crate::atomic_file::AtomicWriteError;
use crate::data::DataError;
use crate::frontend::FrontendError;
use crate::frontend::model::ModelError;
use crate::report::format::bytes;

/// Variables named when a tile overflows.
const RESIDENTS_SHOWN: usize = 5;

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

    /// 2 for a wrong command line, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Error::Usage(_)) {
            2
        } else {
            1
        }
    }

    /// More lines about the error, for those that a line does not tell enough of: what fills a tile that overflows.
    pub fn details(&self) -> Vec<String> {
        let Error::Compile(error) = self else {
            return Vec::new();
        };
        let CompileError::Placement(PlacementError::Overflow { overflow, .. }) = error.as_ref()
        else {
            return Vec::new();
        };
        let largest = overflow
            .residents
            .iter()
            .take(RESIDENTS_SHOWN)
            .map(|resident| {
                let life = match resident.live {
                    Some((first, last)) => format!("steps {first}..{last}"),
                    None => "always live".into(),
                };
                format!(
                    "{:>10}  {} {}, {life}",
                    bytes(resident.bytes),
                    resident.name,
                    resident.ty
                )
            });
        std::iter::once("the largest variables there:".to_owned())
            .chain(largest)
            .collect()
    }

    /// What might help, in a line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Failed { hint, .. } => hint.clone(),
            Error::Compile(error) => match error.as_ref() {
                CompileError::Placement(PlacementError::Overflow { .. }) => {
                    Some("a smaller --per_device_train_batch_size or --block_size, or more IPUs (--machine pod4, --layers_per_ipu)".into())
                }
                _ => None,
            },
            Error::Data(DataError::TooShort { .. }) => Some("give more text or a smaller --block_size".into()),
            Error::Data(DataError::TooFewSamples { .. }) => {
                Some("give more data, or a smaller --per_device_train_batch_size or --gradient_accumulation_steps".into())
            }
            Error::Data(DataError::BlockSize { found, .. }) => Some(format!("--block_size {found}")),
            Error::Executable { .. } => Some("compile the model again with `superstep compile`".into()),
            _ => None,
        }
    }
}
