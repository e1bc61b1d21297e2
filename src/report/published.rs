//! A prediction beside what was measured and published, and how the published execution would do in the same terms.
//!
//! Nothing is fitted to these measurements; they also hold what no program knows of, such as loading data on the host.

use serde::{Deserialize, Serialize};
use superstep_ir::machine::Machine;
use superstep_ir::machine::link_cost::streaming_cycles;
use superstep_ir::op::StateKind;
use superstep_ir::program::Program;
use superstep_passes::place::Recompute;

use super::pace::Pace;
use super::pod::PodReport;
use super::pod::Rates;
use crate::as_published::{Beat, Execution, GELU, MASKS, Plans, Rearrangement, Variant, estimate};
use crate::compile::Compiled;
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::manifest::Manifest;
use crate::settings::TrainingSettings;
use crate::tune::Plan;

const RUNS: &str = include_str!("published.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Runs {
    run: Vec<Run>,
    plan: Vec<PublishedPlan>,
}

/// Layers on each IPU for a model, with as many replicas as a pod has room for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedPlan {
    #[serde(rename = "source")]
    _source: String,
    n_layer: usize,
    n_embd: usize,
    ipus: u32,
    layers_per_ipu: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    name: String,
    source: String,
    samples_per_second: f64,
    milliseconds_per_pipeline_cycle_at_most: f64,
    /// What is in the measured time.
    holds: String,
    chip: String,
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    vocab_size: usize,
    block_size: usize,
    per_device_train_batch_size: usize,
    gradient_accumulation_steps: u32,
    replication_factor: u32,
    layers_per_ipu: Vec<u32>,
    matmul_proportion: f64,
    head_slices: usize,
    variant: RunVariant,
    precision: String,
    recompute: bool,
    replicated_tensor_sharding: bool,
    optimizer_state_offchip: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RunVariant {
    Transformers,
    Examples,
}

impl From<RunVariant> for Variant {
    fn from(variant: RunVariant) -> Variant {
        match variant {
            RunVariant::Transformers => Variant::Transformers,
            RunVariant::Examples => Variant::Examples,
        }
    }
}

/// A measured run beside the prediction for the same model, pipeline and batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub name: String,
    pub source: String,
    pub measured_samples_per_second: f64,
    pub measured_milliseconds_per_pipeline_cycle_at_most: f64,
    pub holds: String,
    pub predicted_samples_per_second: f64,
    pub predicted_milliseconds_per_pipeline_cycle: f64,
    /// Predicted over measured rate.
    pub ratio: f64,
    /// Settings in which the program differs from the run.
    pub differences: Vec<String>,
}

/// How the published style of execution would do with this pipeline: an estimate, not of this program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishedStyle {
    /// Whether this is the graph of the measured run.
    pub of_the_run: bool,
    /// With the planner's figure for rearranged operands.
    pub beat: Beat,
    /// With PopLibs' regression of measured rearrangements.
    pub slower_beat: Beat,
    /// Of a whole step: fill, main, flush, and this program's update with optimiser state off chip.
    pub samples_per_second: f64,
    pub slower_samples_per_second: f64,
    /// With other numbers of micro-batches.
    pub growth: Vec<StyleGrowth>,
}

/// Rates of the published style for a number of micro-batches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StyleGrowth {
    pub gradient_accumulation_steps: u32,
    pub samples_per_second: f64,
    pub slower_samples_per_second: f64,
}

fn runs() -> Result<Vec<Run>, Error> {
    Ok(table()?.run)
}

fn table() -> Result<Runs, Error> {
    toml::from_str(RUNS).map_err(|e| Error::failed(e.to_string()))
}

