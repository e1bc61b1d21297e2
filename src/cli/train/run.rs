//! The run itself, from a compiled program to trained weights.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::evaluator::Evaluator;
use super::super::ipu_options::IpuLayout;
use super::super::model_options::Model;
use super::super::output::{note, say};
use super::super::progress::Progress;
use super::Options;
use super::announce::device_allocation;
use crate::compile::Compiled;
use crate::data::TokenBlocks;
use crate::error::Error;
use crate::evaluate::Evaluation;
use crate::frontend::{Gpt2Config, Weights, save_pretrained};
use crate::ipu_config::FILE_NAME;
use crate::manifest::Manifest;
use crate::report::Report;
use crate::report::terminal::summary;
use crate::session::Session;
use crate::train::checkpoint::{Checkpoint, TRAINER_STATE_FILE, check_finite};
use crate::train::events::EventFile;
use crate::train::state::rounded;
use crate::train::{
    Companion, Ending, Following, Interrupt, LossScale, Meter, MetricsFile, Records, StepMetrics,
    Trainer, TrainerState, TrainingRun, results,
};

/// What a run leaves.
pub(super) struct Trained {
    pub(super) weights: Weights,
    /// Absent where nothing was trained.
    pub(super) state: Option<TrainerState>,
}

impl Options {
    pub(super) fn train(
        &self,
        model: &Model,
        layout: &IpuLayout,
        compiled: Compiled,
        weights: Weights,
        blocks: &TokenBlocks,
        evaluator: Option<&mut Evaluator>,
    ) -> Result<Trained, Error> {
        let report = Report::new(&compiled)?;
        say(summary(&report));
        let manifest = &compiled.manifest;
        let order = self.order(blocks, manifest)?;
        let steps = self.schedule.steps(order.steps_per_epoch());
        let schedule = self.schedule.schedule(steps);
        let identity = self.identity(model, &compiled, blocks, &schedule);
        let checkpoint = self.starting_point(&identity)?;
        let run = TrainingRun {
            blocks,
            order,
            schedule,
            batch_size: manifest.per_device_train_batch_size,
            device_iterations: self.schedule.device_iterations(),
            seed: self.schedule.seed,
            replicas: manifest.replicas,
            loss_scale: self.loss_scale(manifest, checkpoint.as_ref())?,
            following: self.following(manifest),
            output_mode: layout.settings.output_mode.unwrap_or_default(),
            simulated_seconds: report.time.seconds_per_update,
        };
        say(device_allocation(manifest));
        say(self.announcement(manifest, blocks, &run));
        let ipu_config = match &self.output.output_dir {
            Some(dir) => self.keep_ipu_config(dir, model, layout, manifest)?,
            None => None,
        };
        let weights = match &checkpoint {
            Some(checkpoint) => checkpoint.weights(&model.config)?,
            None => weights,
        };
        let program = Arc::new(compiled.program);
        let mut session = Session::load(program, &weights, &self.output.host.engine())?;
        drop(weights);
        if let Some(checkpoint) = &checkpoint {
            checkpoint.restore_optimiser(&mut session)?;
        }
        let tokenizer = model.tokenizer_if_any();
        let first = checkpoint.as_ref().map_or(0, |c| c.content.global_step)
            * self.schedule.device_iterations() as u64;
        let records = match &self.output.output_dir {
            Some(dir) => Some(Records {
                output_dir: dir,
                metrics: MetricsFile::after(&dir.join("metrics.jsonl"), first)?,
                events: self.events()?,
                config: &model.config,
                tokenizer: tokenizer.as_ref(),
                ipu_config,
                identity,
                failure: None,
            }),
            None => None,
        };
        let trainer = self.trainer(run, session, records, &model.config, checkpoint)?;
        self.finish(trainer, model, evaluator)
    }

