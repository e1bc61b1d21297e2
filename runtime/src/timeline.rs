//! The cycle account of a program: how long every step takes on the machine, without executing it.
//!
//! Timing does not depend on values. Each step has a kind and a length; steps follow one another in program order, also when they run on
//! different IPUs, but for procedures that the program runs side by side: then the longest counts. Lengths come from the formulae of [`superstep_ir::machine`]: a compute set lasts as long as its busiest tile, an
//! exchange as long as its busiest tile or pair of tiles, a transfer between IPUs as long as its busiest link.
//! A sync serves the step that it precedes and is accounted to the same graph op. Why a step takes as long as it does is in the [`Ledger`].

mod account;
mod ledger;
mod measure;
mod traffic;

use std::ops::{Add, AddAssign, Mul};

use serde::{Deserialize, Serialize};
use superstep_ir::program::Program;
use superstep_ir::program::cost::moves::DistinctMoves;

pub use ledger::{Cause, Ledger};

/// What the machine waits for during a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Compute,
    /// Between tiles of one IPU, copies inside tiles included.
    Exchange,
    Sync,
    /// Over the links.
    InterIpu,
    /// Between host and IPUs, with the sync that lets the host in.
    Host,
    /// Between streaming memory and IPUs, with the sync that lets it in.
    Streaming,
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::Compute,
        Kind::Exchange,
        Kind::Sync,
        Kind::InterIpu,
        Kind::Host,
        Kind::Streaming,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Compute => "compute",
            Kind::Exchange => "exchange",
            Kind::Sync => "sync",
            Kind::InterIpu => "inter_ipu",
            Kind::Host => "host",
            Kind::Streaming => "streaming",
        }
    }
}

/// Cycles by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindCycles {
    pub compute: u64,
    pub exchange: u64,
    pub sync: u64,
    pub inter_ipu: u64,
    pub host: u64,
    pub streaming: u64,
}

impl KindCycles {
    /// `cycles` of one kind.
    pub fn of(kind: Kind, cycles: u64) -> KindCycles {
        let mut by_kind = KindCycles::default();
        *by_kind.of_mut(kind) = cycles;
        by_kind
    }

    pub const fn get(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Compute => self.compute,
            Kind::Exchange => self.exchange,
            Kind::Sync => self.sync,
            Kind::InterIpu => self.inter_ipu,
            Kind::Host => self.host,
            Kind::Streaming => self.streaming,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Compute => &mut self.compute,
            Kind::Exchange => &mut self.exchange,
            Kind::Sync => &mut self.sync,
            Kind::InterIpu => &mut self.inter_ipu,
            Kind::Host => &mut self.host,
            Kind::Streaming => &mut self.streaming,
        }
    }

    /// Cycles of all kinds.
    pub fn total(&self) -> u64 {
        Kind::ALL
            .iter()
            .fold(0, |sum, &kind| sum.saturating_add(self.get(kind)))
    }
}

impl Add for KindCycles {
    type Output = KindCycles;

    fn add(mut self, other: KindCycles) -> KindCycles {
        self += other;
        self
    }
}

impl AddAssign for KindCycles {
    fn add_assign(&mut self, other: KindCycles) {
        for kind in Kind::ALL {
            let cycles = self.of_mut(kind);
            *cycles = cycles.saturating_add(other.get(kind));
        }
    }
}

impl Mul<u64> for KindCycles {
    type Output = KindCycles;

    fn mul(mut self, times: u64) -> KindCycles {
        for kind in Kind::ALL {
            let cycles = self.of_mut(kind);
            *cycles = cycles.saturating_mul(times);
        }
        self
    }
}

