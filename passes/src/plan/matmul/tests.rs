use superstep_ir::machine::exchange_cost::copy_cycles;
use superstep_ir::random::Stream;
use superstep_ir::units::Cycles;

use super::cost::cost;
use super::search::{part_counts, ring_fits, search};
use super::*;

/// Draws small numbers.
struct Draw {
    stream: Stream,
    next: u64,
}

impl Draw {
    fn new(purpose: u64) -> Draw {
        Draw {
            stream: Stream::new(5, purpose),
            next: 0,
        }
    }

    fn up_to(&mut self, n: usize) -> usize {
        self.next += 1;
        1 + self.stream.bits(self.next) as usize % n
    }

    fn coin(&mut self) -> bool {
        self.up_to(2) == 1
    }

    fn problem(&mut self) -> MatmulProblem {
        let types = [
            (DType::F32, DType::F32),
            (DType::F16, DType::F16),
            (DType::F16, DType::F32),
        ];
        let (input, partials) = types[self.up_to(3) - 1];
        let dims = [self.up_to(150), self.up_to(200), self.up_to(150)];
        let mut problem = MatmulProblem::plain(dims, input, partials);
        problem.groups = if self.up_to(3) == 1 { self.up_to(5) } else { 1 };
        problem.transpose_a = self.coin();
        problem.transpose_b = self.coin();
        if self.coin() {
            problem.b = Operand::RestsHere;
        }
        if self.up_to(3) == 1 {
            problem.out = Outcome::Travels;
        }
        problem
    }
}

fn machine(tiles: usize) -> Machine {
    Machine {
        tiles_per_ipu: tiles as u32,
        ..Machine::mk2()
    }
}

/// Every plan there is, by counting alone.
fn every_plan(tiles: usize, p: &MatmulProblem) -> Vec<MatmulPlan> {
    let mut plans = Vec::new();
    let mut split = |g: usize, m: usize, n: usize, k: usize| {
        for bits in 0..8 {
            let (turn_a, turn_b) = (bits & 2 != 0, bits & 4 != 0);
            if turn_a && !p.transpose_a || turn_b && !p.transpose_b {
                continue;
            }
            let base = MatmulPlan {
                inner: if bits & 1 != 0 { Inner::M } else { Inner::N },
                turn_a,
                turn_b,
                ..MatmulPlan::split([g, m, n, k])
            };
            for serial_m in [1, 2, 4, 8, 16, 32] {
                for serial_k in [1, 2, 4, 8, 16, 32, 64] {
                    let rows = p.m.is_multiple_of(serial_m) && p.m / serial_m >= m;
                    let depth = p.k / serial_k >= k * p.grain_k();
                    if (serial_m == 1 || rows && p.out == Outcome::Stays)
                        && (serial_k == 1 || depth)
                    {
                        plans.push(MatmulPlan {
                            serial_m,
                            serial_k,
                            ..base
                        });
                    }
                }
            }
            for length in 2..=32usize {
                for (a, b) in [(true, false), (false, true), (true, true)] {
                    let ring = Ring { length, a, b };
                    if ring_fits(p, [g, m, n, k], ring) {
                        let ring = Some(ring);
                        plans.push(MatmulPlan { ring, ..base });
                    }
                }
            }
        }
    };
    for g in 1..=p.groups.min(tiles) {
        for n in 1..=p.n.div_ceil(GRAIN_N).min(tiles / g) {
            for k in 1..=p.k.div_ceil(p.grain_k()).min(tiles / g / n) {
                for m in 1..=p.m.min(tiles / g / n / k) {
                    split(g, m, n, k);
                }
            }
        }
    }
    plans
}

