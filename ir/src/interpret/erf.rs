//! The error function in f64, for the exact form of GELU.

use std::f64::consts::PI;

/// `erf(x) = 2/√π ∫₀ˣ e^(−t²) dt`, to a few units in the last place.
pub fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    let value = if magnitude < 2.5 {
        series(magnitude)
    } else {
        1.0 - complement(magnitude)
    };
    value.copysign(x)
}

/// `2/√π · e^(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1))`: every term is positive, so nothing cancels. NaN stays NaN.
fn series(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term > sum * (f64::EPSILON / 4.0) {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// `1 − erf(x)` for `x ≥ 2.5` by its continued fraction `e^(−x²)/√π · 1/(x + ½/(x + 1/(x + 3⁄2/(x + …))))`, from the inside out.
fn complement(x: f64) -> f64 {
    const LEVELS: u32 = 60;
    let tail = (1..=LEVELS)
        .rev()
        .fold(x, |inner, n| x + f64::from(n) / 2.0 / inner);
    (-x * x).exp() / PI.sqrt() / tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let table = [
            (0.0, 0.0),
            (0.1, 0.112_462_916_018_284_89),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
            (6.0, 1.0),
        ];
        for (x, want) in table {
            assert!((erf(x) - want).abs() < 1e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(f64::INFINITY), 1.0);
        assert!(erf(f64::NAN).is_nan());
    }

    /// The two formulas meet where one hands over to the other.
    #[test]
    fn the_two_ranges_agree() {
        for x in [2.4, 2.5, 2.6, 3.0] {
            assert!((series(x) - (1.0 - complement(x))).abs() < 1e-15, "at {x}");
        }
    }
}