/// The plan that was published for a model on such a pod, if the global batch can be divided that way.
pub fn published_plan(
    config: &Gpt2Config,
    base: &TrainingSettings,
    global_batch: usize,
) -> Result<Option<Plan>, Error> {
    let plan = table()?.plan.into_iter().find(|plan| {
        let shape = (plan.n_layer, plan.n_embd, plan.ipus);
        shape == (config.n_layer, config.n_embd, base.machine.ipus)
    });
    Ok(plan.and_then(|plan| {
        let replicas = plan.ipus / plan.layers_per_ipu.len() as u32;
        let divides = global_batch.is_multiple_of(replicas as usize);
        divides.then(|| Plan {
            replicas,
            batch_size: 1,
            accumulation: (global_batch / replicas as usize) as u32,
            recompute: Recompute::EveryLayer,
            head_slices: base.head_slices,
            loss_chunks: None,
            offchip: true,
            tensor_parallel: 1,
            layers_per_ipu: plan.layers_per_ipu,
        })
    }))
}

impl Run {
    /// The same model, pipeline and batch.
    fn is_of(&self, machine: &Machine, config: &Gpt2Config, manifest: &Manifest) -> bool {
        let chip = Machine::preset(&self.chip);
        let same_chip = chip.is_some_and(|chip| {
            chip.tiles_per_ipu == machine.tiles_per_ipu && chip.clock_hz == machine.clock_hz
        });
        let shape = (
            config.n_layer,
            config.n_embd,
            config.n_head,
            config.vocab_size,
        );
        let batch = (
            manifest.block_size,
            manifest.per_device_train_batch_size,
            manifest.gradient_accumulation_steps,
            manifest.replicas,
        );
        same_chip
            && manifest.pipelined
            && shape == (self.n_layer, self.n_embd, self.n_head, self.vocab_size)
            && batch
                == (
                    self.block_size,
                    self.per_device_train_batch_size,
                    self.gradient_accumulation_steps,
                    self.replication_factor,
                )
            && manifest.layers_per_ipu == self.layers_per_ipu
    }

    fn differences(&self, program: &Program, manifest: &Manifest) -> Vec<String> {
        let mut found = Vec::new();
        let precision = manifest.precision.precision.name();
        if precision != self.precision {
            found.push(format!("precision {precision}, not {}", self.precision));
        }
        if (manifest.recompute == Recompute::EveryLayer) != self.recompute {
            found.push("other layers run forward again".into());
        }
        if manifest.sharded != self.replicated_tensor_sharding {
            found.push("optimiser state is not shared out over the replicas".into());
        }
        let mut states = program.states.iter();
        if self.optimizer_state_offchip
            && states.any(|s| s.kind == StateKind::OptimiserState && !s.remote)
        {
            found.push("optimiser state lies in tile memory, not in streaming memory".into());
        }
        let slices = manifest.embedding_serialization_factor;
        if slices != self.head_slices {
            found.push(format!(
                "the head works in {slices} slices of columns, not in {}",
                self.head_slices
            ));
        }
        if manifest.loss_chunks > 1 {
            let blocks = manifest.loss_chunks;
            found.push(format!(
                "the head works in {blocks} blocks of rows, not in one"
            ));
        }
        found
    }
}

/// The measured run of this model, pipeline and batch, if one was published.
pub(super) fn comparison(
    program: &Program,
    manifest: &Manifest,
    pace: &Pace,
    rates: &Rates,
) -> Result<Option<Comparison>, Error> {
    let config = manifest.model_config()?;
    let machine = &program.machine;
    let run = runs()?
        .into_iter()
        .find(|run| run.is_of(machine, &config, manifest));
    Ok(run.map(|run| Comparison {
        differences: run.differences(program, manifest),
        name: run.name,
        source: run.source,
        measured_samples_per_second: run.samples_per_second,
        measured_milliseconds_per_pipeline_cycle_at_most: run
            .milliseconds_per_pipeline_cycle_at_most,
        holds: run.holds,
        predicted_samples_per_second: rates.samples_per_second,
        predicted_milliseconds_per_pipeline_cycle: 1e3 * machine.seconds(pace.beat),
        ratio: rates.samples_per_second / run.samples_per_second,
    }))
}