    /// Writes the IPU configuration of the run into the output folder; its text is for the checkpoints too.
    fn keep_ipu_config(
        &self,
        dir: &Path,
        model: &Model,
        layout: &IpuLayout,
        manifest: &Manifest,
    ) -> Result<Option<String>, Error> {
        let text = self.ipu_config_carried_out(model, layout, manifest)?;
        if let Some(text) = &text {
            crate::atomic_file::write(&dir.join(FILE_NAME), text.as_bytes())?;
        }
        Ok(text)
    }

    /// The scale of the next update: that of the checkpoint where it follows the gradients.
    fn loss_scale(
        &self,
        manifest: &Manifest,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<LossScale, Error> {
        let precision = &manifest.precision;
        let given = self.schedule.loss_scaling;
        if given.is_some_and(|x| x != 1.0) && !precision.loss_scaling {
            return Err(Error::failed(
                "--loss_scaling has no place in this executable: it was compiled in f32 without one",
            ));
        }
        if let Some(checkpoint) = checkpoint {
            return Ok(checkpoint.content.loss_scale);
        }
        let default = match precision.loss_scaling {
            true => precision.precision.default_loss_scale(),
            false => 1.0,
        };
        Ok(LossScale::starting_at(given.unwrap_or(default)))
    }

    fn following(&self, manifest: &Manifest) -> Following {
        match manifest.precision.auto_loss_scaling {
            true => Following::Automatic {
                growth_interval: self.schedule.loss_scaling_growth_interval,
            },
            false => Following::Fixed,
        }
    }

    fn events(&self) -> Result<Option<EventFile>, Error> {
        let folder = self.output.events_folder();
        folder.map(|folder| EventFile::create(&folder)).transpose()
    }

    fn trainer<'a>(
        &self,
        run: TrainingRun<'a>,
        session: Session,
        records: Option<Records<'a>>,
        config: &Gpt2Config,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Trainer<'a>, Error> {
        let (steps, per_epoch) = (run.schedule.steps, run.order.steps_per_epoch());
        let cadence = self.output.cadence(steps, per_epoch);
        let content = checkpoint.as_ref().map(|checkpoint| &checkpoint.content);
        let evaluation_is_due = content.is_some_and(|content| content.evaluation_is_due);
        let (mut state, meter) = match checkpoint {
            Some(checkpoint) => (checkpoint.state, checkpoint.content.meter),
            None => (TrainerState::start(), Meter::default()),
        };
        state.plan(steps, steps.div_ceil(per_epoch), &cadence);
        state.train_batch_size = run.batch_size;
        let interrupt = Interrupt::listen()
            .map_err(|error| Error::failed(format!("cannot listen for Ctrl-C: {error}")))?;
        let flops_per_step = 6.0 * run.tokens_per_step() as f64 * parameters_in_layers(config);
        Ok(Trainer {
            run,
            session,
            cadence,
            state,
            meter,
            evaluation_is_due,
            interrupt,
            records,
            flops_per_step,
        })
    }

    /// Runs to the end and keeps what came out.
    fn finish(
        &self,
        mut trainer: Trainer,
        model: &Model,
        mut evaluator: Option<&mut Evaluator>,
    ) -> Result<Trained, Error> {
        if let Some(evaluator) = &mut evaluator {
            evaluator.interrupt = trainer.interrupt.clone();
        }
        let per_step = self.schedule.device_iterations() as u64;
        let updates = trainer.run.schedule.steps * per_step;
        let first = trainer.state.global_step * per_step;
        let mut onlooker = Onlooker {
            progress: Progress::starting_at(first, updates, self.output.logging_steps),
            evaluator,
            config: &model.config,
        };
        let outcome = trainer.run(&mut onlooker);
        onlooker.progress.finish();
        match outcome? {
            Ending::Complete => {}
            Ending::NoGain => note(format_args!(
                "stopped after step {}: the evaluation loss no longer falls",
                trainer.state.global_step
            )),
            Ending::Interrupted { checkpoint } => {
                return Err(interrupted(
                    trainer.state.global_step,
                    checkpoint.as_deref(),
                ));
            }
        }
        let overflows = trainer.run.loss_scale.overflows;
        if overflows > 0 {
            say(format_args!(
                "{overflows} updates skipped: their gradients overflowed; the loss scale is {} now",
                trainer.run.loss_scale.value
            ));
        }
        say(format_args!(
            "{} steps in {:.1} s here, {:.4} s on the simulated machine",
            trainer.state.global_step,
            trainer.meter.seconds,
            trainer.run.simulated_seconds * (trainer.state.global_step * per_step) as f64,
        ));
        let weights = trainer.session.weights(&model.config)?;
        if let Some(directory) = &self.output.output_dir {
            let tokenizer = trainer.records.as_ref().and_then(|r| r.tokenizer);
            check_finite(&weights, trainer.state.global_step)?;
            let kept = trainer.session.save_dtype();
            let dtype = self.output.save_dtype.unwrap_or(kept);
            save_pretrained(directory, &model.config, &weights, tokenizer, dtype)?;
            let per_step = trainer.run.order.samples_per_step();
            let samples = self.schedule.samples(trainer.run.blocks.len(), per_step);
            write_results(directory, &mut trainer, samples)?;
            say(format_args!("saved the model in {}", directory.display()));
        }
        Ok(Trained {
            weights,
            state: Some(trainer.state),
        })
    }
}

