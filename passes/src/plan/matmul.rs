//! The matmul planner: how `[g] × [m,k]·[k,n]` is split over tiles and over time.
//!
//! Parallel splits of g, m, n, k make the grid; serial splits of m and k bound the temporary memory. Each candidate is costed with the
//! machine's formulae: operands in, multiply, partials out and summed (mk2.md §4). The cheapest that fits the budget wins; when none fits,
//! the one with the least temporary memory.

use rustc_hash::FxHashMap;
use superstep_ir::machine::Machine;
use superstep_ir::machine::codelet_cost::{BlockShape, vertex_cycles};
use superstep_ir::op::ReduceKind;
use superstep_ir::program::Codelet;
use superstep_ir::types::{DType, Shape};
use superstep_ir::units::{Bytes, Cycles, ceil_div};

/// Rows of the weight block that the matrix unit holds at a time (f32), and its output channels.
pub const GRAIN_K: usize = 8;
pub const GRAIN_N: usize = 16;

/// What is to be multiplied, as far as the cost depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatmulProblem {
    pub groups: usize,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub transpose_a: bool,
    pub transpose_b: bool,
    pub dtype: DType,
    /// `b` is state whose resting place this plan decides: each tile then holds `1/m` of what it needs.
    pub b_is_placed_here: bool,
    /// The result is added to a tensor that lies elsewhere, so even without a k-split it travels once more.
    pub result_moves: bool,
    /// The output is fixed: this many parts of m and n, no split of k (results stay where they are accumulated).
    pub fixed: Option<(usize, usize)>,
    pub budget: Bytes,
}

/// A point of the search space with its predicted cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulPlan {
    pub g: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Serial slices of the rows of `a`; divides m.
    pub serial_m: usize,
    /// Serial slices of the contraction.
    pub serial_k: usize,
    pub cycles: Cycles,
    pub temporary_bytes: Bytes,
}

/// Plans found so far, by problem: identical layers are planned once.
#[derive(Default)]
pub struct MatmulPlans {
    known: FxHashMap<MatmulProblem, MatmulPlan>,
}

impl MatmulPlans {
    pub fn plan(&mut self, machine: &Machine, problem: &MatmulProblem) -> MatmulPlan {
        if let Some(plan) = self.known.get(problem) {
            return *plan;
        }
        let plan = search(machine, problem);
        self.known.insert(problem.clone(), plan);
        plan
    }
}

/// The distinct useful numbers of parts of `grains`: for each block size only the fewest parts that reach it.
fn part_counts(grains: usize, limit: usize) -> Vec<usize> {
    let mut counts = Vec::new();
    let mut parts = 1;
    while parts <= limit.min(grains) {
        let block = ceil_div(grains, parts);
        let fewest = ceil_div(grains, block);
        if counts.last() != Some(&fewest) {
            counts.push(fewest);
        }
        parts = if block == 1 {
            break;
        } else {
            ceil_div(grains, block - 1)
        };
    }
    counts
}

fn search(machine: &Machine, problem: &MatmulProblem) -> MatmulPlan {
    let tiles = machine.tiles_per_ipu as usize;
    let mut best: Option<MatmulPlan> = None;
    let mut consider = |plan: MatmulPlan| {
        let rank = |p: &MatmulPlan| {
            let over = p.temporary_bytes.saturating_sub(problem.budget)
                + wasted_at_rest(machine, problem, p);
            (over, p.cycles, p.temporary_bytes, p.g * p.m * p.n * p.k)
        };
        if best.as_ref().is_none_or(|b| rank(&plan) < rank(b)) {
            best = Some(plan);
        }
    };
    if let Some((m, n)) = problem.fixed {
        serial_variants(machine, problem, [1, m, n, 1], &mut consider);
    } else {
        for g in part_counts(problem.groups, tiles) {
            for n in part_counts(problem.n.div_ceil(GRAIN_N), tiles / g) {
                for k in part_counts(problem.k.div_ceil(GRAIN_K), (tiles / g / n).min(64)) {
                    for m in row_splits(problem.m, tiles / g / n / k) {
                        serial_variants(machine, problem, [g, m, n, k], &mut consider);
                    }
                }
            }
        }
    }
    best.expect("at least the unsplit plan is considered")
}

/// Bytes a tile that a weight resting on the plan's grid takes beyond a fair share (and a sixteenth), if that share is large: the weight, its
/// accumulator and its moments all rest there.
fn wasted_at_rest(machine: &Machine, problem: &MatmulProblem, plan: &MatmulPlan) -> Bytes {
    let fair = problem.k * problem.n * problem.dtype.bytes() / machine.tiles_per_ipu as usize;
    if !problem.b_is_placed_here || fair * 32 < machine.tile_memory as usize {
        return 0;
    }
    let columns = problem.n.div_ceil(GRAIN_N).div_ceil(plan.n) * GRAIN_N;
    let rest = ceil_div(problem.k, plan.k * plan.m) * columns * problem.dtype.bytes();
    (4 * rest.saturating_sub(fair + fair / 16)) as Bytes
}

