//! What a matmul plan costs on a machine: the exchange formulae of mk2.md §4 and the codelets' own.
//!
//! All numbers are those of the busiest tile. A block that two neighbouring tiles both receive passes at twice the rate (pair mode).

use serde::{Deserialize, Serialize};
use superstep_ir::machine::Machine;
use superstep_ir::machine::code_size::{CALL_EXCHANGE, RECEIVED_REGION};
use superstep_ir::machine::codelet_cost::matmul::{AmpMatmul, amp_matmul};
use superstep_ir::machine::codelet_cost::{reduce::reduce, transpose::transpose};
use superstep_ir::machine::exchange_cost::copy_cycles;
use superstep_ir::types::DType;
use superstep_ir::units::{Bytes, Cycles};

use super::{GRAIN_N, Inner, MatmulPlan, MatmulProblem, Operand, Outcome, Ring, share_of_result};

/// Cycles and memory of a plan, by what they are spent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanCost {
    /// The matrix unit, transposes inside the vertices included.
    pub multiply: Cycles,
    /// Turning operands where they lie.
    pub turn: Cycles,
    /// Summing partials.
    pub reduce: Cycles,
    /// Exchanges that bring operands, copies inside a tile included.
    pub operands: Cycles,
    /// Exchanges between neighbours on a ring.
    pub shifts: Cycles,
    /// Exchanges of partials or results.
    pub partials: Cycles,
    pub sync: Cycles,
    /// Received operands and partials on a tile.
    pub temporary_bytes: Bytes,
    /// Exchange code of a tile for all rounds: a receive for every contiguous run.
    pub code_bytes: Bytes,
    /// The tile's part of the result.
    pub result_bytes: Bytes,
}

impl PlanCost {
    pub const fn compute(&self) -> Cycles {
        self.multiply + self.turn + self.reduce
    }

    pub const fn exchange(&self) -> Cycles {
        self.operands + self.shifts + self.partials
    }

    pub const fn cycles(&self) -> Cycles {
        self.compute() + self.exchange() + self.sync
    }

    /// Bytes of a tile that the plan takes for itself. Slices make operands smaller and code longer, so that there is an end to what they save.
    pub const fn working_bytes(&self) -> Bytes {
        self.temporary_bytes + self.code_bytes
    }
}

/// The largest block of one tile in one round.
#[derive(Clone, Copy)]
struct Tile {
    groups: usize,
    rows: usize,
    depth: usize,
    columns: usize,
}

impl Tile {
    fn of(problem: &MatmulProblem, plan: &MatmulPlan) -> Tile {
        let on_given_cuts = matches!(problem.out, Outcome::Fixed { .. })
            || matches!(problem.b, Operand::Stays { .. });
        let (grain_k, grain_n) = match on_given_cuts {
            true => (1, 1),
            false => (problem.grain_k(), GRAIN_N),
        };
        let depth = match plan.ring {
            Some(ring) => problem.k / (ring.length * plan.k),
            None => part(problem.k.div_ceil(plan.serial_k), grain_k, plan.k),
        };
        Tile {
            groups: part(problem.groups, 1, plan.g),
            rows: part(problem.m / plan.serial_m, 1, plan.m),
            depth,
            columns: part(problem.n, grain_n, plan.n),
        }
    }
}

/// The largest of `parts` parts of `size` in whole grains.
fn part(size: usize, grain: usize, parts: usize) -> usize {
    (size.div_ceil(grain).div_ceil(parts) * grain).min(size)
}

/// Bytes that a tile receives, those of them that its neighbour receives too, and the contiguous runs they come in.
#[derive(Clone, Copy, Default)]
struct Incoming {
    narrow: usize,
    wide: usize,
    fragments: usize,
}

impl Incoming {
    /// A block in runs of `run` bytes, that both tiles of a pair receive if `wide`.
    const fn block(bytes: usize, run: usize, wide: bool) -> Incoming {
        let fragments = if run == 0 { 0 } else { bytes.div_ceil(run) };
        let (narrow, wide) = if wide { (0, bytes) } else { (bytes, 0) };
        Incoming {
            narrow,
            wide,
            fragments,
        }
    }

