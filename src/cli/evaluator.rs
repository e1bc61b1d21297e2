//! A model's forward pass over held-out samples, compiled when it is first needed and then kept.

use std::sync::Arc;

use indicatif::ProgressBar;
use serde_json::{Map, Value};

use super::host_options::HostOptions;
use super::output::note;
use crate::compile::{ExecutableCache, Origin};
use crate::data::TokenBlocks;
use crate::error::Error;
use crate::evaluate::{Call, Evaluation, evaluate};
use crate::frontend::{Gpt2Config, Weights};
use crate::report::evaluation::EvaluationPace;
use crate::session::Session;
use crate::settings::EvaluationSettings;
use crate::train::Interrupt;

pub(super) struct Evaluator<'a> {
    config: &'a Gpt2Config,
    settings: EvaluationSettings,
    blocks: TokenBlocks,
    pub(super) host: HostOptions,
    pub(super) cache: ExecutableCache,
    /// Ends an evaluation between two calls.
    pub(super) interrupt: Interrupt,
    loaded: Option<(Session, EvaluationPace)>,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(
        config: &'a Gpt2Config,
        settings: EvaluationSettings,
        blocks: TokenBlocks,
    ) -> Evaluator<'a> {
        Evaluator {
            config,
            settings,
            blocks,
            host: HostOptions::default(),
            cache: ExecutableCache::default(),
            interrupt: Interrupt::default(),
            loaded: None,
        }
    }

    /// Loss and perplexity of these weights.
    ///
    /// # Errors
    /// [`Error::Interrupted`] as soon as the user wants an end, after the batch that is under way.
    pub(super) fn evaluate(&mut self, weights: &Weights) -> Result<Evaluation, Error> {
        let (interrupt, all) = (self.interrupt.clone(), self.blocks.len());
        let go_on = |done: usize| match interrupt.is_asked() {
            true => Err(Error::Interrupted(format!(
                "interrupted in an evaluation, after {done} of {all} samples"
            ))),
            false => Ok(()),
        };
        go_on(0)?;
        let (session, _) = match &mut self.loaded {
            Some(loaded) => {
                loaded.0.write_weights(weights)?;
                loaded
            }
            None => {
                let loaded = self.load(weights)?;
                self.loaded.insert(loaded)
            }
        };
        let fitted = self.settings.clone().at_most(self.blocks.len());
        let call = Call {
            batch_size: fitted.batch_size,
            micro_batches: fitted.micro_batches_per_call(),
        };
        let bar = ProgressBar::new(self.blocks.len() as u64);
        let result = evaluate(session, &self.blocks, call, &mut |done| {
            bar.set_position(done as u64);
            go_on(done)
        });
        bar.finish_and_clear();
        result
    }

    fn load(&self, weights: &Weights) -> Result<(Session, EvaluationPace), Error> {
        let fitted = self.settings.clone().at_most(self.blocks.len());
        let (program, origin) = self.cache.evaluation(self.config, &fitted)?;
        if let Origin::MadeAnew(reason) = origin {
            note(format_args!("the kept program cannot be used: {reason}"));
        }
        let pace = EvaluationPace::of(&program, &fitted);
        let (given, stages) = (self.settings.device_iterations, pace.stages());
        if given < stages {
            note(format_args!(
                "evaluation leaves IPUs idle: its pipeline has {stages} stages, and inference_device_iterations is {given}"
            ));
        }
        let session = Session::load(Arc::new(program), weights, &self.host.engine())?;
        Ok((session, pace))
    }

    /// What a call takes on the simulated machine, once something was evaluated.
    pub(super) fn pace(&self) -> Option<EvaluationPace> {
        self.loaded.as_ref().map(|(_, pace)| *pace)
    }

    /// The result in a line.
    pub(super) fn line(&self, evaluation: &Evaluation) -> String {
        format!(
            "eval_loss {:.4}   perplexity {:.3}   over {} samples of {} tokens",
            evaluation.eval_loss,
            evaluation.perplexity,
            evaluation.eval_samples,
            self.blocks.block_size(),
        )
    }

    /// The result as `eval_results.json` has it.
    pub(super) fn results(&self, evaluation: &Evaluation) -> Map<String, Value> {
        match serde_json::to_value(evaluation) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}
