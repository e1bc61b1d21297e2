//! The search for the best plan of a whole pod: how many replicas of how many IPUs, which layers on which IPU or group of IPUs, how large a micro-batch, which
//! layers run forward again, in how many slices of the vocabulary and blocks of rows the head works, where optimiser state lies.
//!
//! A small *probe* of the model, one layer behind an embedding and a head, is compiled for each size of micro-batch and of groups; from its cycles and bytes
//! every plan of the space is estimated ([`probe`], [`space`]). The best by estimate are then compiled, and what is said of a plan in the end
//! is said of its compiled program ([`search`]).

mod neighbours;
mod probe;
mod search;
mod space;
mod table;

use serde::Serialize;
use superstep_ir::program::Program;
use superstep_passes::place::Recompute;
use superstep_runtime::timeline::{Timeline, timeline};

use crate::compile::Compiled;
use crate::report::format::number_list;
use crate::report::memory::MemoryReport;
use crate::report::pace::{Pace, beat};
use crate::settings::{TrainingSettings, fitting};

pub use search::{Ceiling, Progress, Tuner, Tuning};
pub use table::{ceiling, comparison, rejections, winners};

/// A way to train on a pod. Micro-batches, replicas and their size multiply to the global batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub layers_per_ipu: Vec<u32>,
    /// IPUs of each group that `layers_per_ipu` names.
    pub tensor_parallel: u32,
    pub replicas: u32,
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of an update.
    pub accumulation: u32,
    pub recompute: Recompute,
    /// Slices of the vocabulary in which the head works.
    pub head_slices: usize,
    /// Row blocks of head and loss; absent: found by the compiler.
    pub loss_chunks: Option<usize>,
    /// Optimiser state lies in streaming memory.
    pub offchip: bool,
}

impl Plan {
    pub fn ipus_per_replica(&self) -> u32 {
        self.layers_per_ipu.len() as u32 * self.tensor_parallel
    }

    /// `base` with this plan in it. Optimiser state is shared out as soon as there is somebody to share with.
    pub fn settings(&self, base: &TrainingSettings) -> TrainingSettings {
        TrainingSettings {
            layers_per_ipu: Some(self.layers_per_ipu.clone()),
            tensor_parallel: self.tensor_parallel,
            replicas: self.replicas,
            batch_size: self.batch_size,
            accumulation: self.accumulation,
            recompute: self.recompute.clone(),
            head_slices: self.head_slices,
            loss_chunks: self.loss_chunks,
            pipelined: self.ipus_per_replica() > 1,
            sharded: self.replicas > 1,
            offchip: self.offchip,
            matmul_proportion: fitting(&base.matmul_proportion, self.layers_per_ipu.len()),
            ..base.clone()
        }
    }

    /// The options of `superstep compile` and `train` that give it.
    pub fn options(&self) -> String {
        let recompute = recompute_option(&self.recompute);
        let chunks = match self.loss_chunks {
            Some(chunks) => format!(" --loss_chunks {chunks}"),
            None => String::new(),
        };
        let members = match self.tensor_parallel {
            1 => String::new(),
            members => format!(" --tensor_parallel {members}"),
        };
        format!(
            "--layers_per_ipu \"{}\"{members} --pipeline {} --replication_factor {} --replicated_tensor_sharding {} \
             --per_device_train_batch_size {} --gradient_accumulation_steps {} --optimizer_state_offchip {} --embedding_serialization_factor {} --recompute {recompute}{chunks}",
            number_list(&self.layers_per_ipu),
            self.ipus_per_replica() > 1,
            self.replicas,
            self.replicas > 1,
            self.batch_size,
            self.accumulation,
            self.offchip,
            self.head_slices,
        )
    }
}

/// The value of `--recompute`, as a shell takes it.
pub fn recompute_option(recompute: &Recompute) -> String {
    match recompute {
        Recompute::Nothing => "none".to_owned(),
        Recompute::EveryLayer => "all".to_owned(),
        Recompute::Layers(layers) => format!("\"{}\"", number_list(layers)),
        Recompute::ButProducts(kept) => format!("\"all keep {}\"", number_list(kept)),
    }
}

/// A plan as it was compiled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub plan: Plan,
    pub samples_per_second: f64,
    pub cycles_per_update: u64,
    /// One cycle of the full pipeline, or one micro-batch.
    pub beat_cycles: u64,
    pub fullest_tile: u64,
    /// Row blocks of head and loss, as compiled.
    pub loss_chunks: usize,
    pub factors: Factors,
}

/// What a rate is the product of: `ipus · clock / work · balance · steady`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Factors {
    pub ipus: u32,
    /// Cycles of all IPUs of a replica for a sample, in the steady state.
    pub work: f64,
    /// Of them those of ops that run forward again.
    pub again: f64,
    /// Part of the beat in which the mean IPU works: the rest it waits for others and for links.
    pub balance: f64,
    /// Beats of the update's micro-batches over all its cycles: the rest fills and empties the pipeline, and updates.
    pub steady: f64,
}

impl Outcome {
    /// Samples a second if every cycle of the pipeline took as long as another beat.
    pub fn rate_with_beat(&self, beat: u64, base: &TrainingSettings) -> f64 {
        let plan = &self.plan;
        let stages = match plan.layers_per_ipu.len() {
            1 => 1,
            _ => superstep_passes::stage::stage_count(&plan.layers_per_ipu),
        };
        let beats = f64::from(plan.accumulation + stages - 1);
        let longer = beats * (beat as f64 - self.beat_cycles as f64);
        let samples = plan.batch_size as f64 * f64::from(plan.accumulation * plan.replicas);
        samples * base.machine.clock_hz / (self.cycles_per_update as f64 + longer).max(1.0)
    }

    pub fn of(plan: Plan, compiled: &Compiled) -> Outcome {
        let Compiled { manifest, program } = compiled;
        let time = timeline(program);
        let pace = Pace::of(&time, manifest);
        Outcome {
            samples_per_second: manifest.samples_per_step() as f64 / time.seconds(),
            cycles_per_update: pace.cycles,
            beat_cycles: pace.beat,
            fullest_tile: MemoryReport::new(program).max_tile_bytes(),
            loss_chunks: manifest.loss_chunks,
            factors: factors(&plan, compiled, program, &time, &pace),
            plan,
        }
    }
}

fn factors(
    plan: &Plan,
    compiled: &Compiled,
    program: &Program,
    time: &Timeline,
    pace: &Pace,
) -> Factors {
    let samples = plan.batch_size as f64;
    let micro_batches = f64::from(pace.micro_batches.max(1));
    let steady = beat(time, &compiled.manifest);
    let busy: u64 = steady.map_or(0, |b| b.ipus.iter().map(|ipu| ipu.total()).sum());
    let again: u64 = program
        .origins
        .iter()
        .zip(&time.origins)
        .filter(|(origin, _)| origin.phase == superstep_ir::graph::Phase::Recompute)
        .map(|(_, account)| account.cycles.total())
        .sum();
    let ipus = f64::from(program.ipus);
    Factors {
        ipus: program.ipus * program.replicas,
        work: busy as f64 / samples,
        again: again as f64 / micro_batches / samples,
        balance: busy as f64 / (ipus * pace.beat.max(1) as f64),
        steady: micro_batches * pace.beat as f64 / pace.cycles.max(1) as f64,
    }
}
