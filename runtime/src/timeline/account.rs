//! From lengths of steps to the account: every step is measured once, then the program is walked.

use rayon::prelude::*;
use superstep_ir::ids::{OriginId, ProcId};
use superstep_ir::machine::exchange_cost::exchange_cycles;
use superstep_ir::machine::link_cost::host_cycles;
use superstep_ir::program::cost::compute_set::compute_set;
use superstep_ir::program::cost::traffic::TileSums;
use superstep_ir::program::{Program, Step, Sync};

use super::traffic::Traffic;
use super::{Kind, KindCycles, OriginTime, ProcedureTime, StepTime, Timeline};

/// A step by itself.
#[derive(Clone, Copy)]
struct Measured {
    kind: Kind,
    cycles: u64,
    origin: Option<OriginId>,
    ipu: Option<u32>,
    tiles: u32,
    bytes: u64,
}

impl Measured {
    const fn new(kind: Kind, cycles: u64) -> Measured {
        Measured {
            kind,
            cycles,
            origin: None,
            ipu: None,
            tiles: 0,
            bytes: 0,
        }
    }
}

pub(super) fn account(program: &Program) -> Timeline {
    let traffic = Traffic::of(program);
    let measured: Vec<Vec<Option<Measured>>> = program
        .procedures
        .iter()
        .map(|procedure| {
            let measure = |sums: &mut TileSums, step| measure(program, &traffic, sums, step);
            let steps = procedure.steps.par_iter();
            let mut measured: Vec<Option<Measured>> = steps
                .map_init(|| TileSums::new(&program.machine), measure)
                .collect();
            give_syncs_to_what_follows(&mut measured);
            measured
        })
        .collect();
    let mut walk = Walk {
        program,
        measured,
        index: 0,
        timeline: Timeline {
            clock_hz: program.machine.clock_hz,
            origins: vec![OriginTime::default(); program.origins.len()],
            procedures: program
                .procedures
                .iter()
                .map(|procedure| ProcedureTime {
                    name: procedure.name.clone(),
                    times: 0,
                    cycles: KindCycles::default(),
                })
                .collect(),
            ..Timeline::default()
        },
    };
    walk.timeline.cycles = walk.procedure(program.entry, 1, 0);
    walk.count_executions();
    walk.timeline
}

/// The length of a step; `None` for calls and repeats, whose time is that of what they call.
fn measure<'p>(
    program: &'p Program,
    traffic: &Traffic<'p>,
    sums: &mut TileSums,
    step: &'p Step,
) -> Option<Measured> {
    let machine = &program.machine;
    let measured = match step {
        Step::Compute(set) => {
            let (cycles, tiles) = compute_set(program, set);
            let ipu = set.groups.first().map(|g| program.grid(g.grid).ipu.0);
            Measured {
                origin: Some(set.origin),
                ipu,
                tiles,
                ..Measured::new(Kind::Compute, cycles)
            }
        }
        Step::Exchange(exchange) => {
            let time = traffic.exchange(exchange, sums);
            let kind = if time.crosses {
                Kind::InterIpu
            } else {
                Kind::Exchange
            };
            Measured {
                origin: Some(exchange.origin),
                ipu: time.ipu,
                bytes: time.bytes,
                ..Measured::new(kind, time.cycles)
            }
        }
        Step::Sync(Sync::Ipu(ipu)) => Measured {
            ipu: Some(ipu.0),
            ..Measured::new(Kind::Sync, machine.sync_cycles)
        },
        Step::Sync(Sync::Replica) if program.ipus == 1 => {
            Measured::new(Kind::Sync, machine.sync_cycles)
        }
        Step::Sync(Sync::Replica) => Measured::new(Kind::Sync, machine.global_sync_cycles),
        Step::Host { stream, origin } => host(program, *stream, *origin),
        Step::Repeat { .. } | Step::Call(_) => return None,
    };
    Some(measured)
}

/// A host transfer: the sync that lets the host in, then its link or the busiest tile, whichever is slower.
fn host(program: &Program, stream: u32, origin: OriginId) -> Measured {
    let machine = &program.machine;
    let variable = program.variable(program.streams[stream as usize].variable);
    let grid = program.grid(variable.grid);
    let bytes = variable.ty.bytes() as u64;
    let a_tile = variable.tile_bytes(grid) as u64;
    let transfer = host_cycles(machine, bytes).max(exchange_cycles(machine, a_tile, a_tile));
    Measured {
        origin: Some(origin),
        ipu: Some(grid.ipu.0),
        bytes,
        ..Measured::new(Kind::Host, machine.global_sync_cycles + transfer)
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

struct Walk<'p> {
    program: &'p Program,
    /// By procedure and step.
    measured: Vec<Vec<Option<Measured>>>,
    /// Number of the next step in the order of [`Program::walk`].
    index: u32,
    timeline: Timeline,
}

impl Walk<'_> {
    /// Walks a procedure that starts at cycle `start` the first time and runs `times` times here; returns the cycles of one run.
    fn procedure(&mut self, id: ProcId, times: u64, start: u64) -> KindCycles {
        let procedure = self.program.procedure(id);
        let mut cycles = KindCycles::default();
        for (i, step) in procedure.steps.iter().enumerate() {
            let at = start.saturating_add(cycles.total());
            let index = self.index;
            self.index += 1;
            match step {
                Step::Call(body) => cycles += self.procedure(*body, times, at),
                Step::Repeat { count, body } => {
                    let count = u64::from(*count);
                    cycles += self.procedure(*body, times.saturating_mul(count), at) * count;
                }
                step => {
                    if let Some(measured) = self.measured[id.index()][i] {
                        self.step(step, &measured, index, at, times);
                        cycles += KindCycles::of(measured.kind, measured.cycles);
                    }
                }
            }
        }
        let account = &mut self.timeline.procedures[id.index()];
        account.times = account.times.saturating_add(times);
        account.cycles = cycles;
        cycles
    }

    fn step(&mut self, step: &Step, measured: &Measured, index: u32, start: u64, times: u64) {
        if let Some(id) = measured.origin {
            let origin = &mut self.timeline.origins[id.index()];
            origin.cycles += KindCycles::of(measured.kind, measured.cycles) * times;
            origin.tiles = origin.tiles.max(measured.tiles);
            if measured.kind != Kind::Host {
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
            bytes: measured.bytes,
        });
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
            Step::Host { stream, .. } => self.program.streams[*stream as usize].name.clone(),
            _ => "sync".into(),
        }
    }
}
