//! From lengths of steps to the account: every step is measured once, then the program is walked.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use superstep_ir::ids::{IpuId, ProcId, TileId};
use superstep_ir::program::cost::moves::DistinctMoves;
use superstep_ir::program::cost::traffic::TileSums;
use superstep_ir::program::{Procedure, Program, RemoteDirection, Step};

use super::measure::{Measured, measure};
use super::traffic::Traffic;
use super::{IpuTime, Kind, KindCycles, Ledger, OriginTime, ProcedureTime, StepTime, Timeline};

pub(super) fn account<'p>(program: &'p Program, moves: &'p DistinctMoves<'p>) -> Timeline {
    let times = program.executions();
    let load = TileLoad::of(program);
    let traffic = Traffic::of(program, moves);
    let measured: Vec<Vec<Option<Measured>>> = program
        .procedures
        .iter()
        .zip(&times)
        .map(|(procedure, &times)| {
            let measure = |sums: &mut TileSums, step| {
                let visit =
                    |ipu, tile, cycles: u64| load.add(ipu, tile, cycles.saturating_mul(times));
                measure(program, &traffic, sums, step, visit)
            };
            let steps = procedure.steps.par_iter();
            let mut measured: Vec<Option<Measured>> = steps
                .map_init(|| TileSums::new(&program.machine), measure)
                .collect();
            give_syncs_to_what_follows(&mut measured);
            give_groups_to_what_follows(&mut measured);
            measured
        })
        .collect();
    let mut walk = Walk {
        program,
        measured,
        times,
        known: vec![None; program.procedures.len()],
        longest: FxHashMap::default(),
        index: 0,
        timeline: empty(program, load.into_ipus()),
    };
    let whole = walk.procedure(program.entry, 0);
    walk.timeline.cycles = whole.cycles;
    walk.timeline.ledger = whole.ledger;
    walk.book_critical();
    walk.count_executions();
    walk.timeline
}

/// A timeline in which nothing has happened yet but the load of the tiles.
fn empty(program: &Program, ipus: Vec<IpuTime>) -> Timeline {
    let procedure = |procedure: &Procedure| ProcedureTime {
        name: procedure.name.clone(),
        times: 0,
        cycles: KindCycles::default(),
        ledger: Ledger::default(),
        shared_cycles: 0,
        ipus: Vec::new(),
    };
    Timeline {
        clock_hz: program.machine.clock_hz,
        ipus,
        origins: vec![OriginTime::default(); program.origins.len()],
        procedures: program.procedures.iter().map(procedure).collect(),
        ..Timeline::default()
    }
}

/// Cycles that every tile computes. Sums of whole numbers: the order of additions does not matter.
struct TileLoad {
    tiles: usize,
    cycles: Vec<AtomicU64>,
}

impl TileLoad {
    fn of(program: &Program) -> TileLoad {
        let tiles = program.machine.tiles_per_ipu as usize;
        TileLoad {
            tiles,
            cycles: (0..tiles * program.ipus as usize)
                .map(|_| AtomicU64::new(0))
                .collect(),
        }
    }

    fn add(&self, ipu: IpuId, tile: TileId, cycles: u64) {
        if let Some(sum) = self.cycles.get(ipu.index() * self.tiles + tile.index()) {
            sum.fetch_add(cycles, Ordering::Relaxed);
        }
    }

    fn into_ipus(self) -> Vec<IpuTime> {
        let cycles: Vec<u64> = self.cycles.into_iter().map(AtomicU64::into_inner).collect();
        let ipu = |tiles: &[u64]| IpuTime {
            tiles: tiles.to_vec(),
            ..IpuTime::default()
        };
        cycles.chunks(self.tiles.max(1)).map(ipu).collect()
    }
}

fn give_syncs_to_what_follows(steps: &mut [Option<Measured>]) {
    let mut following = None;
    for step in steps.iter_mut().rev().flatten() {
        match step.origin {
            Some(origin) => following = Some(origin),
            None => step.origin = following,
        }
    }
}