    const fn and(self, other: Incoming) -> Incoming {
        Incoming {
            narrow: self.narrow + other.narrow,
            wide: self.wide + other.wide,
            fragments: self.fragments + other.fragments,
        }
    }

    /// Cycles after the sync; nothing to receive costs nothing.
    fn cycles(self, machine: &Machine) -> Cycles {
        if self.is_nothing() {
            return 0;
        }
        let rate = machine.exchange_bytes_per_cycle;
        let twice = if machine.exchange_pair_mode {
            2.0 * rate
        } else {
            rate
        };
        machine.exchange_start_cycles
            + (self.narrow as f64 / rate).ceil() as Cycles
            + (self.wide as f64 / twice).ceil() as Cycles
            + self.fragments as Cycles * machine.exchange_fragment_cycles
    }

    const fn is_nothing(self) -> bool {
        self.narrow + self.wide == 0
    }

    /// Exchange code to receive it `times` times, from other places each time.
    const fn code(self, times: usize) -> Bytes {
        let each = CALL_EXCHANGE as usize + RECEIVED_REGION as usize * self.fragments;
        if self.is_nothing() {
            0
        } else {
            (each * times) as Bytes
        }
    }
}

/// The block of an operand that a tile needs in one round or step.
#[derive(Clone, Copy)]
struct Block {
    bytes: usize,
    /// Bytes of its contiguous runs.
    run: usize,
    /// Both tiles of every pair need it.
    wide: bool,
}

impl Block {
    /// The blocks of the two operands.
    fn of_operands(problem: &MatmulProblem, plan: &MatmulPlan, tile: Tile) -> [Block; 2] {
        let element = problem.input.bytes();
        let (a_wide, b_wide) = pairs_share(problem, plan);
        let a_is_turned = problem.transpose_a && !plan.turn_a;
        let b_is_turned = problem.transpose_b && !plan.turn_b;
        let a_run = if a_is_turned { tile.rows } else { tile.depth };
        let b_run = if b_is_turned {
            tile.depth
        } else {
            tile.columns
        };
        let block = |elements: usize, run: usize, wide: bool| Block {
            bytes: tile.groups * elements * element,
            run: run * element,
            wide,
        };
        [
            block(tile.rows * tile.depth, a_run, a_wide),
            block(tile.depth * tile.columns, b_run, b_wide),
        ]
    }

    /// `bytes` of such blocks.
    const fn incoming(self, bytes: usize) -> Incoming {
        Incoming::block(bytes, self.run, self.wide)
    }
}

/// Whether the two tiles of every pair hold the same rows (`.0`) or the same columns (`.1`) of the result.
fn pairs_share(problem: &MatmulProblem, plan: &MatmulPlan) -> (bool, bool) {
    match problem.b {
        Operand::Stays {
            pairs_share_depth, ..
        } => (pairs_share_depth, false),
        _ => {
            // Of a dimension that a ring goes over, only the copies inside each place share.
            let copies = |parts: usize, rotates: bool| match plan.ring {
                Some(ring) if rotates => parts / ring.length,
                _ => parts,
            };
            let m = copies(plan.m, plan.ring.is_some_and(|r| r.b));
            let n = copies(plan.n, plan.ring.is_some_and(|r| r.a));
            match plan.inner {
                Inner::N => (
                    n.is_multiple_of(2),
                    n == 1 && plan.n == 1 && m.is_multiple_of(2),
                ),
                Inner::M => (
                    m == 1 && plan.m == 1 && n.is_multiple_of(2),
                    m.is_multiple_of(2),
                ),
            }
        }
    }
}

/// The plan with its cost filled in.
pub fn cost(machine: &Machine, problem: &MatmulProblem, mut plan: MatmulPlan) -> MatmulPlan {
    let tile = Tile::of(problem, &plan);
    let mut cost = PlanCost {
        multiply: multiply(machine, problem, &plan, tile),
        ..PlanCost::default()
    };
    turn(machine, problem, &plan, &mut cost);
    match plan.ring {
        None => gather(machine, problem, &plan, tile, &mut cost),
        Some(ring) => shift(machine, problem, &plan, tile, ring, &mut cost),
    }
    sum(machine, problem, &plan, tile, &mut cost);
    plan.cost = cost;
    plan
}

