//! `superstep train`: compile or load a program, run it over the data, keep the weights.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::evaluator::Evaluator;
use super::inference_options::InferenceOptions;
use super::ipu_options::IpuLayout;
use super::model_options::{Model, ModelOptions};
use super::output::{IrPrinter, note, prepare_directory, say, say_origin};
use super::program_options::{OptimiserOptions, ProgramOptions};
use crate::compile::{Compiled, ExecutableCache, open};
use crate::data::{DataError, SampleOrder, TokenBlocks};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::settings::EvaluationSettings;
use crate::train::results;
use crate::train::state::rounded;
use options::{DataOptions, OutputOptions, ScheduleOptions};
use run::{Trained, write_state};

mod announce;
mod carried_out;
mod options;
mod resume;
mod run;
mod samples;

#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    program: ProgramOptions,
    /// A compiled program; without --model_name_or_path its model is initialised from --seed.
    #[arg(long = "executable", value_name = "FILE")]
    executable: Option<PathBuf>,
    #[command(flatten)]
    optimiser: OptimiserOptions,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    schedule: ScheduleOptions,
    #[command(flatten)]
    inference: InferenceOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        self.output.check()?;
        if let Some(directory) = &self.output.output_dir {
            prepare_directory(directory)?;
            self.check_replaces_no_model(directory)?;
        }
        let (model, loaded) = self.model_and_executable()?;
        let layout = match &loaded {
            Some(_) => IpuLayout::default(),
            None => self.program.ipu_layout(&model.config)?,
        };
        self.filled(&layout).run_model(&model, loaded, &layout)
    }

    /// These options, with what they leave open taken from an IPU configuration.
    fn filled(&self, layout: &IpuLayout) -> Options {
        let mut filled = self.clone();
        let ipu = &layout.settings;
        filled.schedule.fill(ipu);
        filled.inference.fill(ipu);
        let cache = &mut filled.output.executable_cache_dir;
        *cache = cache.take().or_else(|| ipu.executable_cache_dir.clone());
        filled
    }

    fn run_model(
        &self,
        model: &Model,
        loaded: Option<Compiled>,
        layout: &IpuLayout,
    ) -> Result<(), Error> {
        let weights = model.weights(self.schedule.seed)?;
        let block_size = loaded
            .as_ref()
            .map(|c| c.manifest.block_size)
            .or(self.program.block_size);
        let (blocks, validation) = self.samples(model, block_size)?;
        let compiled = match loaded {
            Some(compiled) => compiled,
            None => self.compile(model, blocks.block_size(), layout)?,
        };
        let mut evaluator = validation
            .map(|validation| self.evaluator(model, &compiled, layout, validation))
            .transpose()?;
        let trained = if self.output.do_train {
            self.train(
                model,
                layout,
                compiled,
                weights,
                &blocks,
                evaluator.as_mut(),
            )?
        } else {
            Trained {
                weights,
                state: None,
            }
        };
        if let Some(evaluator) = &mut evaluator {
            self.final_evaluation(evaluator, trained)?;
        }
        Ok(())
    }

    /// Evaluates where it was trained.
    fn evaluator<'m>(
        &self,
        model: &'m Model,
        compiled: &Compiled,
        layout: &IpuLayout,
        validation: TokenBlocks,
    ) -> Result<Evaluator<'m>, Error> {
        let manifest = &compiled.manifest;
        let pipelined = self.program.pipeline.unwrap_or(layout.config.is_some());
        let mut open = EvaluationSettings::new(
            compiled.program.machine.clone(),
            manifest.precision.precision,
            validation.block_size(),
            self.output.eval_batch_size,
        );
        open.pipelined = pipelined || manifest.pipelined;
        open.tensor_parallel = manifest.tensor_parallel;
        let layers = Some(&manifest.layers_per_ipu[..]).filter(|_| manifest.pipelined);
        let settings = self.inference.apply(&layout.settings, layers, open);
        settings.check()?;
        let validation = self.whole_batches(validation, settings.samples_per_call())?;
        let mut evaluator = Evaluator::new(&model.config, settings, validation);
        evaluator.host = self.output.host;
        evaluator.cache = self.cache()?;
        Ok(evaluator)
    }

    /// Evaluates what was trained; its values are a file of their own and the last entry of the log.
    fn final_evaluation(&self, evaluator: &mut Evaluator, trained: Trained) -> Result<(), Error> {
        let evaluation = evaluator.evaluate(&trained.weights)?;
        if let Some(pace) = evaluator.pace() {
            say(format_args!("evaluation on {pace}"));
        }
        say(evaluator.line(&evaluation));
        let Some(directory) = &self.output.output_dir else {
            return Ok(());
        };
        let mut values = evaluator.results(&evaluation);
        if let Some(mut state) = trained.state {
            values.insert("epoch".into(), json!(rounded(state.epoch, 2)));
            state.log(&evaluation.log_values());
            write_state(directory, &state)?;
        }
        results::write(directory, "eval", &values)
    }

    /// The model of the command line, or the one inside the executable.
    fn model_and_executable(&self) -> Result<(Model, Option<Compiled>), Error> {
        let Some(path) = &self.executable else {
            return Ok((self.model.load()?, None));
        };
        let compiled = open(path)?;
        let manifest = &compiled.manifest;
        self.program
            .agree_with(manifest, &compiled.program.machine.name)?;
        self.optimiser.agree_with(&manifest.optimiser)?;
        let config = manifest.model_config()?;
        let model = match self.model.is_given() {
            true => self.model.load()?,
            false => self.model.of_shape(&manifest.model, config.clone())?,
        };
        let differences = model.config.differences(&config).into_iter();
        let differences: Vec<String> = differences
            .map(|(field, here, there)| format!("`{field}` is {here} here and {there} there"))
            .collect();
        if !differences.is_empty() {
            let message = format!(
                "{} is another model than the one compiled into {}: {}",
                model.name,
                path.display(),
                differences.join(", ")
            );
            return Err(Error::failed(message).with_hint("compile it with `superstep compile`"));
        }
        Ok((model, Some(compiled)))
    }

    fn compile(
        &self,
        model: &Model,
        block_size: usize,
        layout: &IpuLayout,
    ) -> Result<Compiled, Error> {
        let mut settings = self
            .program
            .settings(&self.optimiser, &model.config, layout)?;
        settings.block_size = block_size;
        settings.precision.loss_scaling |= self.schedule.loss_scaling.is_some();
        let start = Instant::now();
        let (compiled, origin) =
            self.cache()?
                .training(&model.name, &model.config, &settings, &mut IrPrinter)?;
        say_origin(&origin, start.elapsed().as_secs_f64());
        Ok(compiled)
    }

    fn cache(&self) -> Result<ExecutableCache, Error> {
        Ok(ExecutableCache {
            directory: self.output.executable_cache_dir.clone(),
            plans: self.program.plan_cache.cache()?,
        })
    }

    pub(super) fn order(
        &self,
        blocks: &TokenBlocks,
        manifest: &Manifest,
    ) -> Result<SampleOrder, Error> {
        let device_iterations = self.schedule.device_iterations();
        let needed = manifest
            .samples_per_step()
            .saturating_mul(device_iterations);
        let seed = self.data.shuffle.then_some(self.schedule.seed);
        let order = SampleOrder::new(blocks.len(), needed, seed).ok_or_else(|| {
            DataError::TooFewSamples {
                path: blocks.path().to_path_buf(),
                samples: blocks.len(),
                batch: manifest.per_device_train_batch_size,
                accumulation: manifest.gradient_accumulation_steps as usize,
                replicas: manifest.replicas as usize,
                device_iterations,
            }
        })?;
        if order.left_out() > 0 {
            note(format_args!(
                "{} of {} samples are left out of each epoch: they do not fill an optimiser step of {needed}",
                order.left_out(),
                blocks.len(),
            ));
        }
        Ok(order)
    }
}