/// A transfer behind the barrier of a group is between its IPUs.
fn give_groups_to_what_follows(steps: &mut [Option<Measured>]) {
    for i in 1..steps.len() {
        let (before, rest) = steps.split_at_mut(i);
        if let (Some(Some(before)), Some(Some(step))) = (before.last(), rest.first_mut())
            && before.kind == Kind::Sync
            && step.kind == Kind::InterIpu
        {
            step.group = before.group;
        }
    }
}

/// One run of a procedure, with all that it calls.
#[derive(Clone)]
struct Run {
    cycles: KindCycles,
    ledger: Ledger,
    /// Of what all IPUs do together.
    shared: u64,
    /// Of what runs on one IPU, or on its group, by IPU: also of procedures that others wait for.
    ipus: Vec<Ledger>,
}

impl Run {
    fn new(ipus: u32) -> Run {
        Run {
            cycles: KindCycles::default(),
            ledger: Ledger::default(),
            shared: 0,
            ipus: vec![Ledger::default(); ipus as usize],
        }
    }

    fn add(&mut self, other: &Run, times: u64) {
        self.cycles += other.cycles * times;
        self.ledger += other.ledger * times;
        let shared = other.shared.saturating_mul(times);
        self.shared = self.shared.saturating_add(shared);
        self.add_ipus(other, times);
    }

    fn add_ipus(&mut self, other: &Run, times: u64) {
        for (sum, more) in self.ipus.iter_mut().zip(&other.ipus) {
            *sum += *more * times;
        }
    }

    fn add_step(&mut self, step: &Measured) {
        self.cycles += KindCycles::of(step.kind, step.cycles);
        self.ledger += step.ledger;
        for ipu in step.ipus() {
            if let Some(ledger) = self.ipus.get_mut(ipu as usize) {
                *ledger += step.ledger;
            }
        }
        if step.is_shared() {
            self.shared = self.shared.saturating_add(step.cycles);
        }
    }
}

struct Walk<'p> {
    program: &'p Program,
    /// By procedure and step.
    measured: Vec<Vec<Option<Measured>>>,
    /// How often each procedure runs.
    times: Vec<u64>,
    /// Procedures that were met before.
    known: Vec<Option<Run>>,
    /// Of the procedures that run side by side in a step, the one that the others wait for.
    longest: FxHashMap<(ProcId, usize), ProcId>,
    /// Number of the next step in the order of [`Program::walk`].
    index: u32,
    timeline: Timeline,
}