/// Cycles of all multiplications of a tile.
fn multiply(machine: &Machine, problem: &MatmulProblem, plan: &MatmulPlan, tile: Tile) -> Cycles {
    let call = |accumulate| AmpMatmul {
        input: problem.input,
        partials: problem.partials,
        groups: tile.groups as u64,
        rows: tile.rows as u64,
        depth: tile.depth as u64,
        columns: tile.columns as u64,
        accumulate,
    };
    let steps = (plan.serial_k * plan.ring.map_or(1, |r| r.length)) as Cycles;
    let adds = matches!(problem.out, Outcome::Fixed { .. });
    let product = amp_matmul(machine, &call(adds)) + (steps - 1) * amp_matmul(machine, &call(true));
    let turned = |rows: usize, columns: usize| {
        let (groups, rows, columns) = (tile.groups as u64, rows as u64, columns as u64);
        transpose(machine, problem.input, groups, rows, columns).cycles
    };
    let mut turning = 0;
    if problem.transpose_a && !plan.turn_a {
        turning += turned(tile.depth, tile.rows);
    }
    if problem.transpose_b && !plan.turn_b {
        turning += turned(tile.columns, tile.depth);
    }
    (product + turning * steps) * plan.serial_m as Cycles
}

/// Turning an operand where it lies: first it is spread evenly, unless it is at rest, then each tile turns its share.
fn turn(machine: &Machine, problem: &MatmulProblem, plan: &MatmulPlan, cost: &mut PlanCost) {
    let tiles = machine.tiles_per_ipu as usize;
    let bytes = problem.input.bytes();
    let mut one = |elements: usize, rests: bool| {
        let share = elements.div_ceil(tiles).max(32);
        let side = (share as f64).sqrt().ceil() as u64;
        cost.turn += transpose(machine, problem.input, 1, side, side).cycles;
        if !rests {
            let incoming = Incoming::block(share * bytes, side as usize * bytes, false);
            cost.operands += incoming.cycles(machine);
            cost.sync += machine.sync_cycles;
        }
        cost.temporary_bytes += (share * bytes) as Bytes * if rests { 1 } else { 2 };
    };
    if problem.transpose_a && plan.turn_a {
        one(problem.groups * problem.m * problem.k, false);
    }
    if problem.transpose_b && plan.turn_b {
        let rests = problem.b != Operand::Elsewhere;
        one(problem.groups * problem.k * problem.n, rests);
    }
}

/// Every round brings whole blocks.
fn gather(
    machine: &Machine,
    problem: &MatmulProblem,
    plan: &MatmulPlan,
    tile: Tile,
    cost: &mut PlanCost,
) {
    let [a, b] = Block::of_operands(problem, plan, tile);
    let (b_in, b_local) = match problem.b {
        Operand::Elsewhere => (b.incoming(b.bytes), 0),
        Operand::RestsHere => {
            let own = b.bytes / plan.m;
            let partner = if b.wide { own.min(b.bytes - own) } else { 0 };
            let rest = b.incoming(b.bytes - own - partner);
            let partner = Incoming::block(partner, b.run, false);
            (rest.and(partner), if plan.m > 1 { own } else { 0 })
        }
        Operand::Stays { .. } => (Incoming::default(), 0),
    };
    let a_in = a.incoming(a.bytes);
    // With one slice of k the weights stay while the row slices pass by.
    let with_b = plan.serial_k * if plan.serial_k == 1 { 1 } else { plan.serial_m };
    let rounds = plan.serial_m * plan.serial_k;
    let hot = senders(machine, problem, plan);
    let both = a_in.and(b_in).cycles(machine).max(hot) + copy_cycles(machine, b_local as Bytes, 1);
    let both = both * with_b as Cycles;
    let a_alone = a_in.cycles(machine).max(hot) * (rounds - with_b) as Cycles;
    cost.operands += both + a_alone;
    cost.sync += machine.sync_cycles * rounds as Cycles;
    cost.code_bytes += a_in.code(rounds) + b_in.code(with_b);
    // What stays, or rests without another tile that needs it, is not received.
    let b_held = if b_in.is_nothing() { 0 } else { b.bytes };
    cost.temporary_bytes += (a.bytes + b_held) as Bytes;
}

