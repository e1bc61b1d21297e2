//! The length of one step by itself, and what it goes into.

use superstep_ir::ids::{IpuId, OriginId, TileId, VarId};
use superstep_ir::machine::codelet_cost::data::SET_SEED;
use superstep_ir::machine::exchange_cost::exchange_cycles;
use superstep_ir::machine::link_cost::{ReplicaRing, host_cycles, streaming_cycles};
use superstep_ir::program::cost::compute_set;
use superstep_ir::program::cost::traffic::TileSums;
use superstep_ir::program::{Collective, CollectiveKind, Program, Step, Sync};

use super::traffic::Traffic;
use super::{Cause, Kind, Ledger};

/// A step by itself.
#[derive(Clone, Copy)]
pub(super) struct Measured {
    pub(super) kind: Kind,
    pub(super) cycles: u64,
    /// `cycles` by cause.
    pub(super) ledger: Ledger,
    pub(super) origin: Option<OriginId>,
    pub(super) ipu: Option<u32>,
    /// First and number of the IPUs that do it together, where these are not all of the replica.
    pub(super) group: Option<(u32, u32)>,
    pub(super) tiles: u32,
    pub(super) tile_cycles: u64,
    pub(super) bytes: u64,
    /// Bytes read and written in tile memory.
    pub(super) touched: [u64; 2],
}

impl Measured {
    fn new(kind: Kind, ledger: Ledger) -> Measured {
        Measured {
            kind,
            cycles: ledger.total(),
            ledger,
            origin: None,
            ipu: None,
            group: None,
            tiles: 0,
            tile_cycles: 0,
            bytes: 0,
            touched: [0; 2],
        }
    }

    /// The IPUs that do it, unless it is all of them.
    pub(super) fn ipus(&self) -> std::ops::Range<u32> {
        match (self.ipu, self.group) {
            (Some(ipu), _) => ipu..ipu.saturating_add(1),
            (None, Some((first, count))) => first..first.saturating_add(count),
            (None, None) => 0..0,
        }
    }

    /// Whether all IPUs of the replica take part.
    pub(super) const fn is_shared(&self) -> bool {
        self.ipu.is_none() && self.group.is_none()
    }

    fn sync(cycles: u64) -> Measured {
        Measured::new(Kind::Sync, Ledger::of(Cause::Sync, cycles))
    }
}

/// The length of a step; `None` for calls and repeats, whose time is that of what they call. `visit` gets the cycles of every vertex.
pub(super) fn measure<'p>(
    program: &'p Program,
    traffic: &Traffic<'p>,
    sums: &mut TileSums,
    step: &'p Step,
    mut visit: impl FnMut(IpuId, TileId, u64),
) -> Option<Measured> {
    let machine = &program.machine;
    let measured = match step {
        Step::Compute(set) => {
            let account = compute_set::account(program, set, &mut visit);
            let ipu = set.groups.first().map(|g| program.grid(g.grid).ipu.0);
            Measured {
                origin: Some(set.origin),
                ipu,
                tiles: account.tiles,
                tile_cycles: account.busy,
                touched: [account.read, account.written],
                ..Measured::new(Kind::Compute, Ledger::compute(&account))
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
                ..Measured::new(kind, Ledger::exchange(&time.parts))
            }
        }
        Step::Sync(Sync::Ipu(ipu)) => Measured {
            ipu: Some(ipu.0),
            ..Measured::sync(machine.sync_cycles)
        },
        Step::Sync(Sync::Group { first, count }) => Measured {
            group: Some((first.0, *count)),
            ..Measured::sync(machine.global_sync_cycles)
        },
        Step::Sync(Sync::Replica) if program.ipus == 1 => Measured::sync(machine.sync_cycles),
        Step::Sync(Sync::Replica) => Measured::sync(machine.global_sync_cycles),
        Step::Host { stream, origin } => host(program, *stream, *origin),
        Step::Remote { state, origin, .. } => {
            let variable = program.states[*state as usize].variable;
            let bytes = program.variable(variable).ty.bytes() as u64;
            let transfer = streaming_cycles(machine, bytes);
            outside(program, variable, *origin, Kind::Streaming, transfer)
        }
        Step::SetSeed { seed, origin } => {
            let grid = program.grid_of(*seed);
            let tiles = grid.points() as u32;
            Measured {
                origin: Some(*origin),
                ipu: Some(grid.ipu.0),
                tiles,
                tile_cycles: SET_SEED * u64::from(tiles),
                ..Measured::new(Kind::Compute, Ledger::of(Cause::Overhead, SET_SEED))
            }
        }
        Step::Collective(collective) => between_replicas(program, collective),
        Step::Repeat { .. } | Step::Call(_) | Step::Parallel(_) => return None,
    };
    Some(measured)
}