impl Walk<'_> {
    /// Walks a procedure that starts at cycle `start` the first time.
    fn procedure(&mut self, id: ProcId, start: u64) -> Run {
        if let Some(known) = &self.known[id.index()] {
            return known.clone();
        }
        let procedure = self.program.procedure(id);
        let times = self.times[id.index()];
        let mut run = Run::new(self.program.ipus);
        for (i, step) in procedure.steps.iter().enumerate() {
            let at = start.saturating_add(run.cycles.total());
            let index = self.index;
            self.index += 1;
            match step {
                Step::Call(_) | Step::Repeat { .. } => {
                    for (body, count) in step.bodies() {
                        let body = self.procedure(body, at);
                        run.add(&body, count);
                    }
                }
                Step::Parallel(bodies) => {
                    let runs: Vec<(ProcId, Run)> = bodies
                        .iter()
                        .map(|&id| (id, self.procedure(id, at)))
                        .collect();
                    runs.iter().for_each(|(_, body)| run.add_ipus(body, 1));
                    // The others are done, and wait, when the longest ends; of equals the first counts.
                    let longest = runs.iter().rev().max_by_key(|(_, r)| r.cycles.total());
                    if let Some((body, longest)) = longest {
                        self.longest.insert((id, i), *body);
                        run.cycles += longest.cycles;
                        run.ledger += longest.ledger;
                        run.shared = run.shared.saturating_add(longest.shared);
                    }
                }
                step => {
                    if let Some(measured) = self.measured[id.index()][i] {
                        self.step(step, &measured, index, at, times);
                        run.add_step(&measured);
                    }
                }
            }
        }
        let account = &mut self.timeline.procedures[id.index()];
        account.times = times;
        account.cycles = run.cycles;
        account.ledger = run.ledger;
        account.shared_cycles = run.shared;
        account.ipus.clone_from(&run.ipus);
        self.known[id.index()] = Some(run.clone());
        run
    }

    fn step(&mut self, step: &Step, measured: &Measured, index: u32, start: u64, times: u64) {
        for ipu in measured.ipus() {
            let Some(ipu) = self.timeline.ipus.get_mut(ipu as usize) else {
                continue;
            };
            let cycles = measured.cycles.saturating_mul(times);
            ipu.busy = ipu.busy.saturating_add(cycles);
            if measured.kind == Kind::Compute {
                ipu.compute = ipu.compute.saturating_add(cycles);
            }
        }
        if let Some(id) = measured.origin {
            let origin = &mut self.timeline.origins[id.index()];
            origin.cycles += KindCycles::of(measured.kind, measured.cycles) * times;
            origin.ledger += measured.ledger * times;
            origin.tiles = origin.tiles.max(measured.tiles);
            let [read, written] = measured.touched.map(|bytes| bytes.saturating_mul(times));
            origin.bytes_read = origin.bytes_read.saturating_add(read);
            origin.bytes_written = origin.bytes_written.saturating_add(written);
            if !matches!(measured.kind, Kind::Host | Kind::Streaming) {
                let bytes = measured.bytes.saturating_mul(times);
                origin.bytes_exchanged = origin.bytes_exchanged.saturating_add(bytes);
            }
        }
        self.timeline.steps.push(StepTime {
            index,
            name: self.name(step),
            kind: measured.kind,
            origin: measured.origin.map(|o| o.0),
            ipu: measured.ipu,
            start,
            cycles: measured.cycles,
            times,
            tiles: measured.tiles,
            tile_cycles: measured.tile_cycles,
            bytes: measured.bytes,
        });
    }

    /// What the run waits for: the executions of every procedure that are in no shorter branch.
    fn book_critical(&mut self) {
        let program = self.program;
        let is_critical = |caller: ProcId, index: usize, body: ProcId| {
            let longest = self.longest.get(&(caller, index));
            longest.is_none_or(|&longest| longest == body)
        };
        let times = program.executions_where(is_critical);
        for (steps, times) in self.measured.iter().zip(times) {
            for step in steps.iter().flatten() {
                let cycles = step.cycles.saturating_mul(times);
                if let Some(id) = step.origin {
                    let critical = &mut self.timeline.origins[id.index()].critical;
                    *critical = critical.saturating_add(cycles);
                }
                if step.is_shared() {
                    let shared = &mut self.timeline.shared_cycles;
                    *shared = shared.saturating_add(cycles);
                }
            }
        }
    }

    /// An op is executed as often as the procedure that its steps are in.
    fn count_executions(&mut self) {
        for (procedure, steps) in self.timeline.procedures.iter().zip(&self.measured) {
            for id in steps.iter().flatten().filter_map(|step| step.origin) {
                let origin = &mut self.timeline.origins[id.index()];
                origin.times = origin.times.max(procedure.times);
                let flops = self.program.origins[id.index()].flops;
                origin.flops = flops.saturating_mul(origin.times);
            }
        }
    }

    fn name(&self, step: &Step) -> String {
        match step {
            Step::Compute(set) => set.name.clone(),
            Step::Exchange(exchange) => exchange.name.clone(),
            Step::Collective(collective) => collective.name.clone(),
            Step::Host { stream, .. } => self.program.streams[*stream as usize].name.clone(),
            Step::Remote {
                state, direction, ..
            } => {
                let name = &self.program.states[*state as usize].name;
                match direction {
                    RemoteDirection::Load => format!("load {name}"),
                    RemoteDirection::Store => format!("store {name}"),
                }
            }
            Step::SetSeed { .. } => "set seed".into(),
            _ => "sync".into(),
        }
    }
}
