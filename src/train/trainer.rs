//! The loop of a whole run: steps, logs, evaluations, checkpoints, and the reasons to end early.

use std::path::{Path, PathBuf};

use super::TrainingRun;
use super::cadence::Cadence;
use super::checkpoint::{self, CheckpointOut, RunIdentity};
use super::events::EventFile;
use super::interrupt::Interrupt;
use super::meter::Meter;
use super::metrics::{MetricsFile, StepMetrics};
use super::state::{TrainerState, rounded};
use crate::error::Error;
use crate::evaluate::Evaluation;
use crate::frontend::{Gpt2Config, Tokenizer};
use crate::ipu_config::OutputMode;
use crate::session::Session;

/// A run in progress.
pub struct Trainer<'a> {
    pub run: TrainingRun<'a>,
    pub session: Session,
    pub cadence: Cadence,
    pub state: TrainerState,
    pub meter: Meter,
    /// The evaluation after the step the state is at has not taken place yet: the run was interrupted in it.
    pub evaluation_is_due: bool,
    pub interrupt: Interrupt,
    /// Where results go, if anywhere.
    pub records: Option<Records<'a>>,
    /// Floating-point operations of a step, as Hugging Face estimates them.
    pub flops_per_step: f64,
}

/// The files of an output folder that grow with the run, and what its checkpoints need.
pub struct Records<'a> {
    pub output_dir: &'a Path,
    pub metrics: MetricsFile,
    pub events: Option<EventFile>,
    pub config: &'a Gpt2Config,
    pub tokenizer: Option<&'a Tokenizer>,
    /// The text of `ipu_config.json`, where the run has one.
    pub ipu_config: Option<String>,
    pub identity: RunIdentity,
    /// Why the logs do not grow any more. The run ends where a checkpoint can be written.
    pub failure: Option<Error>,
}

impl Records<'_> {
    fn append(&mut self, updates: &[StepMetrics]) {
        let metrics = &mut self.metrics;
        let written = updates.iter().try_for_each(|update| metrics.append(update));
        self.keep_failure(written);
    }

    fn keep_failure(&mut self, written: Result<(), Error>) {
        if let (Err(error), None) = (written, &self.failure) {
            self.failure = Some(error);
        }
    }
}

/// Who looks on, and does what the loop itself cannot.
pub trait Companion {
    /// A weight update is done.
    fn step(&mut self, metrics: &StepMetrics);
    /// Evaluates the weights as they are; [`Error::Interrupted`] if the user does not want to wait for it.
    fn evaluate(&mut self, session: &Session) -> Result<Evaluation, Error>;
    /// A checkpoint is in place.
    fn saved(&mut self, checkpoint: &Path);
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Complete,
    /// The loss of the evaluations no longer fell.
    NoGain,
    /// The user asked for it; the checkpoint to go on from, if there is a folder for one.
    Interrupted { checkpoint: Option<PathBuf> },
}