#[test]
fn the_search_is_never_worse_than_all_plans_enumerated() {
    let mut draw = Draw::new(0);
    for case in 0..200 {
        let (tiles, problem) = (draw.up_to(24), draw.problem());
        let budget = 1 << (12 + draw.up_to(8));
        let machine = machine(tiles);
        let found = search(&machine, &problem, PlanStyle::Auto).best_within(budget);
        let over = |p: &PlanCost| p.working_bytes().saturating_sub(budget);
        let best = every_plan(tiles, &problem)
            .into_iter()
            .map(|plan| cost(&machine, &problem, plan).cost)
            .map(|cost| (over(&cost), cost.cycles()))
            .min()
            .unwrap();
        let found = (over(&found.cost), found.cost.cycles());
        assert!(found <= best, "case {case}: {found:?} {best:?} {problem:?}");
    }
}

#[test]
fn a_style_is_kept_to_where_it_can_be() {
    let machine = machine(64);
    let problem = MatmulProblem::plain([256, 512, 256], DType::F32, DType::F32);
    let budget = 1 << 20;
    let with = |style| search(&machine, &problem, style).best_within(budget);
    assert!(with(PlanStyle::Gather).ring.is_none());
    assert!(with(PlanStyle::Shift).ring.is_some());
    // A contraction of 13 cannot be cut into equal pieces.
    let odd = MatmulProblem { k: 13, ..problem };
    assert!(
        search(&machine, &odd, PlanStyle::Shift)
            .best_within(budget)
            .ring
            .is_none()
    );
}

#[test]
fn one_tile_costs_what_its_vertex_costs() {
    let machine = machine(1);
    for ([m, k, n], cycles) in [
        ([6, 16, 16], 369),
        ([48, 64, 64], 6_735),
        ([384, 256, 64], 112_779),
    ] {
        let problem = MatmulProblem::plain([m, k, n], DType::F16, DType::F16);
        let plan = search(&machine, &problem, PlanStyle::Auto).best_within(1 << 30);
        assert_eq!(plan.cost.multiply, cycles);
        assert_eq!(plan.cost.compute(), cycles);
    }
}

/// The account by hand of a split in two dimensions: 4 × 4 tiles of 64 × 64, neighbours share rows.
#[test]
fn exchange_follows_the_pair_rule() {
    let machine = machine(16);
    let problem = MatmulProblem::plain([256, 128, 256], DType::F32, DType::F32);
    let plan = MatmulPlan::split([1, 4, 4, 1]);
    let block: Cycles = 64 * 128 * 4;
    // Rows of a in 64 runs, rows of b in 128.
    let runs = 64 + 128;
    let priced = cost(&machine, &problem, plan).cost;
    assert_eq!(priced.operands, 60 + block / 8 + block / 4 + runs);
    assert_eq!((priced.sync, priced.partials), (126, 0));
    assert_eq!(priced.temporary_bytes, 2 * block);
    // At rest each tile has a quarter of its columns; of the rest nothing is shared by neighbours. The quarter is copied.
    let resting = MatmulProblem {
        b: Operand::RestsHere,
        ..problem.clone()
    };
    let priced = cost(&machine, &resting, plan).cost;
    let copy = copy_cycles(&machine, block / 4, 1);
    assert_eq!(
        priced.operands,
        60 + block / 8 + block * 3 / 4 / 4 + 64 + 96 + copy
    );
    // A ring of four: three shifts of a quarter of b, each in one run.
    let ring = Some(Ring {
        length: 4,
        a: false,
        b: true,
    });
    let priced = cost(&machine, &problem, MatmulPlan { ring, ..plan }).cost;
    assert_eq!(priced.shifts, 3 * (60 + block / 4 / 4 + 1));
    assert_eq!(priced.sync, 4 * 126);
    assert_eq!(priced.temporary_bytes, block + 2 * block / 4);
}

#[test]
fn part_counts_name_each_block_size_once_or_twice() {
    assert_eq!(part_counts(10, 100), (1..=10).collect::<Vec<_>>());
    let many = part_counts(1000, 500);
    let blocks = |parts: &usize| 1000usize.div_ceil(*parts);
    assert!(many.windows(2).all(|w| w[0] < w[1]));
    for parts in 1..=500usize {
        let at = many.iter().position(|p| blocks(p) == blocks(&parts));
        assert!(many[at.unwrap()] <= parts);
    }
}
