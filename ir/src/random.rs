//! Random numbers that are a function of where they are used, not of when.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a 128-bit counter and
//! a 64-bit key into 128 random bits, with no state in between. The key is the user's seed; the upper half of the counter says
//! what the numbers are for (a parameter's name, or a step and an op), the lower half which element. So a value depends on
//! (seed, purpose, element) alone: never on threads, tiles, or the order of execution, and any element can be had on its own.

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
/// Blocks that are made side by side.
const LANES: usize = 8;
/// In the fourth word of the counter: these bits round. No other use of the generator with the same key has them.
const ROUNDING: u32 = 0x726F_0000;

/// One block of Philox4x32-10: 128 random bits for this counter under this key.
#[inline]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let ab = u64::from(MULTIPLIER[0]) * u64::from(a);
        let cd = u64::from(MULTIPLIER[1]) * u64::from(c);
        (a, b, c, d) = (
            (cd >> 32) as u32 ^ b ^ k0,
            cd as u32,
            (ab >> 32) as u32 ^ d ^ k1,
            ab as u32,
        );
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [a, b, c, d]
}

/// The numbers for one purpose under one seed. Element `i` of each kind of number is a pure function of `i`.
///
/// The kinds (`uniform_f32`, `normal`, …) read the same bits differently: draw only one kind from a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    purpose: [u32; 2],
}

