//! The pod in a training step: the pipeline and its beat, what each IPU does in it, what passes over links, host and streaming memory,
//! and the rates, use and energy that follow. All of it from the program and its timeline.

use std::collections::BTreeSet;

use serde::Serialize;
use superstep_ir::graph::Phase;
use superstep_ir::machine::codelet_cost::matmul::peak_macs;
use superstep_ir::machine::link_cost::ReplicaRing;
use superstep_ir::program::{CollectiveKind, Direction, Program, RemoteDirection, Step};
use superstep_ir::types::DType;
use superstep_runtime::timeline::{Kind, Timeline};

use super::classes::{ByCause, by_cause};
use super::pace::{Pace, beat, part_cycles};
use super::published::{
    Candidate, Comparison, PublishedStyle, candidates, comparison, published_style,
};
use super::sensitivity::{Sensitivity, sensitivity};
use crate::compile::Compiled;
use crate::error::Error;
use crate::manifest::Manifest;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PodReport {
    pub replicas: u32,
    pub ipus_per_replica: u32,
    /// In the order in which a micro-batch passes through them.
    pub stages: Vec<StageReport>,
    pub pipeline: PipelineReport,
    pub beat: BeatReport,
    /// Over a whole optimiser step, update included.
    pub step: Vec<IpuShare>,
    pub traffic: TrafficReport,
    /// How replicas pass messages round; absent for one replica.
    pub ring: Option<RingReport>,
    pub rates: Rates,
    pub energy: Energy,
    /// The same program with other numbers of micro-batches.
    pub growth: Vec<Growth>,
    /// A published measurement of such a run, if there is one.
    pub published: Option<Comparison>,
    /// The published style of execution with this pipeline, of each published graph; an estimate, not of this program.
    pub published_style: Vec<PublishedStyle>,
    /// What may make the published run slower than this program.
    pub candidates: Vec<Candidate>,
    /// How far the prediction moves with each uncertain number of the machine.
    pub sensitivity: Vec<Sensitivity>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageReport {
    /// The first IPU of the stage, and how many share its layers.
    pub ipu: u32,
    pub ipus: u32,
    pub phase: &'static str,
    /// Decoder layers, by index.
    pub layers: Vec<u32>,
}

/// The pipeline cycles of a step, and their lengths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PipelineReport {
    /// Whether IPUs work at the same time, each on another micro-batch.
    pub pipelined: bool,
    /// Stages, forward and backward; 1 without a pipeline.
    pub stages: u32,
    pub micro_batches: u32,
    /// `micro_batches + stages − 1`.
    pub pipeline_cycles: u32,
    pub fill_cycles: u64,
    /// Of all cycles in which every stage runs.
    pub main_cycles: u64,
    pub flush_cycles: u64,
    /// Reduction over replicas, update, and all else outside the pipeline.
    pub update_cycles: u64,
}

/// One cycle of the full pipeline: what a micro-batch takes in the long run. Without a pipeline one micro-batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BeatReport {
    pub cycles: u64,
    pub seconds: f64,
    /// What the IPUs do together: transfers over links, and the barrier before them.
    pub shared_cycles: u64,
    /// `cycles` by cause, those of the IPU that the others wait for.
    pub ledger: ByCause,
    pub ipus: Vec<IpuShare>,
}

/// What an IPU does by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IpuShare {
    pub ipu: u32,
    pub busy_cycles: u64,
    /// Waiting for other IPUs, and transfers in which several take part.
    pub waiting_cycles: u64,
    /// `busy_cycles` by cause.
    pub ledger: ByCause,
}

/// Bytes of a step, of one replica.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrafficReport {
    /// Of values that stages pass on over links, in a beat.
    pub link_bytes_per_beat: u64,
    /// Of values that the IPUs of groups pass to each other inside of their stages, in a beat.
    pub group_bytes_per_beat: u64,
    /// What collectives of an update reduce or gather: the whole tensors.
    pub collective_bytes: u64,
    pub collectives: u32,
    /// Cycles of collectives on the IPU that has most.
    pub collective_cycles: u64,
    /// Between host and IPUs, by micro-batch and outside of them.
    pub host_bytes_in: u64,
    pub host_bytes_out: u64,
    pub host_cycles: u64,
    /// Between streaming memory and IPUs: loads, stores, and the cycles of the IPU with most.
    pub streaming_bytes_in: u64,
    pub streaming_bytes_out: u64,
    pub streaming_cycles: u64,
}

