//! IEEE half precision as a rounding of wider numbers: what a store to an f16 variable does.
//!
//! Ten bits of fraction; normals from 2⁻¹⁴ to 65504, below them multiples of 2⁻²⁴. Every value between 65504 and the next power of two
//! rounds like any other; what would become 65536 becomes infinite.

/// The largest finite half.
pub const MAX: f64 = 65504.0;

/// Exponent of the smallest normal half.
const LEAST_EXPONENT: i32 = -14;
const FRACTION_BITS: i32 = 10;

/// The half nearest to `x`, to even where two are as near; infinities, NaN and the sign of a zero stay.
pub fn nearest(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let unit = unit(x);
    // Scaling by a power of two is exact here: neither side comes near the ends of what an f64 holds.
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.abs() > MAX {
        f64::INFINITY.copysign(x)
    } else {
        // A negative number that rounds to nothing is −0.
        rounded.copysign(x)
    }
}

/// Distance of the halves around a finite `x`.
fn unit(x: f64) -> f64 {
    let biased = (x.to_bits() >> 52) as i32 & 0x7ff;
    let exponent = (biased - 1023).clamp(LEAST_EXPONENT, 16);
    f64::from_bits(((exponent - FRACTION_BITS + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn halves() -> impl Iterator<Item = f64> {
        (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f64())
    }

    #[test]
    fn halves_stay() {
        for x in halves() {
            assert_eq!(nearest(x).to_bits(), x.to_bits());
        }
    }

    #[test]
    fn between_two_halves_the_nearer_one_or_the_even_one() {
        for bits in 0..0x7bff_u16 {
            let [low, high] = [bits, bits + 1].map(|bits| f16::from_bits(bits).to_f64());
            let middle = 0.5 * (low + high);
            let even = if bits % 2 == 0 { low } else { high };
            for sign in [1.0, -1.0] {
                assert_eq!(nearest(sign * middle), sign * even);
                assert_eq!(nearest(sign * middle.next_down()), sign * low);
                assert_eq!(nearest(sign * middle.next_up()), sign * high);
            }
        }
    }

    #[test]
    fn beyond_the_largest() {
        assert_eq!(nearest(65520.0_f64.next_down()), MAX);
        assert_eq!(nearest(65520.0), f64::INFINITY);
        assert_eq!(nearest(-1e300), f64::NEG_INFINITY);
        assert!(nearest(f64::NAN).is_nan());
        assert_eq!(nearest(-1e-300).to_bits(), (-0.0_f64).to_bits());
        assert_eq!(nearest(f64::from_bits(1)).to_bits(), 0);
    }
}