/// What the published recipes set where a run does not say otherwise.
const MATMUL_PROPORTION: f64 = 0.25;
const HEAD_SLICES: usize = 4;

/// Estimates of the published style for a pipeline of halves; none for other programs, which nobody published.
pub(super) fn published_style(
    compiled: &Compiled,
    pod: &PodReport,
) -> Result<Vec<PublishedStyle>, Error> {
    let Compiled { manifest, program } = compiled;
    if !manifest.pipelined || !manifest.precision.precision.has_half_partials() {
        return Ok(vec![]);
    }
    let config = manifest.model_config()?;
    let machine = &program.machine;
    let run = runs()?
        .into_iter()
        .find(|run| run.is_of(machine, &config, manifest));
    let mut plans = Plans::new();
    let styles = Variant::ALL.map(|variant| {
        let mut execution = Execution {
            block_size: manifest.block_size,
            batch_size: manifest.per_device_train_batch_size,
            ..published_execution(machine, &config, &manifest.layers_per_ipu, variant)
        };
        if let Some(run) = &run {
            execution.matmul_proportion = run.matmul_proportion;
            execution.head_slices = run.head_slices;
        }
        let beat = estimate(&execution, &mut plans);
        let slower_beat = estimate(&execution.with_measured_rearrangement(), &mut plans);
        let rate = |beat: &Beat, micro_batches| published_rate(compiled, pod, beat, micro_batches);
        let own = pod.pipeline.micro_batches;
        let growth = pod.growth.iter().map(|row| {
            let n = row.gradient_accumulation_steps;
            StyleGrowth {
                gradient_accumulation_steps: n,
                samples_per_second: rate(&beat, n),
                slower_samples_per_second: rate(&slower_beat, n),
            }
        });
        PublishedStyle {
            of_the_run: run
                .as_ref()
                .is_some_and(|r| Variant::from(r.variant) == variant),
            samples_per_second: rate(&beat, own),
            slower_samples_per_second: rate(&slower_beat, own),
            growth: growth.collect(),
            beat,
            slower_beat,
        }
    });
    Ok(styles.into())
}

/// Samples a second of the published style: fill, main, flush, and this program's update with optimiser state that comes and goes.
fn published_rate(compiled: &Compiled, pod: &PodReport, beat: &Beat, micro_batches: u32) -> f64 {
    let Compiled { manifest, program } = compiled;
    let update = pod.pipeline.update_cycles as f64 + off_chip_cycles(program);
    let cycles = micro_batches + pod.pipeline.stages - 1;
    let cycles = f64::from(cycles) * beat.cycles as f64 + update;
    let samples = f64::from(micro_batches * program.replicas);
    samples * manifest.per_device_train_batch_size as f64 * program.machine.clock_hz / cycles
}

/// One sample of a model, as the published recipes execute it.
fn published_execution<'a>(
    machine: &'a Machine,
    config: &'a Gpt2Config,
    layers_per_ipu: &'a [u32],
    variant: Variant,
) -> Execution<'a> {
    Execution {
        machine,
        config,
        block_size: config.n_positions,
        batch_size: 1,
        layers_per_ipu,
        matmul_proportion: MATMUL_PROPORTION,
        head_slices: HEAD_SLICES,
        variant,
        recompute: true,
        rearrangement: Rearrangement::Planner,
    }
}

/// The beat of a plan in the published style of execution, for each published graph; none for plans that nobody published the like of.
pub fn published_beats(config: &Gpt2Config, base: &TrainingSettings, plan: &Plan) -> Vec<Beat> {
    let half_partials = base.precision.precision.has_half_partials();
    if plan.layers_per_ipu.len() < 2 || plan.tensor_parallel > 1 || !half_partials {
        return vec![];
    }
    let mut plans = Plans::new();
    let beats = Variant::ALL.map(|variant| {
        let execution = Execution {
            block_size: base.block_size,
            batch_size: plan.batch_size,
            recompute: plan.recompute != Recompute::Nothing,
            ..published_execution(&base.machine, config, &plan.layers_per_ipu, variant)
        };
        estimate(&execution, &mut plans)
    });
    beats.into()
}