/// The ring on the links (mk2.md §1.5).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RingReport {
    pub neighbours: String,
    pub links: String,
    /// What one IPU sends in a second while all others do the same.
    pub bytes_per_second: f64,
}

/// Rates of all replicas, and how well the IPUs are used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    pub samples_per_second: f64,
    pub tokens_per_second: f64,
    /// Of products, forward and backward, of one sample.
    pub model_flops_per_sample: f64,
    /// The same with what recomputation does again.
    pub executed_flops_per_sample: f64,
    /// Operations a second at the peak of the matrix unit, all IPUs in use.
    pub peak_flops_per_second: f64,
    /// Model FLOPs of the time over the peak: MFU.
    pub model_flops_utilisation: f64,
    /// Executed FLOPs over the peak.
    pub hardware_flops_utilisation: f64,
}

/// An estimate from public figures of power: boxes were measured under other loads, and idle IPUs draw less.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Energy {
    pub estimate: bool,
    pub watts_per_ipu: f64,
    pub ipus: u32,
    pub joules_per_update: f64,
    pub joules_per_sample: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Growth {
    pub gradient_accumulation_steps: u32,
    pub pipeline_cycles: u32,
    pub seconds_per_update: f64,
    pub samples_per_second: f64,
    /// Of the rate that only beats would give.
    pub efficiency: f64,
}

impl PodReport {
    pub(super) fn new(
        program: &Program,
        manifest: &Manifest,
        timeline: &Timeline,
    ) -> Result<PodReport, Error> {
        let pace = Pace::of(timeline, manifest);
        let rates = rates(program, manifest, timeline);
        let beat = beat_report(program, manifest, timeline);
        let pipeline = pipeline(manifest, timeline, &pace);
        Ok(PodReport {
            replicas: program.replicas,
            ipus_per_replica: program.ipus,
            stages: stages(manifest),
            step: shares(
                timeline.cycles.total(),
                timeline.procedures.get(program.entry.index()),
            ),
            traffic: traffic(program, timeline),
            ring: (program.replicas > 1).then(|| ring(program)),
            energy: energy(program, manifest, timeline),
            growth: growth(program, manifest, &pace),
            published: comparison(program, manifest, &pace, &rates)?,
            published_style: vec![],
            candidates: vec![],
            sensitivity: vec![],
            pipeline,
            beat,
            rates,
        })
    }
}

impl PodReport {
    /// Adds estimates of the published style of execution: it plans some twenty products, which takes seconds.
    pub fn estimate_published_style(&mut self, compiled: &Compiled) -> Result<(), Error> {
        self.published_style = published_style(compiled, self)?;
        self.candidates = candidates(compiled, self);
        Ok(())
    }

    /// Adds how far the prediction moves with the machine's uncertain numbers: two timelines each.
    pub fn vary_the_machine(&mut self, compiled: &Compiled) -> Result<(), Error> {
        self.sensitivity = sensitivity(compiled, self.rates.samples_per_second)?;
        Ok(())
    }
}

/// Forward through the IPUs that have layers (or groups of them), from embedding to head on IPU 0, and backward in reverse: the head is undone in
/// its own stage.
fn stages(manifest: &Manifest) -> Vec<StageReport> {
    let stage = |group: usize, phase, layers| StageReport {
        ipu: group as u32 * manifest.tensor_parallel,
        ipus: manifest.tensor_parallel,
        phase,
        layers,
    };
    let (mut first, mut groups) = (0, Vec::new());
    for (group, &count) in manifest.layers_per_ipu.iter().enumerate() {
        if group == 0 || count > 0 {
            groups.push((group, (first..first + count).collect::<Vec<u32>>()));
        }
        first += count;
    }
    let way = |phase| {
        let groups = groups.iter();
        groups.map(move |(group, layers)| stage(*group, phase, layers.clone()))
    };
    let head = (groups.len() > 1).then(|| stage(0, "forward", Vec::new()));
    let backward = way("backward").rev();
    way("forward").chain(head).chain(backward).collect()
}

