//! What is measured in each optimiser step, and the `metrics.jsonl` that holds a line of it per step.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One optimiser step. Steps are counted from 0; `epoch` is how many epochs are done after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub step: u64,
    pub epoch: f64,
    /// Mean over the step's micro-batches, before the update.
    pub loss: f64,
    pub learning_rate: f64,
    /// L2 norm of the accumulated gradient, before clipping.
    pub grad_norm: f64,
    /// Wall-clock seconds on this host.
    pub step_seconds: f64,
    /// Tokens per wall-clock second on this host.
    pub tokens_per_second: f64,
    /// Seconds the step takes on the simulated machine.
    pub simulated_seconds: f64,
    pub simulated_samples_per_second: f64,
}

/// A JSON-lines file that grows by a whole line at a time, so that a run that was killed leaves whole lines behind.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Starts an empty file.
    pub fn create(path: &Path) -> io::Result<MetricsFile> {
        Ok(MetricsFile {
            path: path.to_path_buf(),
            file: File::create(path)?,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn append(&mut self, metrics: &StepMetrics) -> io::Result<()> {
        let mut line = serde_json::to_string(metrics)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }
}
