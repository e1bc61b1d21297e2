//! Stochastic rounding of floats to halves: up or down at random, so that the mean is the float.
//!
//! A float between two neighbouring halves `a < x < b` becomes `b` with probability `(x − a) / (b − a)`, up to 2⁻²⁴, which is exact for all
//! normal halves; a half stays. Beyond the largest finite half it is left to be rounded to nearest; infinities and NaN stay.

use superstep_ir::half::MAX;
use superstep_ir::random::{Stream, uniform_f32};

use super::Isa;
use super::isa::isa_kernel;

/// Elements whose random bits are drawn together.
const CHUNK: usize = 256;

/// Random numbers are drawn in blocks of so many.
const BLOCK: usize = 4;

/// Elements that follow each other and have consecutive random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The random number of its first element.
    pub(super) first: u64,
    pub(super) len: usize,
}

/// Rounds `x` in place; its elements are those of `stretches`, one after another.
pub(super) fn round_at_random(isa: Isa, numbers: Stream, stretches: &[Stretch], x: &mut [f32]) {
    let is_whole =
        |s: &Stretch| s.first.is_multiple_of(BLOCK as u64) && s.len.is_multiple_of(BLOCK);
    if stretches.iter().all(is_whole) {
        return round_blocks(isa, numbers, stretches, x);
    }
    let mut rest = x;
    for stretch in stretches {
        let (now, later) = rest.split_at_mut(stretch.len);
        round_stretch(isa, numbers, stretch.first, now);
        rest = later;
    }
}

isa_kernel! {
    /// Stretches of whole blocks, which may be short: their blocks are drawn together.
    fn round_blocks(numbers: Stream, stretches: &[Stretch], x: &mut [f32]) {
        let mut bits = [0; CHUNK];
        let mut blocks = [0; CHUNK / BLOCK];
        let (mut stretches, mut next) = (stretches.iter(), 0..0);
        for chunk in x.chunks_mut(CHUNK) {
            let blocks = &mut blocks[..chunk.len() / BLOCK];
            let mut filled = 0;
            while filled < blocks.len() {
                if next.is_empty() {
                    let Some(stretch) = stretches.next() else { break };
                    let first = stretch.first / BLOCK as u64;
                    next = first..first + (stretch.len / BLOCK) as u64;
                }
                let count = (blocks.len() - filled).min((next.end - next.start) as usize);
                for (i, block) in blocks[filled..filled + count].iter_mut().enumerate() {
                    *block = next.start + i as u64;
                }
                next.start += count as u64;
                filled += count;
            }
            let bits = &mut bits[..chunk.len()];
            numbers.fill_blocks(blocks, bits);
            for (x, &bits) in chunk.iter_mut().zip(&*bits) {
                *x = rounded(*x, uniform_f32(bits));
            }
        }
    }
}

isa_kernel! {
    /// Element `i` takes random number `first + i`.
    fn round_stretch(numbers: Stream, first: u64, x: &mut [f32]) {
        let mut bits = [0; CHUNK];
        let mut next = first;
        for chunk in x.chunks_mut(CHUNK) {
            let bits = &mut bits[..chunk.len()];
            numbers.fill_bits(next, bits);
            for (x, &bits) in chunk.iter_mut().zip(&*bits) {
                *x = rounded(*x, uniform_f32(bits));
            }
            next += chunk.len() as u64;
        }
    }
}