fn pipeline(manifest: &Manifest, timeline: &Timeline, pace: &Pace) -> PipelineReport {
    let [fill, flush] = ["fill", "flush"].map(|part| part_cycles(timeline, part));
    let times = beat(timeline, manifest).map_or(0, |p| p.times);
    let main = pace.beat.saturating_mul(times);
    PipelineReport {
        pipelined: manifest.pipelined,
        stages: pace.stages,
        micro_batches: pace.micro_batches,
        pipeline_cycles: pace.pipeline_cycles(pace.micro_batches),
        fill_cycles: fill,
        main_cycles: main,
        flush_cycles: flush,
        update_cycles: pace.cycles.saturating_sub(fill + main + flush),
    }
}

fn beat_report(program: &Program, manifest: &Manifest, timeline: &Timeline) -> BeatReport {
    let time = beat(timeline, manifest);
    let cycles = time.map_or(0, |t| t.cycles.total());
    BeatReport {
        cycles,
        seconds: program.machine.seconds(cycles),
        shared_cycles: if manifest.pipelined {
            time.map_or(0, |t| t.shared_cycles)
        } else {
            0
        },
        ledger: time.map(|t| by_cause(&t.ledger)).unwrap_or_default(),
        ipus: shares(cycles, time),
    }
}

fn shares(cycles: u64, time: Option<&superstep_runtime::timeline::ProcedureTime>) -> Vec<IpuShare> {
    let ipus = time.map(|t| t.ipus.as_slice()).unwrap_or_default();
    let share = |(ipu, ledger): (usize, &superstep_runtime::timeline::Ledger)| IpuShare {
        ipu: ipu as u32,
        busy_cycles: ledger.total(),
        waiting_cycles: cycles.saturating_sub(ledger.total()),
        ledger: by_cause(ledger),
    };
    ipus.iter().enumerate().map(share).collect()
}

fn traffic(program: &Program, timeline: &Timeline) -> TrafficReport {
    let mut collectives = BTreeSet::new();
    let mut stores = BTreeSet::new();
    let mut index = 0;
    program.walk(&mut |step, _| {
        if let Step::Remote {
            direction: RemoteDirection::Store,
            ..
        } = step
        {
            stores.insert(index);
        }
        if matches!(step, Step::Collective(c) if c.kind != CollectiveKind::Shard) {
            collectives.insert(index);
        }
        index += 1;
    });
    let mut report = TrafficReport {
        link_bytes_per_beat: 0,
        group_bytes_per_beat: 0,
        collective_bytes: 0,
        collectives: collectives.len() as u32,
        collective_cycles: 0,
        host_bytes_in: 0,
        host_bytes_out: 0,
        host_cycles: timeline.cycles.host,
        streaming_bytes_in: 0,
        streaming_bytes_out: 0,
        streaming_cycles: 0,
    };
    let mut by_ipu = vec![0; program.ipus as usize];
    let mut streaming = vec![0; program.ipus as usize];
    for step in &timeline.steps {
        if collectives.contains(&step.index) {
            report.collective_bytes += step.bytes * step.times;
            if let Some(sum) = step.ipu.and_then(|i| by_ipu.get_mut(i as usize)) {
                *sum += step.cycles * step.times;
            }
        } else if step.kind == Kind::InterIpu && step.name.ends_with(".main.copies") {
            report.link_bytes_per_beat += step.bytes;
        } else if step.kind == Kind::InterIpu
            && step.name.ends_with(".links")
            && step.name.contains(".round.")
        {
            report.group_bytes_per_beat += step.bytes;
        } else if step.kind == Kind::Streaming {
            let bytes = step.bytes * step.times;
            if stores.contains(&step.index) {
                report.streaming_bytes_out += bytes;
            } else {
                report.streaming_bytes_in += bytes;
            }
            if let Some(sum) = step.ipu.and_then(|i| streaming.get_mut(i as usize)) {
                *sum += step.cycles * step.times;
            }
        } else if step.kind == Kind::Host {
            let stream = program.streams.iter().find(|s| s.name == step.name);
            let bytes = step.bytes * step.times;
            match stream.map(|s| s.direction) {
                Some(Direction::DeviceToHost) => report.host_bytes_out += bytes,
                _ => report.host_bytes_in += bytes,
            }
        }
    }
    report.collective_cycles = by_ipu.into_iter().max().unwrap_or(0);
    report.streaming_cycles = streaming.into_iter().max().unwrap_or(0);
    report
}

