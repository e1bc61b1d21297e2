//! Exhaustive search over splits, slices and styles.
//!
//! For every split of g, m, n, k the slices, turns and rings that make sense are costed. Splits that give the same block sizes are
//! considered once (with the fewest parts, and with an even number of them, which pair mode favours); on small machines every number of
//! parts is. A split is passed over when the matrix unit alone would need four times the cycles of the best plan known.

use rayon::prelude::*;
use superstep_ir::machine::Machine;
use superstep_ir::units::{Bytes, Cycles};

use super::cost::cost;
use super::front::Front;
use super::{GRAIN_N, Inner, MatmulPlan, MatmulProblem, Operand, Outcome, PlanStyle, Ring};

/// Up to so many parts every number of parts is tried.
const ALL_COUNTS: usize = 64;
/// Most parts of the contraction: more partials than this are never worth their exchange.
const MOST_K: usize = 128;
const SERIAL_M: [usize; 6] = [1, 2, 4, 8, 16, 32];
const SERIAL_K: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// A split is passed over when its lower bound exceeds the best plan by this factor.
const HOPELESS: Cycles = 4;

/// All plans of a problem that none beats in memory and cycles. Never empty: with [`PlanStyle::Shift`] problems without a ring are gathered.
pub fn search(machine: &Machine, problem: &MatmulProblem, style: PlanStyle) -> Front {
    search_among(machine, problem, style, &|_| true)
}

/// The search among plans that `may` be chosen; empty when there are none.
pub fn search_among(
    machine: &Machine,
    problem: &MatmulProblem,
    style: PlanStyle,
    may: &Filter,
) -> Front {
    let gathered = || run(machine, problem, &gather_plans, may);
    let shifted = || run(machine, problem, &shift_plans, may);
    match style {
        PlanStyle::Gather => gathered(),
        PlanStyle::Auto => gathered().merge(shifted()),
        PlanStyle::Shift => {
            let front = shifted();
            if front.is_empty() { gathered() } else { front }
        }
    }
}

/// Which plans, without their cost, are considered.
pub type Filter = dyn Fn(&MatmulPlan) -> bool + Sync;

type Family = dyn Fn(&mut Scan<'_>, [usize; 4]) + Sync;

fn run(machine: &Machine, problem: &MatmulProblem, family: &Family, may: &Filter) -> Front {
    let scan = |limit| {
        let parts = first_splits(machine, problem).into_par_iter();
        let fronts = parts.map(|(g, n)| {
            let mut scan = Scan {
                machine,
                problem,
                may,
                resting_limit: limit,
                best: Cycles::MAX,
                front: Front::default(),
            };
            scan.splits(g, n, family);
            scan.front
        });
        // Merged in order, so that the outcome does not depend on threads.
        fronts
            .collect::<Vec<_>>()
            .into_iter()
            .fold(Front::default(), Front::merge)
    };
    let limit = fair_share(machine, problem);
    let front = scan(limit);
    if front.is_empty() && limit.is_some() {
        return scan(None);
    }
    front
}

/// Bytes that a weight may rest with on a tile when it is large: a fair share and a sixteenth. Its accumulator and moments rest there too.
fn fair_share(machine: &Machine, problem: &MatmulProblem) -> Option<usize> {
    let fair = problem.k * problem.n * problem.input.bytes() / machine.tiles_per_ipu as usize;
    let large = problem.b == Operand::RestsHere && fair * 32 >= machine.tile_memory as usize;
    large.then_some(fair + fair / 16)
}

/// Pairs of parts of g and n.
fn first_splits(machine: &Machine, problem: &MatmulProblem) -> Vec<(usize, usize)> {
    let tiles = machine.tiles_per_ipu as usize;
    if let Outcome::Fixed { column_parts, .. } = problem.out {
        return vec![(1, column_parts)];
    }
    if let Operand::Stays { column_parts, .. } = problem.b {
        return vec![(1, column_parts)];
    }
    let mut splits = Vec::new();
    for g in part_counts(problem.groups, tiles) {
        for n in part_counts(problem.n.div_ceil(GRAIN_N), tiles / g) {
            splits.push((g, n));
        }
    }
    splits
}

struct Scan<'a> {
    machine: &'a Machine,
    problem: &'a MatmulProblem,
    may: &'a Filter,
    resting_limit: Option<usize>,
    /// Cycles of the fastest plan.
    best: Cycles,
    front: Front,
}

