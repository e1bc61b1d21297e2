//! Pareto fronts: plans that no other plan beats in both temporary memory and cycles.

use serde::{Deserialize, Serialize};
use superstep_ir::units::Bytes;

use super::MatmulPlan;

/// Plans by increasing memory and decreasing cycles. Among plans of equal memory and cycles the one with the fewest tiles stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Front {
    plans: Vec<MatmulPlan>,
}

impl Front {
    /// Adds a plan unless one is known that is at least as good; drops those that it beats.
    pub fn insert(&mut self, plan: MatmulPlan) {
        let (bytes, cycles) = (plan.cost.working_bytes(), plan.cost.cycles());
        let key = |p: &MatmulPlan| p.cost.working_bytes();
        // All before `at` need less memory than the new plan, or as much.
        let at = self.plans.partition_point(|p| key(p) <= bytes);
        if let Some(before) = self.plans[..at].last() {
            let known = before.cost.cycles();
            let tie = known == cycles && key(before) == bytes;
            if known < cycles || (known == cycles && !(tie && plan.tiles() < before.tiles())) {
                return;
            }
        }
        let from = self.plans[..at].partition_point(|p| key(p) < bytes);
        let beaten = self.plans[from..]
            .iter()
            .take_while(|p| p.cost.cycles() >= cycles)
            .count();
        self.plans.splice(from..from + beaten, [plan]);
    }

    pub fn merge(mut self, other: Front) -> Front {
        for plan in other.plans {
            self.insert(plan);
        }
        self
    }

    /// Smallest memory first.
    pub fn plans(&self) -> &[MatmulPlan] {
        &self.plans
    }

    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// The fastest plan with at most `budget` bytes of temporary memory a tile, or the smallest of all.
    ///
    /// # Panics
    /// When the front is empty; a search never returns such a front.
    pub fn best_within(&self, budget: Bytes) -> MatmulPlan {
        let fitting = self
            .plans
            .partition_point(|p| p.cost.working_bytes() <= budget);
        self.plans[fitting.max(1) - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::super::PlanCost;
    use super::*;

    fn plan(bytes: u64, cycles: u64, tiles: usize) -> MatmulPlan {
        MatmulPlan {
            cost: PlanCost {
                multiply: cycles,
                temporary_bytes: bytes,
                ..PlanCost::default()
            },
            ..MatmulPlan::split([tiles, 1, 1, 1])
        }
    }

    #[test]
    fn a_front_is_what_a_scan_of_all_plans_leaves() {
        let mut seed = 1u64;
        let mut next = |n: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let all: Vec<MatmulPlan> = (0..30)
                .map(|_| plan(next(12), next(12), 1 + next(3) as usize))
                .collect();
            let mut front = Front::default();
            all.iter().for_each(|&p| front.insert(p));
            let rank = |p: &MatmulPlan| (p.cost.working_bytes(), p.cost.cycles(), p.tiles());
            let mut expected: Vec<_> = all
                .iter()
                .filter(|p| {
                    !all.iter().any(|q| {
                        let (b, c, t) = rank(q);
                        let (pb, pc, pt) = rank(p);
                        b <= pb && c <= pc && (b, c) != (pb, pc) || (b, c) == (pb, pc) && t < pt
                    })
                })
                .map(rank)
                .collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(front.plans().iter().map(rank).collect::<Vec<_>>(), expected);
            for budget in 0..13 {
                let best = all
                    .iter()
                    .filter(|p| p.cost.working_bytes() <= budget)
                    .map(|p| p.cost.cycles())
                    .min();
                if let Some(best) = best {
                    assert_eq!(front.best_within(budget).cost.cycles(), best);
                }
            }
        }
    }
}
