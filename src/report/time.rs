//! Time on the simulated machine: cycles of an optimiser step by kind of superstep and by op, from the program's timeline.

use serde::Serialize;
use superstep_ir::program::Program;
use superstep_runtime::timeline::Timeline;

use super::classes::{ByCause, by_cause};
use super::pace::Pace;
use crate::manifest::Manifest;

/// Cycles of a whole optimiser step and what follows from them; the kinds sum to `cycles_per_update`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimeReport {
    /// Forward and backward of one micro-batch; in a pipeline, one cycle of it.
    pub cycles_per_micro_batch: u64,
    /// All micro-batches of an optimiser step and the update.
    pub cycles_per_update: u64,
    pub seconds_per_update: f64,
    pub samples_per_second: f64,
    pub tokens_per_second: f64,
    pub compute_cycles: u64,
    /// Between tiles of an IPU.
    pub exchange_cycles: u64,
    pub sync_cycles: u64,
    /// Over the links between IPUs.
    pub inter_ipu_cycles: u64,
    /// Between host and IPUs.
    pub host_cycles: u64,
    /// Between streaming memory and IPUs.
    pub streaming_cycles: u64,
}

/// One op of the graph on one IPU, over a whole optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpReport {
    pub name: String,
    pub kind: String,
    pub ipu: u32,
    pub phase: &'static str,
    /// Of all kinds: its compute sets, the exchanges that bring its operands, and the syncs before them.
    pub cycles: u64,
    pub flops: u64,
    pub bytes_exchanged: u64,
    /// Most tiles that one of its compute sets uses.
    pub tiles: u32,
    /// `cycles` by cause.
    pub ledger: ByCause,
}

impl TimeReport {
    pub(super) fn new(timeline: &Timeline, manifest: &Manifest) -> TimeReport {
        let seconds = timeline.seconds();
        TimeReport {
            cycles_per_micro_batch: Pace::of(timeline, manifest).beat,
            cycles_per_update: timeline.cycles.total(),
            seconds_per_update: seconds,
            samples_per_second: manifest.samples_per_step() as f64 / seconds,
            tokens_per_second: manifest.tokens_per_step() as f64 / seconds,
            compute_cycles: timeline.cycles.compute,
            exchange_cycles: timeline.cycles.exchange,
            sync_cycles: timeline.cycles.sync,
            inter_ipu_cycles: timeline.cycles.inter_ipu,
            host_cycles: timeline.cycles.host,
            streaming_cycles: timeline.cycles.streaming,
        }
    }

    /// Cycles of each kind, in the order of the report.
    pub fn by_kind(&self) -> [(&'static str, u64); 6] {
        [
            ("compute", self.compute_cycles),
            ("exchange", self.exchange_cycles),
            ("sync", self.sync_cycles),
            ("links between IPUs", self.inter_ipu_cycles),
            ("host", self.host_cycles),
            ("streaming memory", self.streaming_cycles),
        ]
    }
}

/// Every op that takes time, the most cycles first.
pub(super) fn ops(program: &Program, timeline: &Timeline) -> Vec<OpReport> {
    let mut ops: Vec<OpReport> = program
        .origins
        .iter()
        .zip(&timeline.origins)
        .filter(|(_, time)| time.cycles.total() > 0)
        .map(|(origin, time)| OpReport {
            name: origin.name.clone(),
            kind: origin.kind.clone(),
            ipu: origin.ipu.0,
            phase: origin.phase.name(),
            cycles: time.cycles.total(),
            flops: time.flops,
            bytes_exchanged: time.bytes_exchanged,
            tiles: time.tiles,
            ledger: by_cause(&time.ledger),
        })
        .collect();
    // Stable: equals stay in program order.
    ops.sort_by_key(|op| std::cmp::Reverse(op.cycles));
    ops
}