/// A collective: every step round the ring is a sync and a transfer; a part that is kept is copied inside its tile.
fn between_replicas(program: &Program, collective: &Collective) -> Measured {
    let machine = &program.machine;
    let variable = |id| program.variable(id);
    let (source, destination) = (
        variable(collective.source),
        variable(collective.destination),
    );
    let whole = source.ty.bytes().max(destination.ty.bytes()) as u64;
    let grid = program.grid(source.grid);
    let ring = ReplicaRing::of(machine, program.replicas, program.ipus);
    let half = ring.half_all_reduce_cycles(machine, whole);
    let halves = match collective.kind {
        CollectiveKind::AllReduce => 2,
        CollectiveKind::ReduceScatter | CollectiveKind::AllGather => 1,
        CollectiveKind::Shard => 0,
    };
    let syncs = halves * u64::from(program.replicas.saturating_sub(1)) * machine.global_sync_cycles;
    let kept = if collective.kind == CollectiveKind::Shard {
        let bytes = destination.tile_bytes(grid) as f64;
        (bytes / machine.copy_bytes_per_cycle).ceil() as u64
    } else {
        0
    };
    let mut ledger = Ledger::of(Cause::Sync, syncs);
    ledger += Ledger::of(Cause::Links, halves * half - syncs);
    ledger += Ledger::of(Cause::Copies, kept);
    let kind = if halves > 0 {
        Kind::InterIpu
    } else {
        Kind::Exchange
    };
    Measured {
        origin: Some(collective.origin),
        ipu: Some(grid.ipu.0),
        bytes: halves * whole,
        ..Measured::new(kind, ledger)
    }
}

fn host(program: &Program, stream: u32, origin: OriginId) -> Measured {
    let variable = program.streams[stream as usize].variable;
    let bytes = program.variable(variable).ty.bytes() as u64;
    let transfer = host_cycles(&program.machine, bytes);
    outside(program, variable, origin, Kind::Host, transfer)
}

/// A transfer between a variable and the host or streaming memory: the sync that lets them in, then their link, which takes `link` cycles, or
/// the busiest tile, whichever is slower. Nothing else goes on meanwhile: no tiles are set aside for transfers.
fn outside(
    program: &Program,
    variable: VarId,
    origin: OriginId,
    kind: Kind,
    link: u64,
) -> Measured {
    let machine = &program.machine;
    let variable = program.variable(variable);
    let grid = program.grid(variable.grid);
    let bytes = variable.ty.bytes() as u64;
    let a_tile = variable.tile_bytes(grid) as u64;
    let transfer = link.max(exchange_cycles(machine, a_tile, a_tile));
    let cause = match kind {
        Kind::Streaming => Cause::Streaming,
        _ => Cause::Host,
    };
    let mut ledger = Ledger::of(Cause::Sync, machine.global_sync_cycles);
    ledger += Ledger::of(cause, transfer);
    Measured {
        origin: Some(origin),
        ipu: Some(grid.ipu.0),
        bytes,
        ..Measured::new(kind, ledger)
    }
}
