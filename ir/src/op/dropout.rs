//! The mask of [`Op::Dropout`](super::Op::Dropout): one definition for the interpreter and for the codelet that runs on a tile.
//!
//! Whether an element is kept depends on the seed of the micro-batch, the key of the op and the element's row-major index
//! alone. So a tile that holds any block of the tensor draws its part of the mask, and the backward pass draws the same mask again.

use crate::random::philox4x32;

/// Fourth word of the counter: no other use of the generator has this one.
const PURPOSE: u32 = 0x6472_6F70;

/// Random words of elements `4 * group .. 4 * group + 4`, one a word.
#[inline]
fn words(seed: [u32; 2], key: u32, group: u64) -> [u32; 4] {
    philox4x32([group as u32, (group >> 32) as u32, key, PURPOSE], seed)
}

/// The least random word that keeps an element: `p · 2³²`, so `keep` has probability `1 − p` to 2⁻³².
#[inline]
fn threshold(p: f64) -> u64 {
    (p * (1u64 << 32) as f64).round() as u64
}

/// True when element `index` (row-major in the whole tensor) survives dropout with probability `p` of being dropped.
#[inline]
pub fn dropout_keep(seed: [u32; 2], key: u32, index: u64, p: f64) -> bool {
    u64::from(words(seed, key, index / 4)[(index % 4) as usize]) >= threshold(p)
}

/// Writes [`dropout_keep`] of elements `first`, `first + 1`, … to `keep`, at a quarter of the cost of asking one by one.
pub fn dropout_keep_run(seed: [u32; 2], key: u32, first: u64, p: f64, keep: &mut [bool]) {
    let threshold = threshold(p);
    let mut group = first / 4;
    let mut skip = (first % 4) as usize;
    let mut rest = keep;
    while !rest.is_empty() {
        let drawn = words(seed, key, group);
        let count = rest.len().min(4 - skip);
        let (now, later) = rest.split_at_mut(count);
        for (k, word) in now.iter_mut().zip(&drawn[skip..]) {
            *k = u64::from(*word) >= threshold;
        }
        (group, skip, rest) = (group + 1, 0, later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_agree_with_single_elements() {
        for (first, len) in [(0u64, 9usize), (1, 1), (3, 6), (1 << 34, 5)] {
            let mut run = vec![false; len];
            dropout_keep_run([7, 9], 3, first, 0.4, &mut run);
            let single: Vec<bool> = (0..len as u64)
                .map(|i| dropout_keep([7, 9], 3, first + i, 0.4))
                .collect();
            assert_eq!(run, single);
        }
    }

    #[test]
    fn the_share_kept_is_one_minus_p() {
        for p in [0.0, 0.1, 0.5, 0.9] {
            let n = 40_000u64;
            let kept = (0..n).filter(|&i| dropout_keep([1, 2], 5, i, p)).count() as f64 / n as f64;
            assert!((kept - (1.0 - p)).abs() < 0.01, "p {p}: kept {kept}");
        }
    }

    #[test]
    fn key_and_seed_change_the_mask() {
        let mask = |seed, key| {
            (0..64)
                .map(|i| dropout_keep(seed, key, i, 0.5))
                .collect::<Vec<_>>()
        };
        assert_ne!(mask([1, 2], 0), mask([1, 2], 1));
        assert_ne!(mask([1, 2], 0), mask([1, 3], 0));
        assert_ne!(mask([1, 2], 0), mask([2, 2], 0));
    }
}
