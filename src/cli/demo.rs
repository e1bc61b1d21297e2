//! `superstep demo`: the main job with nothing to prepare — compile a small GPT-2, look at it, train it on a novel, let it write.
//!
//! Text and tokenizer come with the program: Jane Austen's *Pride and Prejudice* and *Persuasion*, and GPT-2's tokenizer cut down to its
//! first merges, because the full vocabulary would make a small model nearly all embedding.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::generate::Continuation;
use super::host_options::HostOptions;
use super::output::{IrPrinter, prepare_directory, say};
use super::progress::Progress;
use crate::compile::{Compiled, PlanCache, compile_training, machine_named};
use crate::data::{SampleOrder, TokenBlocks, text_blocks};
use crate::error::Error;
use crate::frontend::{
    Gpt2Config, SaveDtype, Tokenizer, Weights, init_weights, preset, save_pretrained,
};
use crate::generate::Sampling;
use crate::ipu_config::OutputMode;
use crate::precision::Precision;
use crate::report::Report;
use crate::report::terminal::{pass_table, summary};
use crate::session::Session;
use crate::settings::{OptimiserSettings, TrainingSettings};
use crate::train::{Following, LossScale, LrScheduler, Schedule, TrainingRun, Warmup};

mod vocabulary;

const TEXT: &str = include_str!("../../tests/fixtures/text/austen.txt");
const SHAPE: &str = "n_layer=4,n_head=4,n_embd=128,n_positions=128,vocab_size=320,\
                     bos_token_id=319,eos_token_id=319,initializer_range=0.08,resid_pdrop=0,embd_pdrop=0,attn_pdrop=0";
const SEED: u64 = 42;
const BLOCK_SIZE: usize = 128;
const BATCH_SIZE: usize = 4;
const ACCUMULATION: u32 = 1;
const STEPS: u64 = 160;
const LEARNING_RATE: f64 = 2e-3;
const PROMPT: &str = "It was";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Machine: ipu, pod4, pod8, pod16, pod32, pod64, or a file that describes one; behind it what differs, as in pod4,tiles_per_ipu=256.
    #[arg(
        long = "machine",
        value_name = "NAME|FILE.toml[,KEY=VALUE…]",
        default_value = "ipu"
    )]
    machine: String,
    /// Optimiser steps.
    #[arg(long = "max_steps", value_name = "N", default_value_t = STEPS, value_parser = clap::value_parser!(u64).range(1..))]
    max_steps: u64,
    /// Keep the trained model in this folder.
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: Option<PathBuf>,
    #[command(flatten)]
    host: HostOptions,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        if let Some(directory) = &self.output_dir {
            prepare_directory(directory)?;
        }
        let config = config()?;
        let tokenizer = vocabulary::tokenizer(config.vocab_size)?;
        let blocks = text_blocks(
            TEXT,
            Path::new("austen.txt"),
            &tokenizer,
            BLOCK_SIZE,
            config.vocab_size,
        )?;

        say("compiling a small GPT-2");
        let start = Instant::now();
        let compiled = compile_training(
            "demo",
            &config,
            &self.settings()?,
            &PlanCache::none(),
            &mut IrPrinter,
        )?;
        let report = Report::new(&compiled)?;
        say(format_args!(
            "{}\nin {:.2} s\n",
            pass_table(&report),
            start.elapsed().as_secs_f64()
        ));
        say(summary(&report));

        say(format_args!(
            "\ntraining it on Jane Austen: {} samples of {BLOCK_SIZE} tokens, {} steps; every number is computed in tile memory",
            blocks.len(),
            self.max_steps,
        ));
        let start = Instant::now();
        let weights = self.train(&config, compiled, &report, &blocks)?;
        say(format_args!(
            "{:.1} s here; the simulated machine needs {:.3} s\n",
            start.elapsed().as_secs_f64(),
            report.time.seconds_per_update * self.max_steps as f64,
        ));

        self.write(&config, &weights, &tokenizer)?;
        if let Some(directory) = &self.output_dir {
            save_pretrained(
                directory,
                &config,
                &weights,
                Some(&tokenizer),
                SaveDtype::Float32,
            )?;
            say(format_args!("\nsaved the model in {}", directory.display()));
        }
        Ok(())
    }

    fn settings(&self) -> Result<TrainingSettings, Error> {
        let machine = machine_named(Some(&self.machine))?;
        Ok(TrainingSettings {
            accumulation: ACCUMULATION,
            optimiser: OptimiserSettings {
                weight_decay: 0.01,
                max_grad_norm: Some(1.0),
                ..OptimiserSettings::hugging_face()
            },
            ..TrainingSettings::plain(machine, BLOCK_SIZE, BATCH_SIZE)
        })
    }

    fn train(
        &self,
        config: &Gpt2Config,
        compiled: Compiled,
        report: &Report,
        blocks: &TokenBlocks,
    ) -> Result<Weights, Error> {
        let samples_per_step = compiled.manifest.samples_per_step();
        let order = SampleOrder::new(blocks.len(), samples_per_step, Some(SEED));
        let run = TrainingRun {
            blocks,
            order: order
                .ok_or_else(|| Error::failed("the text is shorter than one optimiser step"))?,
            schedule: Schedule::new(
                LrScheduler::Cosine,
                LEARNING_RATE,
                self.max_steps,
                Warmup::Ratio(0.1),
            ),
            batch_size: BATCH_SIZE,
            device_iterations: 1,
            output_mode: OutputMode::All,
            seed: SEED,
            replicas: 1,
            loss_scale: LossScale::starting_at(1.0),
            following: Following::Fixed,
            simulated_seconds: report.time.seconds_per_update,
        };
        let mut session = Session::load(
            Arc::new(compiled.program),
            &init_weights(config, SEED),
            &self.host.engine(),
        )?;
        let mut progress = Progress::new(self.max_steps, None);
        let outcome = run.run(&mut session, &mut |step| progress.step(step));
        progress.finish();
        outcome?;
        session.weights(config)
    }

    /// A few lines by the trained model.
    fn write(
        &self,
        config: &Gpt2Config,
        weights: &Weights,
        tokenizer: &Tokenizer,
    ) -> Result<(), Error> {
        say("what it writes now:");
        let continuation = Continuation {
            config,
            weights,
            tokenizer,
            machine: Some(&self.machine),
            host: self.host,
            precision: Precision::F32,
            max_new_tokens: Some(60),
            block_size: None,
            num_return_sequences: 1,
            batch_size: None,
            sampling: Sampling::Draw {
                temperature: 0.8,
                top_k: Some(40),
                top_p: None,
            },
            seed: SEED,
            plans: &PlanCache::none(),
        };
        continuation.print(&[PROMPT.to_owned()]).map(|_| ())
    }
}

fn config() -> Result<Gpt2Config, Error> {
    let base = preset("gpt2-tiny").ok_or_else(|| Error::failed("preset gpt2-tiny is missing"))?;
    Ok(base.with_overrides(SHAPE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_model_reads_the_demo_text() {
        let config = config().unwrap();
        let tokenizer = vocabulary::tokenizer(config.vocab_size).unwrap();
        let blocks = text_blocks(
            TEXT,
            Path::new("austen.txt"),
            &tokenizer,
            BLOCK_SIZE,
            config.vocab_size,
        )
        .unwrap();
        assert!(blocks.len() > 1000, "{}", blocks.len());
        let ids: Vec<u32> = blocks
            .gather(&[0])
            .unwrap()
            .iter()
            .map(|&id| id as u32)
            .collect();
        assert!(TEXT.starts_with(&tokenizer.decode(&ids).unwrap()));
    }
}