/// Splits of the rows worth a look: the largest that fits, and those down to a quarter of it.
fn row_splits(m: usize, limit: usize) -> Vec<usize> {
    let all = part_counts(m, limit);
    let largest = all.last().copied().unwrap_or(1);
    all.into_iter()
        .filter(|&p| p * 4 >= largest)
        .rev()
        .take(6)
        .collect()
}

fn serial_variants(
    machine: &Machine,
    problem: &MatmulProblem,
    [g, m, n, k]: [usize; 4],
    consider: &mut impl FnMut(MatmulPlan),
) {
    for serial_m in [1usize, 2, 4, 8, 16, 32] {
        let divides = problem.m.is_multiple_of(serial_m) && problem.m / serial_m >= m;
        if serial_m > 1 && (!divides || problem.fixed.is_some() || problem.result_moves) {
            break;
        }
        for serial_k in [1usize, 2, 4, 8, 16, 32, 64] {
            if serial_k > 1 && problem.k / serial_k < k * GRAIN_K {
                continue;
            }
            let plan = cost(
                machine,
                problem,
                MatmulPlan {
                    g,
                    m,
                    n,
                    k,
                    serial_m,
                    serial_k,
                    cycles: 0,
                    temporary_bytes: 0,
                },
            );
            consider(plan);
            if plan.temporary_bytes <= problem.budget {
                break;
            }
        }
    }
}

/// Fills in cycles and temporary bytes of a plan.
pub fn cost(machine: &Machine, problem: &MatmulProblem, mut plan: MatmulPlan) -> MatmulPlan {
    let bytes = problem.dtype.bytes();
    let part = |size: usize, grain: usize, parts: usize| {
        (size.div_ceil(grain).div_ceil(parts) * grain).min(size)
    };
    let groups = part(problem.groups, 1, plan.g);
    let rows = part(problem.m / plan.serial_m, 1, plan.m);
    let columns = part(
        problem.n,
        if problem.fixed.is_some() { 1 } else { GRAIN_N },
        plan.n,
    );
    let depth = part(
        problem.k.div_ceil(plan.serial_k),
        if problem.fixed.is_some() { 1 } else { GRAIN_K },
        plan.k,
    );
    let (a, b, out) = (
        groups * rows * depth * bytes,
        groups * depth * columns * bytes,
        groups * rows * columns * bytes,
    );
    let sums = plan.k > 1 || problem.result_moves;
    let gathered = if sums {
        groups * ceil_div(rows, plan.k) * plan.k * columns * bytes
    } else {
        0
    };

    let exchange = |bytes: usize| {
        (bytes as f64 / machine.exchange_bytes_per_cycle) as Cycles
            + machine.sync_cycles
            + machine.exchange_start_cycles
    };
    let b_in = if problem.b_is_placed_here {
        b - b / plan.m
    } else {
        b
    };
    // With one slice of k the weights stay while the row slices pass by.
    let b_rounds = if plan.serial_k == 1 { 1 } else { plan.serial_m };
    let rounds = plan.serial_m * plan.serial_k;
    let operands_in = exchange(a) * rounds as Cycles
        + (b_in as f64 / machine.exchange_bytes_per_cycle) as Cycles
            * (b_rounds * plan.serial_k) as Cycles;
    let multiply = vertex_cycles(
        machine,
        &Codelet::Matmul {
            transpose_a: problem.transpose_a,
            transpose_b: problem.transpose_b,
            accumulate: plan.serial_k > 1 || problem.fixed.is_some(),
        },
        &[
            block(
                problem.dtype,
                if problem.transpose_a {
                    [groups, depth, rows]
                } else {
                    [groups, rows, depth]
                },
            ),
            block(
                problem.dtype,
                if problem.transpose_b {
                    [groups, columns, depth]
                } else {
                    [groups, depth, columns]
                },
            ),
        ],
        &[block(problem.dtype, [groups, rows, columns])],
    );
    let mut cycles = operands_in + multiply * rounds as Cycles;
    if sums {
        let share = ceil_div(rows, plan.k);
        let reduce = vertex_cycles(
            machine,
            &Codelet::Reduce {
                kind: ReduceKind::Sum,
                accumulate: problem.result_moves,
            },
            &[block(problem.dtype, [plan.k, groups * share, columns])],
            &[block(problem.dtype, [1, groups * share, columns])],
        );
        cycles += (exchange(out.max(gathered)) + reduce) * plan.serial_m as Cycles;
    }
    plan.cycles = cycles;
    plan.temporary_bytes = (a + b + if sums { out + gathered } else { 0 }) as Bytes;
    plan
}

fn block(dtype: DType, dims: [usize; 3]) -> BlockShape {
    BlockShape {
        dtype,
        shape: Shape::new(&dims),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_counts_name_each_block_size_once() {
        assert_eq!(part_counts(10, 100), vec![1, 2, 3, 4, 5, 10]);
        assert_eq!(part_counts(10, 4), vec![1, 2, 3, 4]);
        assert_eq!(part_counts(1, 5), vec![1]);
    }
}
