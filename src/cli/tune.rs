//! `superstep tune`: the best plan of a whole pod for a model and a global batch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use super::model_options::ModelOptions;
use super::output::{check_writable_file, say};
use super::program_options::{OptimiserOptions, ProgramOptions, at_least_one};
use crate::atomic_file;
use crate::compile::save;
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::ipu_config::fields_of;
use crate::report::format::three_digits;
use crate::report::published::{published_beats, published_plan};
use crate::settings::TrainingSettings;
use crate::tune::{
    Outcome, Plan, Progress, Tuner, Tuning, ceiling, comparison, rejections, winners,
};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Samples of an optimiser step, over all replicas [default: those of the plan that the other options describe].
    #[arg(long = "global_batch", value_name = "N", value_parser = at_least_one::<usize>)]
    global_batch: Option<usize>,
    /// Seconds after which no further plan is compiled.
    #[arg(long = "time_limit", value_name = "SECONDS", default_value_t = 300)]
    time_limit: u64,
    /// How many of the best plans to list.
    #[arg(long = "plans", value_name = "N", default_value_t = 10)]
    plans: usize,
    /// The best plan: its executable, or an ipu_config.json.
    #[arg(short = 'o', long = "output", value_name = "OUT.superstep|OUT.json")]
    output: Option<PathBuf>,
    /// Also write what was found as JSON.
    #[arg(long = "json", value_name = "OUT")]
    json: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    program: ProgramOptions,
    #[command(flatten)]
    optimiser: OptimiserOptions,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        for path in [&self.output, &self.json].into_iter().flatten() {
            check_writable_file(path)?;
        }
        let model = self.model.load()?;
        let layout = self.program.ipu_layout(&model.config)?;
        let base = self
            .program
            .settings(&self.optimiser, &model.config, &layout)?;
        if base.print_ir_after.is_some() {
            return Err(Error::usage(
                "--print_ir_after is for one compilation, not for a search",
            ));
        }
        let samples = base.batch_size * base.accumulation as usize * base.replicas as usize;
        let global_batch = self.global_batch.unwrap_or(samples);
        let mut seeds = Vec::new();
        if base.layers_per_ipu.is_some() {
            seeds.extend(reference(&base, global_batch)?);
        }
        seeds.extend(published_plan(&model.config, &base, global_batch)?);
        seeds.dedup();
        let tuner = Tuner {
            name: &model.name,
            config: &model.config,
            base: &base,
            plans: &self.program.plan_cache.cache()?,
            global_batch,
            time_limit: Duration::from_secs(self.time_limit),
            seeds,
        };
        let mut bar = Bar::new();
        let tuning = tuner.run(&mut bar)?;
        bar.bar.finish_and_clear();
        self.show(&tuning, &model.config, &base)?;
        self.write(&tuning, &base)
    }

    fn show(
        &self,
        tuning: &Tuning,
        config: &Gpt2Config,
        base: &TrainingSettings,
    ) -> Result<(), Error> {
        let Some(best) = tuning.outcomes.first() else {
            say(rejections(tuning));
            return Err(Error::failed("no plan fits this machine").with_hint(
                "try a larger pod, a smaller --block_size, or optimiser state elsewhere",
            ));
        };
        let searched = if tuning.cut_short {
            "time was up before all was tried that promised more"
        } else {
            "nothing else promises more"
        };
        say(format_args!(
            "{} plans estimated, {} compiled and fit, in {:.0} s; {searched}\n",
            tuning.estimated,
            tuning.outcomes.len(),
            tuning.seconds,
        ));
        say(winners(tuning, &base.machine, self.plans));
        say(format_args!("\n{}", rejections(tuning)));
        if let Some(reference) = &tuning.reference {
            say(format_args!("\n{}", comparison(reference, best)));
            if let Some(ceiling) = ceiling(tuning) {
                say(ceiling);
            }
            for beat in published_beats(config, base, &reference.plan) {
                let rate = reference.rate_with_beat(beat.cycles, base);
                say(format_args!(
                    "the reference executed as published ({}): about {} samples/s, by an estimate with the same formulae; the best is {:.2} × that",
                    beat.meaning,
                    three_digits(rate),
                    best.samples_per_second / rate,
                ));
            }
        }
        say(format_args!(
            "\nbest: {} samples/s\n{}",
            three_digits(best.samples_per_second),
            best.plan.options()
        ));
        Ok(())
    }

    fn write(&self, tuning: &Tuning, base: &TrainingSettings) -> Result<(), Error> {
        if let Some(out) = &self.json {
            let text = serde_json::to_string_pretty(tuning)
                .map_err(|error| Error::failed(error.to_string()))?;
            atomic_file::write(out, text.as_bytes())?;
        }
        let (Some(out), Some(best), Some(winner)) =
            (&self.output, tuning.outcomes.first(), &tuning.winner)
        else {
            return Ok(());
        };
        if is_json(out) {
            let text = serde_json::to_string_pretty(&ipu_config(&best.plan, base))
                .map_err(|error| Error::failed(error.to_string()))?;
            atomic_file::write(out, format!("{text}\n").as_bytes())?;
        } else {
            save(winner, out)?;
        }
        say(format_args!("\nwrote {}", out.display()));
        Ok(())
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}

/// The plan that the options describe, with as many micro-batches as the global batch asks for.
fn reference(base: &TrainingSettings, global_batch: usize) -> Result<Option<Plan>, Error> {
    let samples = base.batch_size * base.replicas as usize;
    if !global_batch.is_multiple_of(samples) {
        return Err(Error::usage(format!(
            "--global_batch {global_batch} is not a multiple of {} samples in {} replicas",
            base.batch_size, base.replicas
        )));
    }
    Ok(base.layers_per_ipu.clone().map(|layers_per_ipu| Plan {
        layers_per_ipu,
        tensor_parallel: base.tensor_parallel,
        replicas: base.replicas,
        batch_size: base.batch_size,
        accumulation: (global_batch / samples) as u32,
        recompute: base.recompute.clone(),
        head_slices: base.head_slices,
        loss_chunks: base.loss_chunks,
        offchip: base.offchip,
    }))
}

/// As `ipu_config.json` has it. The size of micro-batches and row blocks are options beside it.
fn ipu_config(plan: &Plan, base: &TrainingSettings) -> Value {
    let settings = plan.settings(base);
    let fields =
        fields_of(&settings, &plan.layers_per_ipu).map(|(name, value)| (name.into(), value));
    let mut config: Map<String, Value> = fields.collect();
    config.insert("device_iterations".into(), 1.into());
    let shares = match &settings.matmul_proportion[..] {
        [] => None,
        [one] => Some(one.0.into()),
        each => Some(each.iter().map(|share| share.0).collect()),
    };
    config.extend(shares.map(|shares| ("matmul_proportion".into(), shares)));
    config.into()
}

/// A spinner with what is being tried; hidden by itself when stderr is no terminal.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Bar {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{elapsed} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Bar { bar }
    }
}

impl Progress for Bar {
    fn at(&mut self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    fn compiled(&mut self, outcome: &Outcome, is_best: bool) {
        let rate = three_digits(outcome.samples_per_second);
        let best = if is_best { ", the best so far" } else { "" };
        let plan = &outcome.plan;
        let groups = match plan.tensor_parallel {
            1 => String::new(),
            members => format!(" × {members}"),
        };
        self.bar.suspend(|| {
            say(format_args!(
                "{rate} samples/s{best}: {} × {:?}{groups}, micro-batches of {}",
                plan.replicas, plan.layers_per_ipu, plan.batch_size
            ));
        });
    }
}