impl Stream {
    /// The stream of `seed` for a 64-bit `purpose`.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self {
            key: halves(seed),
            purpose: halves(purpose),
        }
    }

    /// The stream for something with a name, such as the initial value of a parameter.
    pub fn named(seed: u64, name: &str) -> Self {
        Self::new(seed, hash(name))
    }

    /// The stream for one op in one step, such as the mask of a dropout.
    pub fn at(seed: u64, step: u32, op: u32) -> Self {
        Self {
            key: halves(seed),
            purpose: [op, step],
        }
    }

    /// The stream that rounds what one store of a step writes: `store` tells the outputs of the step's vertices apart.
    pub fn rounding(seed: [u32; 2], step: u32, store: u16) -> Self {
        Self {
            key: seed,
            purpose: [step, ROUNDING | u32::from(store)],
        }
    }

    /// Random bits number `4 * block` to `4 * block + 3`, each word one 32-bit number.
    #[inline]
    pub fn block(&self, block: u64) -> [u32; 4] {
        let [low, high] = halves(block);
        philox4x32([low, high, self.purpose[0], self.purpose[1]], self.key)
    }

    /// 32 random bits.
    #[inline]
    pub fn bits(&self, element: u64) -> u32 {
        self.block(element / 4)[(element % 4) as usize]
    }

    /// Writes [`Stream::bits`] of elements `first`, `first + 1`, … to `out`. Compiled into its caller, for its instruction set.
    #[inline(always)]
    pub fn fill_bits(&self, first: u64, out: &mut [u32]) {
        let skip = ((first % 4) as usize).min(out.len());
        let head = (4 - skip).min(out.len()) * usize::from(skip > 0);
        let (start, rest) = out.split_at_mut(head);
        for (i, bits) in start.iter_mut().enumerate() {
            *bits = self.bits(first + i as u64);
        }
        let mut block = (first + head as u64) / 4;
        let mut many = rest.chunks_exact_mut(4 * LANES);
        for chunk in &mut many {
            self.fill_lanes(std::array::from_fn(|i| block + i as u64), chunk);
            block += LANES as u64;
        }
        for four in many.into_remainder().chunks_mut(4) {
            four.copy_from_slice(&self.block(block)[..four.len()]);
            block += 1;
        }
    }

    /// Writes the four numbers of each of `blocks`, as [`Stream::block`] gives them, to `out`. Compiled into its caller.
    #[inline(always)]
    pub fn fill_blocks(&self, blocks: &[u64], out: &mut [u32]) {
        let mut many = blocks.chunks_exact(LANES);
        let mut to = out.chunks_exact_mut(4 * LANES);
        for (blocks, chunk) in (&mut many).zip(&mut to) {
            self.fill_lanes(std::array::from_fn(|i| blocks[i]), chunk);
        }
        let rest = many.remainder().iter();
        for (&block, four) in rest.zip(to.into_remainder().chunks_exact_mut(4)) {
            four.copy_from_slice(&self.block(block));
        }
    }

    /// The four numbers of each of these blocks one after another.
    #[inline(always)]
    fn fill_lanes(&self, blocks: [u64; LANES], out: &mut [u32]) {
        let words = self.blocks(blocks);
        for (lane, four) in out.chunks_exact_mut(4).enumerate() {
            for (bits, word) in four.iter_mut().zip(&words) {
                *bits = word[lane] as u32;
            }
        }
    }

    /// Blocks side by side: word `w` of block `numbers[i]` is the lower half of `[w][i]`. What the upper halves
    /// hold means nothing, so that a lane needs no masks but those that a product of 32-bit numbers has anyway.
    #[inline(always)]
    fn blocks(&self, numbers: [u64; LANES]) -> [[u64; LANES]; 4] {
        const LOW: u64 = 0xFFFF_FFFF;
        let mut a: [u64; LANES] = numbers;
        let mut b: [u64; LANES] = numbers.map(|n| n >> 32);
        let mut c = [u64::from(self.purpose[0]); LANES];
        let mut d = [u64::from(self.purpose[1]); LANES];
        let [mut k0, mut k1] = self.key;
        for _ in 0..ROUNDS {
            for i in 0..LANES {
                let ab = (a[i] & LOW) * u64::from(MULTIPLIER[0]);
                let cd = (c[i] & LOW) * u64::from(MULTIPLIER[1]);
                a[i] = (cd >> 32) ^ b[i] ^ u64::from(k0);
                b[i] = cd;
                c[i] = (ab >> 32) ^ d[i] ^ u64::from(k1);
                d[i] = ab;
            }
            k0 = k0.wrapping_add(WEYL[0]);
            k1 = k1.wrapping_add(WEYL[1]);
        }
        [a, b, c, d]
    }

    /// Uniform in [0, 1): a multiple of 2^-24.
    #[inline]
    pub fn uniform_f32(&self, element: u64) -> f32 {
        uniform_f32(self.bits(element))
    }

    /// Uniform in [0, 1): a multiple of 2^-53.
    #[inline]
    pub fn uniform_f64(&self, element: u64) -> f64 {
        let words = self.block(element / 2);
        let pair = (element % 2) as usize * 2;
        let bits = u64::from(words[pair + 1]) << 32 | u64::from(words[pair]);
        (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal, by Box–Muller on 32-bit uniforms; the tails end at 6.66.
    #[inline]
    pub fn normal(&self, element: u64) -> f64 {
        let words = self.block(element / 4);
        let pair = (element % 4 / 2) as usize * 2;
        let both = box_muller(words[pair], words[pair + 1]);
        if element.is_multiple_of(2) {
            both.0
        } else {
            both.1
        }
    }

    /// Fills `out` with elements `first`, `first + 1`, … of [`Stream::normal`], times `deviation`, rounded once to f32.
    pub fn fill_normal(&self, first: u64, deviation: f64, out: &mut [f32]) {
        let mut element = first;
        let mut rest = out;
        while !rest.is_empty() {
            let words = self.block(element / 4);
            let (x, y) = box_muller(words[0], words[1]);
            let (z, w) = box_muller(words[2], words[3]);
            let skip = (element % 4) as usize;
            let count = rest.len().min(4 - skip);
            let (now, later) = rest.split_at_mut(count);
            for (value, normal) in now.iter_mut().zip(&[x, y, z, w][skip..]) {
                *value = (normal * deviation) as f32;
            }
            element += count as u64;
            rest = later;
        }
    }
}

/// Uniform in [0, 1) from the upper 24 of 32 random bits.
#[inline]
pub fn uniform_f32(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// Two independent standard normals from two words. The first uniform is in (0, 1], so that its logarithm is finite.
#[inline]
fn box_muller(u: u32, v: u32) -> (f64, f64) {
    const SCALE: f64 = 1.0 / (1u64 << 32) as f64;
    let radius = (-2.0 * ((f64::from(u) + 1.0) * SCALE).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * (f64::from(v) * SCALE)).sin_cos();
    (radius * cos, radius * sin)
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// FNV-1a over the name's bytes, then a finaliser (SplitMix64) so that similar names share no structure.
fn hash(name: &str) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors of Random123 for philox4x32-10.
    #[test]
    fn known_answers() {
        let max = u32::MAX;
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]
        );
        assert_eq!(
            philox4x32([max; 4], [max; 2]),
            [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]
        );
        assert_eq!(
            philox4x32(
                [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
                [0xA409_3822, 0x299F_31D0]
            ),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
        );
    }

    #[test]
    fn uniforms_stay_below_one_and_fill_the_range() {
        assert_eq!(uniform_f32(0), 0.0);
        assert!(uniform_f32(u32::MAX) < 1.0);
        let stream = Stream::new(7, 1);
        let count = 40_000u64;
        let mean32 = (0..count)
            .map(|i| f64::from(stream.uniform_f32(i)))
            .sum::<f64>()
            / count as f64;
        let mean64 = (0..count).map(|i| stream.uniform_f64(i)).sum::<f64>() / count as f64;
        assert!(
            (mean32 - 0.5).abs() < 0.01 && (mean64 - 0.5).abs() < 0.01,
            "{mean32} {mean64}"
        );
        assert!((0..count).all(|i| (0.0..1.0).contains(&stream.uniform_f64(i))));
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let stream = Stream::named(42, "wte.weight");
        let count = 200_000u64;
        let values: Vec<f64> = (0..count).map(|i| stream.normal(i)).collect();
        let moment = |power: i32| values.iter().map(|x| x.powi(power)).sum::<f64>() / count as f64;
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.015, "{}", moment(2));
        assert!(moment(3).abs() < 0.04, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "{}", moment(4));
        let neighbours = values.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / count as f64;
        assert!(neighbours.abs() < 0.01, "{neighbours}");
        assert!(box_muller(0, 0).0.is_finite() && box_muller(u32::MAX, 0).0 == 0.0);
    }

    #[test]
    fn filling_is_the_same_from_any_start() {
        let stream = Stream::new(1, 2);
        for first in 0..9u64 {
            for length in 0..11 {
                let mut filled = vec![f32::NAN; length];
                stream.fill_normal(first, 0.5, &mut filled);
                for (i, value) in filled.iter().enumerate() {
                    assert_eq!(*value, (stream.normal(first + i as u64) * 0.5) as f32);
                }
            }
        }
    }

    #[test]
    fn runs_of_bits_are_the_bits_one_by_one() {
        let stream = Stream::rounding([5, 9], 1472, 3);
        for first in [0, 1, 2, 3, 4, 1 << 33] {
            for length in [0, 1, 2, 3, 4, 5, 31, 32, 33, 101] {
                let mut run = vec![0; length];
                stream.fill_bits(first, &mut run);
                let single: Vec<u32> = (0..length as u64).map(|i| stream.bits(first + i)).collect();
                assert_eq!(run, single, "{length} from {first}");
            }
        }
    }

    #[test]
    fn streams_differ_by_seed_name_step_and_op() {
        let streams = [
            Stream::named(0, "a"),
            Stream::named(1, "a"),
            Stream::named(1 << 32, "a"),
            Stream::named(0, "b"),
            Stream::at(0, 0, 0),
            Stream::at(0, 0, 1),
            Stream::at(0, 1, 0),
            Stream::rounding([0, 0], 0, 0),
            Stream::rounding([0, 0], 0, 1),
            Stream::rounding([0, 0], 1, 0),
            Stream::rounding([0, 1], 0, 0),
        ];
        for (i, left) in streams.iter().enumerate() {
            for right in &streams[i + 1..] {
                assert_ne!(left.block(0), right.block(0));
            }
        }
        assert_ne!(streams[0].block(0), streams[0].block(1 << 32));
    }
}