impl Trainer<'_> {
    /// Runs from the step the state is at to the end.
    ///
    /// # Errors
    /// A loss that is no finite number, a full disk, and whatever else stops a step. Checkpoints that exist stay as they are.
    pub fn run(&mut self, companion: &mut dyn Companion) -> Result<Ending, Error> {
        let due = self.evaluation_is_due && self.cadence.evaluates(self.state.global_step);
        self.evaluation_is_due = due;
        if due && let Some(ending) = self.evaluate_and_save(companion)? {
            return Ok(ending);
        }
        while self.state.global_step < self.run.schedule.steps {
            if self.gains_no_more() {
                return Ok(Ending::NoGain);
            }
            if self.interrupt.is_asked() {
                return self.interrupted(companion);
            }
            self.step(companion)?;
            let step = self.state.global_step;
            if self.cadence.logs(step) {
                self.log();
            }
            self.evaluation_is_due = self.cadence.evaluates(step);
            if let Some(ending) = self.evaluate_and_save(companion)? {
                return Ok(ending);
            }
        }
        Ok(Ending::Complete)
    }

    /// What comes after a step; the ending if the user does not wait for it.
    fn evaluate_and_save(
        &mut self,
        companion: &mut dyn Companion,
    ) -> Result<Option<Ending>, Error> {
        let mut is_best = false;
        if self.evaluation_is_due && !self.log_fails() {
            is_best = match self.evaluate(companion) {
                Err(Error::Interrupted(_)) => return self.interrupted(companion).map(Some),
                evaluated => evaluated?,
            };
            self.evaluation_is_due = false;
        }
        if let Some(error) = self
            .records
            .as_mut()
            .and_then(|records| records.failure.take())
        {
            return Err(self.saved_after(error, companion, is_best));
        }
        if self.cadence.saves(self.state.global_step) {
            self.save(companion, is_best)?;
        }
        Ok(None)
    }

    fn log_fails(&self) -> bool {
        let records = self.records.as_ref();
        records.is_some_and(|records| records.failure.is_some())
    }

    fn step(&mut self, companion: &mut dyn Companion) -> Result<(), Error> {
        let updates = self.run.step(&mut self.session, self.state.global_step);
        let updates = updates.map_err(|error| self.with_last_checkpoint(error))?;
        let losses = updates.iter().map(|update| update.loss);
        let loss = match self.run.output_mode {
            OutputMode::All => losses.sum::<f64>() / updates.len() as f64,
            OutputMode::Sum => losses.sum(),
            OutputMode::Final => updates.last().map_or(f64::NAN, |update| update.loss),
        };
        let seconds = updates.iter().map(|update| update.step_seconds).sum();
        for update in &updates {
            companion.step(update);
        }
        if let Some(records) = &mut self.records {
            records.append(&updates);
        }
        self.meter.step(loss, seconds);
        self.state.global_step += 1;
        self.state.epoch = self.state.global_step as f64 / self.run.order.steps_per_epoch() as f64;
        self.state.num_input_tokens_seen += self.run.tokens_per_step();
        self.state.total_flos += self.flops_per_step;
        Ok(())
    }

    /// The error, with where the run can go on from.
    fn with_last_checkpoint(&self, error: Error) -> Error {
        let output_dir = self.records.as_ref().map(|records| records.output_dir);
        let listed = output_dir.and_then(|dir| checkpoint::list(dir).ok());
        match (error, listed.and_then(|mut listed| listed.pop())) {
            (Error::Failed { message, hint }, Some(last)) => {
                let message = format!("{message}; the last checkpoint is {}", last.path.display());
                Error::Failed { message, hint }
            }
            (error, _) => error,
        }
    }

    /// Logs the mean loss since the last entry and, as Hugging Face does, the learning rate of the next step.
    fn log(&mut self) {
        let loss = rounded(self.meter.take_mean(), 4);
        let rate = self.run.schedule.rate(self.state.global_step);
        self.record("train", &[("learning_rate", rate), ("loss", loss)]);
    }

    /// Adds values to the log and to the events.
    fn record(&mut self, group: &str, values: &[(&str, f64)]) {
        self.state.log(values);
        let (step, epoch) = (self.state.global_step, self.state.epoch);
        let Some(records) = &mut self.records else {
            return;
        };
        let Some(events) = &mut records.events else {
            return;
        };
        let mut write = || {
            for (name, value) in values {
                let name = name.strip_prefix("eval_").unwrap_or(name);
                events.scalar(&format!("{group}/{name}"), step, *value)?;
            }
            events.scalar("train/epoch", step, epoch)?;
            events.flush()
        };
        let written = write();
        records.keep_failure(written);
    }

    /// Whether it was the best so far.
    fn evaluate(&mut self, companion: &mut dyn Companion) -> Result<bool, Error> {
        let evaluation = companion.evaluate(&self.session)?;
        self.record("eval", &evaluation.log_values());
        let best = self.state.best_metric.unwrap_or(f64::INFINITY);
        let is_best = evaluation.eval_loss < best - self.cadence.early_stopping_threshold;
        if is_best {
            self.state.best_metric = Some(evaluation.eval_loss);
            self.meter.evaluations_without_gain = 0;
        } else {
            self.meter.evaluations_without_gain += 1;
        }
        Ok(is_best)
    }

    fn gains_no_more(&self) -> bool {
        let patience = self.cadence.early_stopping_patience;
        patience.is_some_and(|patience| self.meter.evaluations_without_gain >= patience)
    }

    fn interrupted(&mut self, companion: &mut dyn Companion) -> Result<Ending, Error> {
        let checkpoint = if self.state.global_step > 0 {
            self.save(companion, false)?
        } else {
            None
        };
        Ok(Ending::Interrupted { checkpoint })
    }

    /// The error of a log that cannot be written, after what was done so far was saved if that can be.
    fn saved_after(&mut self, error: Error, companion: &mut dyn Companion, is_best: bool) -> Error {
        let hint = error.hint();
        let step = self.state.global_step;
        match self.save(companion, is_best) {
            Ok(saved) => {
                let saved = saved.map_or(String::new(), |path| {
                    format!("; what was done up to step {step} is in {}", path.display())
                });
                Error::Failed {
                    message: format!("{error}{saved}"),
                    hint,
                }
            }
            Err(other) => {
                let message = format!("{error}; nor can a checkpoint be saved: {other}");
                self.with_last_checkpoint(Error::Failed { message, hint })
            }
        }
    }

    fn save(
        &mut self,
        companion: &mut dyn Companion,
        is_best: bool,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(records) = &self.records else {
            return Ok(None);
        };
        if is_best {
            let folder = checkpoint::folder(records.output_dir, self.state.global_step);
            self.state.best_model_checkpoint = Some(folder.display().to_string());
        }
        let out = CheckpointOut {
            config: records.config,
            tokenizer: records.tokenizer,
            ipu_config: records.ipu_config.as_deref(),
            identity: &records.identity,
            state: &self.state,
            meter: &self.meter,
            loss_scale: self.run.loss_scale,
            evaluation_is_due: self.evaluation_is_due,
            steps_per_epoch: self.run.order.steps_per_epoch(),
        };
        let saved = checkpoint::write(records.output_dir, &out, &self.session)?;
        companion.saved(&saved);
        if let Some(limit) = self.cadence.save_total_limit {
            let best = self.state.best_model_checkpoint.as_deref().map(Path::new);
            let newest = self.state.global_step;
            checkpoint::remove_old(records.output_dir, limit, newest, best).map_err(|error| {
                Error::failed(format!("cannot remove an old checkpoint: {error}"))
            })?;
        }
        Ok(Some(saved))
    }
}