fn ring(program: &Program) -> RingReport {
    let machine = &program.machine;
    let ring = ReplicaRing::of(machine, program.replicas, program.ipus);
    let neighbours = match (ring.rungs, ring.directions) {
        (0, _) => "replicas are single IPUs: up one side of the ladder and down the other".into(),
        (rungs, 1) => format!(
            "replica r sends to r + 1, {rungs} rungs further; the last one's messages come back over the other direction of the links"
        ),
        (rungs, _) => format!(
            "replica r exchanges with r + 1 and r − 1, {rungs} rungs away, round the torus in both directions"
        ),
    };
    let links = format!(
        "{} of {:.1} GB/s on each side of the ladder, shared by {} IPUs of a replica",
        ring.links,
        machine.link_bytes_per_second / 1e9,
        ring.sharing,
    );
    RingReport {
        neighbours,
        links,
        bytes_per_second: ring.bytes_per_second(machine),
    }
}

fn rates(program: &Program, manifest: &Manifest, timeline: &Timeline) -> Rates {
    let seconds = timeline.seconds();
    let of_phase = |wanted: &[Phase]| -> f64 {
        let origins = program.origins.iter().zip(&timeline.origins);
        let products =
            origins.filter(|(o, _)| o.kind.starts_with("matmul") && wanted.contains(&o.phase));
        products.map(|(_, time)| time.flops as f64).sum()
    };
    let model = of_phase(&[Phase::Forward, Phase::Backward]);
    let executed = model + of_phase(&[Phase::Recompute]);
    let samples_of_a_replica =
        manifest.samples_per_step() as f64 / f64::from(manifest.replicas.max(1));
    let precision = manifest.precision.precision;
    let elements = precision.elements();
    let partials = if precision.has_half_partials() {
        DType::F16
    } else {
        DType::F32
    };
    let machine = &program.machine;
    let ipus = f64::from(program.ipus);
    let macs = peak_macs(machine, elements, partials) as f64;
    let peak_of_a_replica = 2.0 * macs * f64::from(machine.tiles_per_ipu) * machine.clock_hz * ipus;
    Rates {
        samples_per_second: manifest.samples_per_step() as f64 / seconds,
        tokens_per_second: manifest.tokens_per_step() as f64 / seconds,
        model_flops_per_sample: model / samples_of_a_replica,
        executed_flops_per_sample: executed / samples_of_a_replica,
        peak_flops_per_second: peak_of_a_replica * f64::from(program.replicas),
        model_flops_utilisation: model / seconds / peak_of_a_replica,
        hardware_flops_utilisation: executed / seconds / peak_of_a_replica,
    }
}

fn energy(program: &Program, manifest: &Manifest, timeline: &Timeline) -> Energy {
    let ipus = program.ipus * program.replicas;
    let watts_per_ipu = program.machine.watts_per_ipu;
    let joules = watts_per_ipu * f64::from(ipus) * timeline.seconds();
    Energy {
        estimate: true,
        watts_per_ipu,
        ipus,
        joules_per_update: joules,
        joules_per_sample: joules / manifest.samples_per_step() as f64,
    }
}

/// Numbers of micro-batches that the report shows.
const ACCUMULATIONS: [u32; 8] = [16, 32, 64, 128, 256, 512, 1024, 2048];

fn growth(program: &Program, manifest: &Manifest, pace: &Pace) -> Vec<Growth> {
    let samples = |n: u32| {
        f64::from(n)
            * manifest.per_device_train_batch_size as f64
            * f64::from(manifest.replicas.max(1))
    };
    let row = |&n: &u32| {
        let cycles = pace.cycles_of(n)?;
        let seconds = program.machine.seconds(cycles);
        Some(Growth {
            gradient_accumulation_steps: n,
            pipeline_cycles: pace.pipeline_cycles(n),
            seconds_per_update: seconds,
            samples_per_second: samples(n) / seconds,
            efficiency: pace.beat as f64 * f64::from(n) / cycles.max(1) as f64,
        })
    };
    ACCUMULATIONS.iter().filter_map(row).collect()
}
