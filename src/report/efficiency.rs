//! How well the machine is used: each IPU's work and waiting, how evenly its tiles are loaded, and the lower bounds of the whole step.

use indexmap::IndexMap;
use serde::Serialize;
use superstep_ir::class_name::class_name;
use superstep_ir::ids::IpuId;
use superstep_ir::program::Program;
use superstep_runtime::timeline::{Cause, Kind, Timeline};

use super::classes::{ByCause, by_cause};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EfficiencyReport {
    /// Cycles of an optimiser step by cause; they sum to all of them.
    pub ledger: ByCause,
    /// Tile cycles in which a tile computes, over the tile cycles of all compute sets.
    pub tile_utilisation: f64,
    /// The same without tiles that a compute set leaves out: 1 where all tiles that work end together.
    pub tile_balance: f64,
    /// Compute over all cycles, times `tile_utilisation`.
    pub parallel_efficiency: f64,
    /// Bytes that tiles receive in a step.
    pub bytes_exchanged: u64,
    /// Cycles in which no single IPU is at work: transfers between IPUs and barriers over all.
    pub shared_cycles: u64,
    pub ipus: Vec<IpuEfficiency>,
    pub bounds: Bounds,
    /// The compute sets that waste most tile cycles by uneven or idle tiles, most first.
    pub uneven: Vec<UnevenSet>,
}

/// One IPU. IPUs take turns in program order: an IPU that is not busy waits for another, or for data between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IpuEfficiency {
    pub ipu: u32,
    pub busy_cycles: u64,
    /// Of them in compute sets.
    pub compute_cycles: u64,
    pub waiting_cycles: u64,
    /// Cycles that a tile computes: the least, the mean and the most of all tiles.
    pub tile_cycles_least: u64,
    pub tile_cycles_mean: u64,
    pub tile_cycles_most: u64,
    /// Bytes of a tile if what is live at the fullest step lay evenly on all tiles: no placement needs less.
    pub live_bytes_bound: u64,
    /// Bytes of the highest address in use.
    pub highest_address: u64,
}

/// Lower bounds of the cycles of a step; `ops` and `pipeline` hold for this plan, `arithmetic` for any.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// Arithmetic at peak, one IPU at a time, as the program runs.
    pub arithmetic: u64,
    /// The same if all IPUs worked at once.
    pub arithmetic_all_ipus: u64,
    /// Each op at its own bound, one after the other, moving the bytes that this plan moves.
    pub ops: u64,
    /// What the busiest IPU takes now, and what IPUs do together: the limit of overlapping IPUs over many micro-batches, out of reach with one.
    pub pipeline: u64,
    pub cycles: u64,
}

/// Compute sets that differ only in the numbers of their layer or chunk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnevenSet {
    pub name: String,
    pub executions: u64,
    pub cycles: u64,
    /// Fewest tiles that one of them uses.
    pub tiles: u32,
    /// Share of the tile cycles of the tiles in use that are spent computing, in the worst of them.
    pub balance: f64,
    /// Cycles lost by tiles that wait or have nothing to do.
    pub lost_cycles: u64,
}

/// How many uneven compute sets are named.
const NAMED: usize = 10;

impl EfficiencyReport {
    pub(super) fn new(program: &Program, timeline: &Timeline, ops_bound: u64) -> EfficiencyReport {
        let tiles = u64::from(program.machine.tiles_per_ipu);
        let compute = timeline.steps.iter().filter(|s| s.kind == Kind::Compute);
        let (mut busy, mut used, mut all) = (0.0, 0.0, 0.0);
        for step in compute {
            let times = step.times as f64;
            busy += step.tile_cycles as f64 * times;
            used += (step.cycles * u64::from(step.tiles)) as f64 * times;
            all += (step.cycles * tiles) as f64 * times;
        }
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let cycles = timeline.cycles.total();
        let arithmetic = timeline.ledger.get(Cause::Ideal);
        let shared = timeline.shared_cycles;
        let busiest = timeline.ipus.iter().map(|ipu| ipu.busy).max().unwrap_or(0);
        EfficiencyReport {
            ledger: by_cause(&timeline.ledger),
            tile_utilisation: ratio(busy, all),
            tile_balance: ratio(busy, used),
            parallel_efficiency: ratio(busy, all)
                * ratio(timeline.cycles.compute as f64, cycles as f64),
            bytes_exchanged: timeline.origins.iter().map(|o| o.bytes_exchanged).sum(),
            shared_cycles: shared,
            ipus: (0..program.ipus)
                .map(|ipu| ipu_efficiency(program, timeline, ipu))
                .collect(),
            bounds: Bounds {
                arithmetic,
                arithmetic_all_ipus: arithmetic.div_ceil(u64::from(program.ipus.max(1))),
                ops: ops_bound,
                pipeline: busiest + shared,
                cycles,
            },
            uneven: uneven(timeline, tiles),
        }
    }
}

