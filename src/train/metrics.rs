//! What is measured in each optimiser step, and the `metrics.jsonl` that holds a line of it per step.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::atomic_file::{self, AtomicWriteError};
use crate::error::Error;

/// One optimiser step. Steps are counted from 0; `epoch` is how many epochs are done after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub step: u64,
    pub epoch: f64,
    /// Mean over the step's micro-batches, before the update.
    pub loss: f64,
    pub learning_rate: f64,
    /// L2 norm of the accumulated gradient, before clipping; null in the file where it is not finite.
    #[serde(deserialize_with = "null_is_not_finite")]
    pub grad_norm: f64,
    /// What the gradient of the loss was multiplied with.
    pub loss_scale: f64,
    /// The gradient was not finite, so that the update changed nothing.
    pub overflow: bool,
    /// Wall-clock seconds on this host.
    pub step_seconds: f64,
    /// Tokens per wall-clock second on this host.
    pub tokens_per_second: f64,
    /// Seconds the step takes on the simulated machine.
    pub simulated_seconds: f64,
    pub simulated_samples_per_second: f64,
}

fn null_is_not_finite<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A JSON-lines file that grows by a whole line at a time, so that a run that was killed leaves whole lines behind.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Starts an empty file.
    pub fn create(path: &Path) -> Result<MetricsFile, Error> {
        Self::after(path, 0)
    }

    /// Opens the file of a run that goes on with update `first`: lines from there on, and one that was cut short, are dropped.
    pub fn after(path: &Path, first: u64) -> Result<MetricsFile, Error> {
        let cannot = |error: io::Error| cannot_write(path, error);
        let old = match std::fs::read_to_string(path) {
            Ok(text) if first > 0 => text,
            _ => String::new(),
        };
        let kept = old.split_inclusive('\n').filter(|line| {
            let metrics = serde_json::from_str::<StepMetrics>(line);
            line.ends_with('\n') && metrics.is_ok_and(|metrics| metrics.step < first)
        });
        atomic_file::write(path, kept.collect::<String>().as_bytes())?;
        let file = File::options().append(true).open(path).map_err(cannot)?;
        Ok(MetricsFile {
            path: path.to_path_buf(),
            file,
        })
    }

    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        let mut line =
            serde_json::to_string(metrics).map_err(|error| Error::failed(error.to_string()))?;
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .map_err(|error| cannot_write(&self.path, error))
    }
}

fn cannot_write(path: &Path, source: io::Error) -> Error {
    Error::Write(AtomicWriteError {
        path: path.to_path_buf(),
        step: "adding to it",
        source,
    })
}