/// Cycles of the tiles that send. A slice lies on few tiles, which then send all they have.
fn senders(machine: &Machine, problem: &MatmulProblem, plan: &MatmulPlan) -> Cycles {
    let tiles = machine.tiles_per_ipu as usize;
    let share = |elements: usize| elements.div_ceil(tiles) * problem.input.bytes();
    let a = share(problem.groups * problem.m * problem.k);
    let b = match problem.b {
        Operand::Stays { .. } => 0,
        _ => share(problem.groups * problem.k * problem.n),
    };
    let sliced = plan.serial_m * plan.serial_k > 1;
    let busiest = if sliced { a.max(b) } else { a + b };
    Incoming::block(busiest, 0, false).cycles(machine)
}

/// Pieces rotate; an operand that does not is gathered whole before the first step.
fn shift(
    machine: &Machine,
    problem: &MatmulProblem,
    plan: &MatmulPlan,
    tile: Tile,
    ring: Ring,
    cost: &mut PlanCost,
) {
    let [a, b] = Block::of_operands(problem, plan, tile);
    let steps = ring.length;
    let first =
        |piece: Block, rotates: bool| piece.incoming(piece.bytes * if rotates { 1 } else { steps });
    let b_first = match (problem.b, ring.b) {
        // Each tile has its share of the first piece already.
        (Operand::RestsHere, true) => {
            let own = b.bytes * steps / plan.m;
            b.incoming(b.bytes.saturating_sub(own))
        }
        _ => first(b, ring.b),
    };
    let at_first = first(a, ring.a).and(b_first);
    cost.operands += at_first.cycles(machine);
    // All steps take from the same neighbours.
    cost.code_bytes += at_first.code(1);
    // A piece on its way lies in one run.
    let moving = |piece: Block, rotates: bool| match rotates {
        true => Incoming::block(piece.bytes, piece.bytes, piece.wide),
        false => Incoming::default(),
    };
    let step = moving(a, ring.a).and(moving(b, ring.b));
    cost.shifts += step.cycles(machine) * (steps as Cycles - 1);
    cost.sync += machine.sync_cycles * steps as Cycles;
    let held = |piece: Block, rotates: bool| piece.bytes * if rotates { 2 } else { steps };
    cost.temporary_bytes += (held(a, ring.a) + held(b, ring.b)) as Bytes;
}

/// Partial sums, or a result that goes elsewhere: every tile gets its share of the rows from all parts of the contraction.
fn sum(
    machine: &Machine,
    problem: &MatmulProblem,
    plan: &MatmulPlan,
    tile: Tile,
    cost: &mut PlanCost,
) {
    let bytes = problem.partials.bytes();
    let out = tile.groups * tile.rows * tile.columns * bytes;
    let parts = match problem.b {
        Operand::Stays { depth_parts, .. } => depth_parts,
        _ => [plan.k, 1],
    };
    let ([rows, columns], _) = share_of_result([tile.rows, tile.columns], parts);
    let share = tile.groups * rows * columns;
    let travels = problem.out == Outcome::Travels;
    let rounds = plan.serial_m as Cycles;
    cost.result_bytes = (share * bytes) as Bytes * rounds;
    if plan.k == 1 && !travels {
        return;
    }
    let received = (share * bytes * plan.k).max(out);
    let own = if travels { 0 } else { share * bytes };
    let received = Incoming::block(received - own, columns * bytes, false);
    let partials = received.cycles(machine) + copy_cycles(machine, own as Bytes, 1);
    cost.partials += partials * rounds;
    cost.code_bytes += received.code(plan.serial_m);
    cost.sync += machine.sync_cycles * rounds;
    let terms = (plan.k + usize::from(travels)) as u64;
    let types: [DType; 2] = [problem.partials; 2];
    cost.reduce += reduce(machine, types, share as u64, terms).cycles * rounds;
    // The operands are gone when the partials arrive.
    let summing = (out + share * bytes * plan.k) as Bytes;
    cost.temporary_bytes = (cost.temporary_bytes + out as Bytes).max(summing);
}