/// Why a measured pipeline cycle takes longer than a predicted one, and how much of it that may be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    pub cause: &'static str,
    pub milliseconds: f64,
}

/// Candidate causes of the difference between this program and the run, each estimated where it can be; the last is what they leave.
pub(super) fn candidates(compiled: &Compiled, pod: &PodReport) -> Vec<Candidate> {
    let Some(run) = &pod.published else {
        return vec![];
    };
    let of = |variant| {
        pod.published_style
            .iter()
            .find(|s| s.beat.variant == variant)
    };
    let (Some(traced), Some(fused)) = (of(Variant::Transformers), of(Variant::Examples)) else {
        return vec![];
    };
    let machine = &compiled.program.machine;
    let ms = |cycles: f64| 1e3 * cycles / machine.clock_hz;
    let more = |name| traced.beat.part(name) as f64 - fused.beat.part(name) as f64;
    let own = pod.beat.cycles as f64;
    let mut found = vec![
        (
            "gelu_new op by op, with PopLibs' vertex for powers",
            ms(more(GELU)),
        ),
        ("scores divided, and masked by selects", ms(more(MASKS))),
        (
            "PopLibs' plans, one compute set an op, all layers run forward twice",
            ms(fused.beat.cycles as f64 - own),
        ),
        (
            "operands rearranged at the rate of PopLibs' regression",
            ms(traced.slower_beat.cycles as f64 - traced.beat.cycles as f64),
        ),
        (
            "optimiser state loaded from streaming memory and stored, an update's share",
            ms(off_chip_cycles(&compiled.program)) / f64::from(pod.pipeline.pipeline_cycles.max(1)),
        ),
    ];
    let known: f64 = found.iter().map(|c| c.1).sum();
    let measured = run.measured_milliseconds_per_pipeline_cycle_at_most;
    found.push((
        "left over: data loaded on the host, checkpoints, vertices in C++, code not outlined",
        measured - ms(own) - known,
    ));
    let candidate = |(cause, milliseconds)| Candidate {
        cause,
        milliseconds,
    };
    found.into_iter().map(candidate).collect()
}

/// Cycles that an update would take longer if optimiser state that lies on tiles came from streaming memory and went back, every replica a part:
/// those of the IPU with most of it.
fn off_chip_cycles(program: &Program) -> f64 {
    let mut by_ipu = vec![0u64; program.ipus as usize];
    for state in &program.states {
        let variable = program.variable(state.variable);
        let ipu = program.grid(variable.grid).ipu.index();
        if state.kind == StateKind::OptimiserState
            && !state.remote
            && let Some(sum) = by_ipu.get_mut(ipu)
        {
            let parts = if state.sharded {
                1
            } else {
                program.replicas.max(1)
            };
            *sum += variable.ty.bytes() as u64 / u64::from(parts);
        }
    }
    let bytes = by_ipu.into_iter().max().unwrap_or(0);
    2.0 * streaming_cycles(&program.machine, bytes) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_measurements_reads_and_its_machines_are_known() {
        let runs = runs().unwrap();
        assert!(!runs.is_empty());
        for run in runs {
            assert!(Machine::preset(&run.chip).is_some(), "{}", run.chip);
            assert!(!run.source.is_empty() && run.samples_per_second > 0.0);
            // What is measured cannot be faster than its pipeline cycles allow.
            let stages = superstep_passes::stage::stage_count(&run.layers_per_ipu);
            let cycles = f64::from(run.gradient_accumulation_steps + stages - 1);
            let samples = f64::from(run.gradient_accumulation_steps * run.replication_factor);
            let milliseconds = 1e3 * samples / run.samples_per_second / cycles;
            let most = run.milliseconds_per_pipeline_cycle_at_most;
            assert!((milliseconds / most - 1.0).abs() < 0.01, "{milliseconds}");
        }
    }
}