fn ipu_efficiency(program: &Program, timeline: &Timeline, ipu: u32) -> IpuEfficiency {
    let time = timeline.ipus.get(ipu as usize).cloned().unwrap_or_default();
    let here = || {
        let variables = program.variables.iter();
        variables.filter(move |v| program.grid(v.grid).ipu == IpuId(ipu))
    };
    let sum: u64 = time.tiles.iter().sum();
    IpuEfficiency {
        ipu,
        busy_cycles: time.busy,
        compute_cycles: time.compute,
        waiting_cycles: timeline
            .cycles
            .total()
            .saturating_sub(time.busy)
            .saturating_sub(timeline.shared_cycles),
        tile_cycles_least: time.tiles.iter().copied().min().unwrap_or(0),
        tile_cycles_mean: sum / (time.tiles.len() as u64).max(1),
        tile_cycles_most: time.tiles.iter().copied().max().unwrap_or(0),
        live_bytes_bound: live_bytes(program, IpuId(ipu))
            .div_ceil(u64::from(program.machine.tiles_per_ipu).max(1))
            + u64::from(program.variables_from[ipu as usize]),
        highest_address: here()
            .map(|v| u64::from(v.address) + v.tile_bytes(program.grid(v.grid)) as u64)
            .max()
            .unwrap_or(0),
    }
}

/// Most bytes that are live on all tiles of an IPU together, over the steps of the program.
fn live_bytes(program: &Program, ipu: IpuId) -> u64 {
    let mut changes: Vec<(u32, i64)> = Vec::new();
    let mut always = 0i64;
    for variable in &program.variables {
        let grid = program.grid(variable.grid);
        if grid.ipu != ipu {
            continue;
        }
        let bytes = (variable.tile_bytes(grid) * grid.points()) as i64;
        match variable.live {
            Some((first, last)) => {
                changes.push((first, bytes));
                changes.push((last.saturating_add(1), -bytes));
            }
            None => always += bytes,
        }
    }
    // At one step, what ends goes before what begins.
    changes.sort_unstable();
    let mut live = always;
    let mut most = always;
    for (_, change) in changes {
        live += change;
        most = most.max(live);
    }
    most as u64
}

fn uneven(timeline: &Timeline, tiles: u64) -> Vec<UnevenSet> {
    let mut sets: IndexMap<String, UnevenSet> = IndexMap::new();
    for step in timeline.steps.iter().filter(|s| s.kind == Kind::Compute) {
        let used = step.cycles * u64::from(step.tiles);
        let lost = (step.cycles * tiles).saturating_sub(step.tile_cycles) / tiles.max(1);
        let name = class_name(&step.name);
        let set = sets.entry(name.clone()).or_insert(UnevenSet {
            name,
            executions: 0,
            cycles: 0,
            tiles: step.tiles,
            balance: 1.0,
            lost_cycles: 0,
        });
        set.executions += step.times;
        set.cycles = set
            .cycles
            .saturating_add(step.cycles.saturating_mul(step.times));
        set.tiles = set.tiles.min(step.tiles);
        set.balance = set
            .balance
            .min(step.tile_cycles as f64 / used.max(1) as f64);
        set.lost_cycles = set
            .lost_cycles
            .saturating_add(lost.saturating_mul(step.times));
    }
    let mut sets: Vec<UnevenSet> = sets.into_values().collect();
    sets.sort_by_key(|set| std::cmp::Reverse(set.lost_cycles));
    sets.truncate(NAMED);
    sets
}
