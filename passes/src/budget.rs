//! How much memory every op may use for what it brings and throws away: what its tiles have free while it runs.
//!
//! A first lowering, with the same share of memory for all ops, shows what is alive besides an op's own temporaries. The next gives every op the
//! room that is left, so that only ops at the peak of memory must work in slices.

use rustc_hash::FxHashMap;
use superstep_ir::ids::IpuId;
use superstep_ir::machine::Machine;
use superstep_ir::program::{Category, Program};
use superstep_ir::units::Bytes;

use crate::memory::available;
use crate::place::Limits;

/// Bytes on a tile for the temporaries of one op.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budgets {
    /// Of ops that are not named below.
    pub default: Bytes,
    by_op: FxHashMap<String, Bytes>,
}

/// No op gets less, or products of small pieces would take for ever.
const LEAST: Bytes = 16 << 10;

impl Budgets {
    /// The same share of a tile's memory for every op.
    pub fn proportion(machine: &Machine, share: f64) -> Budgets {
        Budgets {
            default: (f64::from(machine.tile_memory) * share) as Bytes,
            by_op: FxHashMap::default(),
        }
    }

    /// None of these ops gets more than the bytes beside it.
    pub fn capped(mut self, caps: &[(String, Bytes)]) -> Budgets {
        for (op, cap) in caps {
            let budget = self.of(op).min(*cap);
            self.by_op.insert(op.clone(), budget);
        }
        self
    }

    pub fn of(&self, op: &str) -> Bytes {
        self.by_op.get(op).copied().unwrap_or(self.default)
    }
}

/// What is alive in a program with known live ranges and room for its code, besides the temporaries of the op that runs.
pub(crate) struct Alive<'p> {
    program: &'p Program,
    /// By IPU, every op (its origin's number) with the most bytes on one tile.
    residents: Vec<Vec<(usize, Bytes)>>,
}

impl<'p> Alive<'p> {
    pub(crate) fn of(program: &'p Program) -> Alive<'p> {
        let spans = spans(program);
        let ipus = (0..program.ipus).map(IpuId);
        let residents = ipus.map(|ipu| residents(program, ipu, &spans)).collect();
        Alive { program, residents }
    }

    /// Most bytes on a tile of an IPU.
    pub(crate) fn most(&self, ipu: IpuId) -> Bytes {
        let residents = self.residents[ipu.index()].iter();
        residents.map(|r| r.1).max().unwrap_or(0)
    }

    /// Whether it leaves nothing on some tile: smaller temporaries cannot help.
    pub(crate) fn is_hopeless(&self) -> bool {
        let mut ipus = (0..self.program.ipus).map(IpuId);
        ipus.any(|ipu| self.most(ipu) > available(self.program, ipu))
    }

    /// For every op the grant of its IPU; no op gets more than its IPU's limit.
    pub(crate) fn budgets(&self, grants: &[Grant], limits: &Limits) -> Budgets {
        let mut by_op: FxHashMap<String, Bytes> = FxHashMap::default();
        for ((ipu, residents), grant) in (0..).map(IpuId).zip(&self.residents).zip(grants) {
            let available = available(self.program, ipu);
            for &(origin, resident) in residents {
                let bytes = match *grant {
                    Grant::OfFree(share) => available.saturating_sub(resident) as f64 * share,
                    Grant::OfTile(share) => f64::from(self.program.machine.tile_memory) * share,
                };
                let bytes = (bytes as Bytes).min(limits.on(ipu)).max(LEAST);
                let name = &self.program.origins[origin].name;
                by_op
                    .entry(name.clone())
                    .and_modify(|known| *known = bytes.min(*known))
                    .or_insert(bytes);
            }
        }
        Budgets {
            default: LEAST,
            by_op,
        }
    }
}

/// What every op of an IPU may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Grant {
    /// This share of what it leaves free on the fullest tile.
    OfFree(f64),
    /// This share of a tile, whatever is free: slices that do not change with what is beside them are alike in all layers, and share code.
    OfTile(f64),
}

impl Grant {
    /// Whether it is less of the same.
    pub(crate) fn is_less_than(self, other: Grant) -> bool {
        match (self, other) {
            (Grant::OfFree(a), Grant::OfFree(b)) | (Grant::OfTile(a), Grant::OfTile(b)) => a < b,
            _ => false,
        }
    }
}

/// First and last step of every op, in the numbering of [`Program::walk`].
fn spans(program: &Program) -> Vec<Option<(u32, u32)>> {
    let mut spans: Vec<Option<(u32, u32)>> = vec![None; program.origins.len()];
    let mut at = 0;
    program.walk(&mut |step, _| {
        if let Some(origin) = step.origin() {
            spans[origin.index()].get_or_insert((at, at)).1 = at;
        }
        at += 1;
    });
    spans
}

/// For every op of an IPU the most bytes on one tile, during the op, of all that is not a temporary of the op itself.
fn residents(program: &Program, ipu: IpuId, spans: &[Option<(u32, u32)>]) -> Vec<(usize, Bytes)> {
    let last_step = spans.iter().flatten().map(|s| s.1).max().unwrap_or(0);
    let mut ops: Vec<(usize, (u32, u32))> = Vec::new();
    for (i, span) in spans.iter().enumerate() {
        if let Some(span) = span.filter(|_| program.origins[i].ipu == ipu) {
            ops.push((i, span));
        }
    }
    ops.sort_by_key(|op| op.1);
    // What starts or ends at a step.
    let mut events: Vec<(u32, bool, usize)> = Vec::new();
    for (v, variable) in program.variables.iter().enumerate() {
        let grid = program.grid(variable.grid);
        if grid.ipu != ipu {
            continue;
        }
        let (from, to) = variable.live.unwrap_or((0, last_step));
        let within = ops.partition_point(|op| op.1.0 <= from);
        let own = within > 0 && to <= ops[within - 1].1.1;
        if own && variable.category == Category::Temporary {
            continue;
        }
        events.push((from, true, v));
        events.push((to + 1, false, v));
    }
    events.sort_unstable();
    let mut now = vec![0u64; program.machine.tiles_per_ipu as usize];
    let mut next = 0;
    let mut found = Vec::new();
    for (origin, (first, last)) in ops {
        let mut most = 0;
        loop {
            let until = events.get(next).map_or(u32::MAX, |e| e.0);
            if until > first {
                most = most.max(now.iter().copied().max().unwrap_or(0));
            }
            if until > last {
                break;
            }
            let (_, starts, v) = events[next];
            let variable = &program.variables[v];
            let grid = program.grid(variable.grid);
            let bytes = variable.tile_bytes(grid) as u64;
            for tile in grid.tile_ids() {
                let held = &mut now[tile.index()];
                *held = if starts { *held + bytes } else { *held - bytes };
            }
            next += 1;
        }
        found.push((origin, most));
    }
    found
}