/// The account of one run of a program's entry: a whole optimiser step, or one inference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    pub clock_hz: f64,
    /// Of the whole run.
    pub cycles: KindCycles,
    /// The same cycles by cause. Of procedures that run side by side, the longest counts.
    pub ledger: Ledger,
    /// Of them, those in which no single IPU is at work: transfers between IPUs, and barriers over all of them.
    pub shared_cycles: u64,
    /// Entry `i` is about IPU `i`.
    pub ipus: Vec<IpuTime>,
    /// In the program's order.
    pub procedures: Vec<ProcedureTime>,
    /// In the program's order: entry `i` is about origin `i`.
    pub origins: Vec<OriginTime>,
    /// Every step that takes time, in program order; the body of a repeat once.
    pub steps: Vec<StepTime>,
}

/// One procedure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcedureTime {
    pub name: String,
    /// How often it runs in one run of the entry.
    pub times: u64,
    /// Of one run, with all that it calls.
    pub cycles: KindCycles,
    /// The same cycles by cause.
    pub ledger: Ledger,
    /// Of one run, what all IPUs do together: transfers over the links and barriers over all of them.
    pub shared_cycles: u64,
    /// Entry `i`: what IPU `i` does in one run by itself or with its group, by cause. What it lacks of `cycles`, it waits, or takes part in what
    /// all do together.
    pub ipus: Vec<Ledger>,
}

/// One IPU, over the whole run of the entry. What is left of the run, it waits for another, or takes part in what they do together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IpuTime {
    /// Cycles of the steps that run on this IPU alone, or on its group.
    pub busy: u64,
    /// Of them, those of its compute sets.
    pub compute: u64,
    /// Cycles that each tile computes.
    pub tiles: Vec<u64>,
}

/// One graph op, over the whole run of the entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OriginTime {
    /// How often the op is executed.
    pub times: u64,
    /// Of all executions, with the syncs before its steps.
    pub cycles: KindCycles,
    /// The same cycles by cause.
    pub ledger: Ledger,
    /// Of the cycles, those that the run waits for: not what an IPU does while another one takes longer. They sum to the run's cycles over all
    /// ops.
    pub critical: u64,
    /// Floating-point operations of all executions.
    pub flops: u64,
    /// Bytes that tiles received from other tiles or IPUs, in all executions; a multicast counts at each tile.
    pub bytes_exchanged: u64,
    /// Bytes that its vertices read and write in tile memory, in all executions, each operand once a vertex.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Most tiles that one of its compute sets uses.
    pub tiles: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    /// Its number in [`Program::walk`], which live ranges of variables refer to.
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    /// Index of the graph op that it serves.
    pub origin: Option<u32>,
    /// Where it runs, if on one IPU.
    pub ipu: Option<u32>,
    /// Cycle at which it starts, the first time.
    pub start: u64,
    /// Of one execution.
    pub cycles: u64,
    pub times: u64,
    /// Tiles that compute; 0 for other kinds.
    pub tiles: u32,
    /// Cycles of all tiles that compute, summed: `tile_cycles / (cycles · tiles)` is how evenly they are loaded.
    pub tile_cycles: u64,
    /// Bytes that tiles receive in one execution.
    pub bytes: u64,
}

impl Timeline {
    /// Seconds of one run of the entry.
    pub fn seconds(&self) -> f64 {
        self.cycles.total() as f64 / self.clock_hz
    }

    /// A procedure by name, `micro_batch` or `update` for instance.
    pub fn procedure(&self, name: &str) -> Option<&ProcedureTime> {
        self.procedures.iter().find(|p| p.name == name)
    }

    /// Cycles of one run of a procedure.
    pub fn procedure_cycles(&self, name: &str) -> Option<u64> {
        self.procedure(name).map(|p| p.cycles.total())
    }
}

/// Accounts for a program. Takes well under a second for thousands of steps: equal moves of equal layouts are expanded once.
///
/// The program must have passed the verifier, or at least come out of [`superstep_ir::executable`]; a move without meaning takes no time.
pub fn timeline(program: &Program) -> Timeline {
    timeline_with(program, &DistinctMoves::of(program))
}

/// The same with the program's moves expanded before, or those of a program that differs in its machine only.
pub fn timeline_with<'p>(program: &'p Program, moves: &'p DistinctMoves<'p>) -> Timeline {
    account::account(program, moves)
}

#[cfg(test)]
mod tests;