/// Progress at the terminal, and evaluations.
struct Onlooker<'a, 'e> {
    progress: Progress,
    evaluator: Option<&'a mut Evaluator<'e>>,
    config: &'a Gpt2Config,
}

impl Companion for Onlooker<'_, '_> {
    fn step(&mut self, metrics: &StepMetrics) {
        self.progress.step(metrics);
    }

    fn evaluate(&mut self, session: &Session) -> Result<Evaluation, Error> {
        let Some(evaluator) = &mut self.evaluator else {
            return Err(Error::usage(
                "evaluating needs --do_eval and a --validation_file",
            ));
        };
        let evaluation = evaluator.evaluate(&session.weights(self.config)?)?;
        self.progress.say(evaluator.line(&evaluation));
        Ok(evaluation)
    }

    fn saved(&mut self, checkpoint: &Path) {
        self.progress
            .say(format_args!("saved {}", checkpoint.display()));
    }
}

fn interrupted(step: u64, checkpoint: Option<&Path>) -> Error {
    Error::Interrupted(match checkpoint {
        Some(path) => format!(
            "interrupted after {step} steps; go on with --resume_from_checkpoint {}",
            path.display()
        ),
        None => format!("interrupted after {step} steps"),
    })
}

/// Parameters besides the embeddings, which Hugging Face's estimate leaves out.
fn parameters_in_layers(config: &Gpt2Config) -> f64 {
    let counted = config.parameters().into_iter();
    let counted = counted.filter(|p| !matches!(p.name.as_str(), "wte.weight" | "wpe.weight"));
    counted.map(|p| p.element_count() as f64).sum()
}

/// The results of training, and the state with them as its last log entry. `samples` are those of the whole run.
fn write_results(directory: &Path, trainer: &mut Trainer, samples: f64) -> Result<(), Error> {
    let (steps, seconds) = (trainer.state.global_step as f64, trainer.meter.seconds);
    let values = [
        ("total_flos", trainer.state.total_flos),
        ("train_loss", trainer.meter.loss_sum / steps.max(1.0)),
        ("train_runtime", rounded(seconds, 4)),
        ("train_samples_per_second", rounded(samples / seconds, 3)),
        ("train_steps_per_second", rounded(steps / seconds, 3)),
    ];
    trainer.state.log(&values);
    let mut map: Map<String, Value> = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    map.insert("epoch".into(), json!(rounded(trainer.state.epoch, 2)));
    map.insert("train_samples".into(), json!(trainer.run.blocks.len()));
    results::write(directory, "train", &map)?;
    write_state(directory, &trainer.state)
}

/// Writes `trainer_state.json`.
pub(super) fn write_state(directory: &Path, state: &TrainerState) -> Result<(), Error> {
    let path = directory.join(TRAINER_STATE_FILE);
    Ok(crate::atomic_file::write(
        &path,
        state.to_json().as_bytes(),
    )?)
}
