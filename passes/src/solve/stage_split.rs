//! Cutting a chain of costs into consecutive stages so that the fullest stage is as small as possible.
//!
//! Dynamic program over (items, stages): `O(items² · stages)`.

use std::ops::Range;

/// Splits `costs` into `stages` consecutive runs, the first of which already carries `base`; returns the run lengths (some may be 0).
/// Minimises the largest sum.
pub fn stage_split(costs: &[u64], stages: usize, base: u64) -> Vec<usize> {
    let prefix: Vec<u64> = std::iter::once(0)
        .chain(costs.iter().scan(0, |sum, c| {
            *sum += c;
            Some(*sum)
        }))
        .collect();
    stage_split_by(costs.len(), stages, |stage, items| {
        prefix[items.end] - prefix[items.start] + if stage == 0 { base } else { 0 }
    })
}

/// The same for `n` items where what a run costs depends on the stage as well.
pub fn stage_split_by(
    n: usize,
    stages: usize,
    cost: impl Fn(usize, Range<usize>) -> u64,
) -> Vec<usize> {
    let run = |stage: usize, from: usize, to: usize| cost(stage, from..to);
    // best[stage][to]: smallest possible maximum of the first stage + 1 runs over the first `to` items (then the sum of squares, so that the
    // other runs are even too), and where the last run starts.
    type Best = (u64, u128, usize);
    let square = |x: u64| u128::from(x) * u128::from(x);
    let mut best: Vec<Vec<Best>> = vec![vec![(u64::MAX, u128::MAX, 0); n + 1]; stages];
    for (to, first) in best[0].iter_mut().enumerate() {
        *first = (run(0, 0, to), square(run(0, 0, to)), 0);
    }
    for stage in 1..stages {
        for to in 0..=n {
            let ending_at = |from: usize| {
                let (max, sum, _) = best[stage - 1][from];
                let last = run(stage, from, to);
                (max.max(last), sum + square(last), from)
            };
            best[stage][to] = (0..=to).map(ending_at).min().expect("to is in the range");
        }
    }
    let mut lengths = vec![0; stages];
    let mut to = n;
    for stage in (0..stages).rev() {
        let from = best[stage][to].2;
        lengths[stage] = to - from;
        to = from;
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heavy_first_stage_takes_fewer_items() {
        assert_eq!(stage_split(&[1; 12], 4, 0), vec![3, 3, 3, 3]);
        assert_eq!(stage_split(&[1; 12], 4, 10), vec![0, 4, 4, 4]);
        assert_eq!(stage_split(&[], 2, 5), vec![0, 0]);
    }

    #[test]
    fn the_maximum_is_the_least_possible() {
        // Brute force over all cuts of small chains.
        let mut seed = 1u64;
        for n in 1..7usize {
            let costs: Vec<u64> = (0..n)
                .map(|_| {
                    seed = seed
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    seed >> 60
                })
                .collect();
            let worst = |lengths: &[usize]| {
                let mut at = 0;
                let mut worst = 0;
                for (s, &l) in lengths.iter().enumerate() {
                    worst = worst
                        .max(costs[at..at + l].iter().sum::<u64>() + if s == 0 { 3 } else { 0 });
                    at += l;
                }
                worst
            };
            let mut least = u64::MAX;
            for a in 0..=n {
                for b in 0..=n - a {
                    least = least.min(worst(&[a, b, n - a - b]));
                }
            }
            assert_eq!(worst(&stage_split(&costs, 3, 3)), least);
        }
    }
}
