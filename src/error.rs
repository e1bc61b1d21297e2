//! The one error of the facade: what went wrong in whichever part, and what might help.

pub(crate) mod hints;

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

    /// Whether smaller pieces of the head would have helped.
    pub fn is_overflow_of_the_head(&self) -> bool {
        let Error::Compile(error) = self else {
            return false;
        };
        matches!(
            error.as_ref(),
            CompileError::Placement(PlacementError::Overflow {
                outside_layers: true,
                ..
            })
        )
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
        hints::of(self)
    }
}
