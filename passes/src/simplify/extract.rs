//! Choosing one way to compute each class of equal terms, with shared terms counted once.
//!
//! **Problem.** Classes have choices; a choice has a cost and needs other classes. Pick a choice for every class that the roots
//! need, without a cycle, so that the sum over the needed classes is least. Since a class is paid once however many need it,
//! this is a covering problem and NP-hard; trees of minimal cost are not its answer.
//!
//! **Algorithm.** Two starts, both improved by local search, and the better one wins: the given selection (what the graph does
//! now), and a greedy one in which each class takes the choice that is cheapest given what its own needs share. A step of the
//! search changes one class to another choice and keeps it if the total falls. Ties keep the given selection, so the result is
//! never worse than it and never different for nothing.
//!
//! **Cost.** The greedy start takes O(classes · choices) set unions until nothing changes; a search step walks the needed
//! classes once. Regions have a few hundred classes.

use fixedbitset::FixedBitSet;

/// One way to compute a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) cost: u64,
    /// The classes it needs.
    pub(super) needs: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Problem {
    pub(super) classes: Vec<Vec<Choice>>,
    pub(super) roots: Vec<usize>,
}

/// The choice of each class; those of classes that are not needed mean nothing.
pub(super) type Selection = Vec<usize>;

/// Sweeps over all classes before giving up on a better selection.
const SWEEPS_MAX: usize = 8;