/// `x` rounded away from 0 where `random`, uniform in [0, 1), is below the part of a half's unit that it has too much.
#[inline(always)]
fn rounded(x: f32, random: f32) -> f32 {
    const LEAST_EXPONENT: u32 = 127 - 14;
    const FRACTION_BITS: u32 = 10;
    let magnitude = x.abs();
    // Powers of two: the unit of the halves around x, and one over it. Nothing below rounds.
    let exponent = (magnitude.to_bits() >> 23).max(LEAST_EXPONENT);
    let unit = f32::from_bits((exponent - FRACTION_BITS) << 23);
    let units = f32::from_bits((254 + FRACTION_BITS - exponent) << 23);
    let scaled = magnitude * units;
    let whole = scaled.floor();
    let up = if random < scaled - whole { 1.0 } else { 0.0 };
    let near = (whole + up) * unit;
    if magnitude <= MAX as f32 {
        near.copysign(x)
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use superstep_ir::half::nearest;

    use super::*;
    use crate::codelets::testing::isas;

    fn round_all(x: f32, count: usize, seed: u32) -> Vec<f32> {
        let mut all = vec![x; count];
        for isa in isas() {
            let mut again = vec![x; count];
            let stretch = Stretch {
                first: 3,
                len: count,
            };
            round_at_random(
                isa,
                Stream::rounding([seed, 1], 7, 0),
                &[stretch],
                &mut again,
            );
            if isa == isas()[0] {
                all = again;
            } else {
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&all), bits(&again));
            }
        }
        all
    }

    #[test]
    fn halves_and_what_is_no_number_stay() {
        for bits in 0..=u16::MAX {
            let x = f16::from_bits(bits).to_f32_const();
            for random in [0.0, 0.5, 0.999_999_9] {
                assert_eq!(rounded(x, random).to_bits(), x.to_bits());
            }
        }
        for x in [65505.0, 65519.9, 65520.0, 1e38, f32::INFINITY] {
            assert_eq!(rounded(-x, 0.0), -x, "left to be rounded to nearest");
        }
    }

    #[test]
    fn stretches_are_rounded_as_if_alone() {
        let numbers = Stream::rounding([5, 6], 7, 0);
        for starts in [[0, 4096, 64, 1 << 40], [1, 4097, 66, (1 << 40) + 3]] {
            for len in [4, 12, 16, 64, 300] {
                let stretches = starts.map(|first| Stretch { first, len });
                for isa in isas() {
                    let mut all = vec![0.3; starts.len() * len];
                    round_at_random(isa, numbers, &stretches, &mut all);
                    let alone = starts.iter().flat_map(|&first| {
                        (0..len).map(move |i| {
                            let mut one = [0.3];
                            let stretch = Stretch {
                                first: first + i as u64,
                                len: 1,
                            };
                            round_at_random(Isa::PORTABLE, numbers, &[stretch], &mut one);
                            one[0]
                        })
                    });
                    assert_eq!(all, alone.collect::<Vec<f32>>());
                }
            }
        }
    }

    #[test]
    fn the_mean_is_the_float() {
        let count = 100_000;
        let cases = [
            1.0001, 0.3, -1e-3, 3.1e-5, 5.97e-8, -2e-8, 1e-9, 60_001.0, 2049.3,
        ];
        for (i, x) in cases.into_iter().enumerate() {
            let all = round_all(x, count, i as u32);
            let low = all.iter().copied().fold(f32::INFINITY, f32::min);
            let high = all.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for end in [low, high] {
                assert_eq!(nearest(f64::from(end)), f64::from(end), "a half");
            }
            assert!(low <= x && x <= high, "{low} ≤ {x} ≤ {high}");
            let unit = f64::from(high) - f64::from(low);
            let share = (f64::from(x) - f64::from(low)) / unit;
            let mean = all.iter().map(|&y| f64::from(y)).sum::<f64>() / count as f64;
            // Five standard deviations.
            let allowed = 5.0 * unit * (share * (1.0 - share) / count as f64).sqrt();
            assert!((mean - f64::from(x)).abs() <= allowed, "{x}: mean {mean}");
        }
    }

    #[test]
    fn neighbours_and_seeds_are_independent() {
        let ups = |seed| -> Vec<f64> {
            let all = round_all(1.0 + 1.0 / 2048.0, 40_000, seed);
            all.iter()
                .map(|&y| if y > 1.0 { 1.0 } else { -1.0 })
                .collect()
        };
        let (a, b) = (ups(1), ups(2));
        let together = |x: &[f64], y: &[f64]| {
            x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>() / x.len() as f64
        };
        assert!(together(&a, &b).abs() < 0.025);
        for distance in [1, 2, 4, 8, 32] {
            assert!(together(&a, &a[distance..]).abs() < 0.025, "{distance}");
        }
    }
}