impl Scan<'_> {
    fn splits(&mut self, g: usize, n: usize, family: &Family) {
        let problem = self.problem;
        if let Outcome::Fixed { row_parts, .. } = problem.out {
            return family(self, [g, row_parts, n, 1]);
        }
        if let Operand::Stays { depth_parts, .. } = problem.b {
            return family(self, [g, 1, n, depth_parts.iter().product()]);
        }
        let left = self.machine.tiles_per_ipu as usize / g / n;
        let ks = part_counts(problem.k.div_ceil(problem.grain_k()), left.min(MOST_K));
        for k in ks {
            // Most parts first: they are the fastest, and what follows is soon hopeless.
            for m in part_counts(problem.m, left / k).into_iter().rev() {
                if self.is_hopeless(g * m * n * k) {
                    break;
                }
                if self.rests_within_limit(n, k, m) {
                    family(self, [g, m, n, k]);
                }
            }
        }
    }

    fn rests_within_limit(&self, n: usize, k: usize, m: usize) -> bool {
        let Some(limit) = self.resting_limit else {
            return true;
        };
        let columns = self.problem.n.div_ceil(GRAIN_N).div_ceil(n) * GRAIN_N;
        self.problem.k.div_ceil(k * m) * columns * self.problem.input.bytes() <= limit
    }

    fn is_hopeless(&self, tiles: usize) -> bool {
        let bound = self.problem.arithmetic_cycles(self.machine, tiles as u64);
        bound / HOPELESS > self.best
    }

    /// Costs a plan, and keeps it if it may be chosen.
    fn consider(&mut self, plan: MatmulPlan) -> MatmulPlan {
        let plan = cost(self.machine, self.problem, plan);
        if (self.may)(&plan) {
            self.best = self.best.min(plan.cost.cycles());
            self.front.insert(plan);
        }
        plan
    }

    /// The combinations of innermost dimension and turned operands for a split.
    fn variants(&self, split: [usize; 4]) -> impl Iterator<Item = MatmulPlan> + use<> {
        let (turns_a, turns_b) = (self.problem.transpose_a, self.problem.transpose_b);
        let given = self.problem.gives_split();
        let inner = match self.problem.out {
            Outcome::Fixed { inner, .. } => inner,
            _ => Inner::N,
        };
        (0..8usize).filter_map(move |bits| {
            let (by_rows, turn_a, turn_b) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            let pointless = by_rows && given || turn_a && !turns_a || turn_b && !turns_b;
            (!pointless).then_some(MatmulPlan {
                inner: if by_rows { Inner::M } else { inner },
                turn_a,
                turn_b,
                ..MatmulPlan::split(split)
            })
        })
    }
}

/// Gathering plans of a split: unsliced, and in more and more slices as long as that saves memory.
fn gather_plans(scan: &mut Scan<'_>, split: [usize; 4]) {
    let problem = scan.problem;
    let m_is_fixed = matches!(problem.out, Outcome::Fixed { .. } | Outcome::Travels);
    let k_is_fixed = matches!(problem.b, Operand::Stays { .. });
    for base in scan.variants(split) {
        let mut rows_held = Bytes::MAX;
        for serial_m in SERIAL_M {
            let divides = problem.m.is_multiple_of(serial_m) && problem.m / serial_m >= base.m;
            if serial_m > 1 && (!divides || m_is_fixed) {
                break;
            }
            let mut held = Bytes::MAX;
            for serial_k in SERIAL_K {
                let too_thin = problem.k / serial_k < base.k * problem.grain_k();
                if serial_k > 1 && (too_thin || k_is_fixed) {
                    break;
                }
                let plan = scan.consider(MatmulPlan {
                    serial_m,
                    serial_k,
                    ..base
                });
                let before = std::mem::replace(&mut held, plan.cost.working_bytes());
                if serial_k == 1 {
                    let rows_before = std::mem::replace(&mut rows_held, held);
                    if !saves(rows_before, held) {
                        break;
                    }
                }
                if !saves(before, held) || held <= ENOUGH {
                    break;
                }
            }
            if rows_held <= ENOUGH {
                break;
            }
        }
    }
}

/// No plan needs less temporary memory than this, bytes a tile: slices stop here.
const ENOUGH: Bytes = 8 << 10;

/// Whether another slicing frees enough to go on with it: a twentieth.
const fn saves(before: Bytes, after: Bytes) -> bool {
    after < before - before / 20
}

/// Plans of a split in which one or both operands rotate. The contraction must fall into equal pieces.
fn shift_plans(scan: &mut Scan<'_>, split: [usize; 4]) {
    let problem = scan.problem;
    let [_, m, n, k] = split;
    if matches!(problem.out, Outcome::Fixed { .. })
        || matches!(problem.b, Operand::Stays { .. })
        || !problem.k.is_multiple_of(k)
    {
        return;
    }
    for base in scan.variants(split) {
        for length in 2..=m.max(n).min(MOST_RING) {
            if !problem.k.is_multiple_of(k * length) || problem.k / (k * length) < problem.grain_k()
            {
                continue;
            }
            for (a, b) in [(true, false), (false, true), (true, true)] {
                let ring = Ring { length, a, b };
                if ring_fits(problem, split, ring) {
                    let ring = Some(ring);
                    scan.consider(MatmulPlan { ring, ..base });
                }
            }
        }
    }
}

/// Whether parts and extents divide into the places of a ring, and the contraction into pieces of a grain or more.
pub fn ring_fits(problem: &MatmulProblem, [_, m, n, k]: [usize; 4], ring: Ring) -> bool {
    let length = ring.length;
    let columns = n.is_multiple_of(length) && problem.n.is_multiple_of(GRAIN_N * length);
    let rows = m.is_multiple_of(length) && problem.m.is_multiple_of(length);
    problem.k.is_multiple_of(k * length)
        && problem.k / (k * length) >= problem.grain_k()
        && (!ring.a || columns)
        && (!ring.b || rows)
}

/// Longest ring: its operands take two moves for each of its tiles.
const MOST_RING: usize = 32;

/// Numbers of parts of `grains` worth a look: all when they are few; else for each block size the fewest parts that reach it, and
/// one more when that makes an even number.
pub fn part_counts(grains: usize, limit: usize) -> Vec<usize> {
    let most = limit.min(grains);
    if most <= ALL_COUNTS {
        return (1..=most).collect();
    }
    let mut counts = Vec::new();
    let mut parts = 1;
    while parts <= most {
        let block = grains.div_ceil(parts);
        let fewest = grains.div_ceil(block);
        counts.push(fewest);
        let even = fewest + 1;
        if fewest % 2 == 1 && even <= most && grains.div_ceil(even) == block {
            counts.push(even);
        }
        if block == 1 {
            break;
        }
        parts = grains.div_ceil(block - 1);
    }
    counts
}