impl Problem {
    /// The needed classes, each after what it needs, or `None` if the selection has a cycle.
    pub(super) fn order(&self, selection: &[usize]) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.classes.len()];
        let mut order = Vec::new();
        for &root in &self.roots {
            let mut stack = vec![(root, 0)];
            while let Some((class, next)) = stack.pop() {
                if next == 0 {
                    match marks[class] {
                        Mark::Done => continue,
                        Mark::Open => return None,
                        Mark::New => marks[class] = Mark::Open,
                    }
                }
                let needs = &self.classes[class].get(selection[class])?.needs;
                match needs.get(next) {
                    Some(&need) => {
                        stack.push((class, next + 1));
                        stack.push((need, 0));
                    }
                    None => {
                        marks[class] = Mark::Done;
                        order.push(class);
                    }
                }
            }
        }
        Some(order)
    }

    /// The sum over the needed classes, or `None` if the selection has a cycle.
    pub(super) fn cost(&self, selection: &[usize]) -> Option<u64> {
        let order = self.order(selection)?;
        let cost = |&class: &usize| self.classes[class][selection[class]].cost;
        Some(order.iter().map(cost).sum())
    }

    /// A selection that costs no more than `given`, which must be free of cycles.
    pub(super) fn extract(&self, given: Selection) -> Selection {
        let given = self.improve(given);
        let greedy = self.improve(self.greedy(&given));
        match (self.cost(&greedy), self.cost(&given)) {
            (Some(a), Some(b)) if a < b => greedy,
            _ => given,
        }
    }

    /// Each class by itself: the choice whose needs, taken together and counted once, cost least. Falls back to `given` for
    /// classes that find no choice without a cycle.
    fn greedy(&self, given: &[usize]) -> Selection {
        let n = self.classes.len();
        let mut chosen: Vec<Option<(u64, usize, FixedBitSet)>> = vec![None; n];
        for _ in 0..SWEEPS_MAX {
            let mut changed = false;
            for class in 0..n {
                for (i, choice) in self.classes[class].iter().enumerate() {
                    let Some((cost, set)) = self.closure(class, choice, &chosen) else {
                        continue;
                    };
                    if chosen[class].as_ref().is_none_or(|best| cost < best.0) {
                        chosen[class] = Some((cost, i, set));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        let pick = |(class, found): (usize, Option<(u64, usize, FixedBitSet)>)| {
            found.map_or(given[class], |(_, i, _)| i)
        };
        chosen.into_iter().enumerate().map(pick).collect()
    }

    /// Everything a choice needs, itself included, and what that costs; `None` if unknown yet or cyclic.
    fn closure(
        &self,
        class: usize,
        choice: &Choice,
        chosen: &[Option<(u64, usize, FixedBitSet)>],
    ) -> Option<(u64, FixedBitSet)> {
        let mut set = FixedBitSet::with_capacity(self.classes.len());
        for &need in &choice.needs {
            set.union_with(&chosen[need].as_ref()?.2);
        }
        if set.contains(class) {
            return None;
        }
        let mut cost = choice.cost;
        for member in set.ones() {
            let (_, i, _) = chosen[member].as_ref()?;
            cost += self.classes[member][*i].cost;
        }
        set.insert(class);
        Some((cost, set))
    }

    /// Local search: one class at a time, from the roots down.
    fn improve(&self, mut selection: Selection) -> Selection {
        let Some(mut best) = self.cost(&selection) else {
            return selection;
        };
        for _ in 0..SWEEPS_MAX {
            let before = best;
            for class in self.order(&selection).unwrap_or_default().into_iter().rev() {
                for i in 0..self.classes[class].len() {
                    let old = std::mem::replace(&mut selection[class], i);
                    match self.cost(&selection) {
                        Some(cost) if cost < best => best = cost,
                        _ => selection[class] = old,
                    }
                }
            }
            if best == before {
                break;
            }
        }
        selection
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn choice(cost: u64, needs: &[usize]) -> Choice {
        Choice {
            cost,
            needs: needs.to_vec(),
        }
    }

    /// Two roots that each prefer a private term of cost 5 would together pay 10; shared, they pay 6 + 1 + 1.
    #[test]
    fn sharing_is_counted_once() {
        let problem = Problem {
            classes: vec![
                vec![choice(5, &[]), choice(1, &[2])],
                vec![choice(5, &[]), choice(1, &[2])],
                vec![choice(2, &[])],
            ],
            roots: vec![0, 1],
        };
        let best = problem.extract(vec![0, 0, 0]);
        assert_eq!(problem.cost(&best), Some(4));
    }

    #[test]
    fn ties_keep_what_is_given() {
        let problem = Problem {
            classes: vec![vec![choice(3, &[]), choice(3, &[])]],
            roots: vec![0],
        };
        assert_eq!(problem.extract(vec![1]), [1]);
    }

    #[test]
    fn a_cycle_is_no_selection() {
        let problem = Problem {
            classes: vec![
                vec![choice(0, &[1]), choice(9, &[])],
                vec![choice(0, &[0]), choice(9, &[])],
            ],
            roots: vec![0],
        };
        assert_eq!(problem.cost(&[0, 0]), None);
        assert_eq!(problem.cost(&problem.extract(vec![1, 1])), Some(9));
    }

    fn brute_force(problem: &Problem) -> u64 {
        let mut selection = vec![0; problem.classes.len()];
        let mut best = u64::MAX;
        loop {
            best = best.min(problem.cost(&selection).unwrap_or(u64::MAX));
            let Some(class) =
                (0..selection.len()).find(|&c| selection[c] + 1 < problem.classes[c].len())
            else {
                return best;
            };
            selection[..class].fill(0);
            selection[class] += 1;
        }
    }

    /// Random acyclic problems: never worse than given, and close to the optimum found by trying everything.
    #[test]
    fn random_problems_are_near_the_optimum() {
        let (mut total, mut optimal) = (0, 0);
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let n = 8;
            let classes = (0..n)
                .map(|class: usize| {
                    let choices = 1 + random.below(3);
                    (0..choices)
                        .map(|_| {
                            let needs = (0..random.below(3)).filter(|_| class > 0);
                            let needs: Vec<usize> = needs
                                .collect::<Vec<_>>()
                                .iter()
                                .map(|_| random.below(class))
                                .collect();
                            choice(random.below(9) as u64, &needs)
                        })
                        .collect()
                })
                .collect();
            let problem = Problem {
                classes,
                roots: vec![n - 1, n - 2],
            };
            let given = vec![0; n];
            let found = problem.cost(&problem.extract(given.clone())).unwrap();
            assert!(found <= problem.cost(&given).unwrap());
            total += found;
            optimal += brute_force(&problem);
        }
        assert!(
            total * 100 <= optimal * 101,
            "{total} against the optimum {optimal}"
        );
    }
}
