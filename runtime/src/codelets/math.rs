//! Transcendental functions in `f32`, the same bits on every machine.
//!
//! The C library's functions differ between versions, so these are our own: argument reduction and a minimax polynomial (Remez, fitted
//! in 120-bit arithmetic to the weight of the result's own rounding), all in exact IEEE operations and without branches, so that a
//! loop over them vectorises. Errors are at most about 2 units in the last place, tested against `f64`.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// `ln 2` in two parts: the first has 15 significant bits, so that its product with an exponent is exact.
const LN2_HIGH: f32 = f32::from_bits(0x3f31_7200);
const LN2_LOW: f32 = 1.428_606_8e-6;

/// Adding `1.5·2²³` rounds to an integer, to nearest even, and leaves that integer in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`: `(n as a float, n, r)`, for `|n| < 2²²`.
#[inline(always)]
fn reduce(x: f32) -> (f32, i32, f32) {
    let shifted = x.mul_add(LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    let bits = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    (n, bits, r)
}

/// `2ⁿ` for `−126 ≤ n ≤ 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `e^x`
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const OVERFLOW: f32 = 88.722_84;
    const UNDERFLOW: f32 = -103.972_08;
    let (_, n, r) = reduce(x);
    // e^r = 1 + r + r²·q(r), relative error 2^-27.4.
    let q = 0.001_390_387_1_f32.mul_add(r, 0.008_371_189);
    let q = q.mul_add(r, 0.041_666_746);
    let q = q.mul_add(r, 0.166_664_96);
    let q = q.mul_add(r, 0.5);
    let p = (r * r).mul_add(q, r) + 1.0;
    // Two factors, so that neither overflows before the result does, and a subnormal result rounds once.
    let half = n >> 1;
    let y = p * power_of_two(half) * power_of_two(n.wrapping_sub(half));
    let y = if x > OVERFLOW { f32::INFINITY } else { y };
    if x < UNDERFLOW { 0.0 } else { y }
}

/// `e^x − 1`
#[inline(always)]
pub(crate) fn expm1(x: f32) -> f32 {
    const OVERFLOW: f32 = 88.722_84;
    const MINUS_ONE: f32 = -18.0;
    let (_, n, r) = reduce(x);
    // e^r − 1 = r + r²·q(r), relative error 2^-31.9.
    let q = 1.984_598e-4_f32.mul_add(r, 1.394_165_3e-3);
    let q = q.mul_add(r, 8.333_392e-3);
    let q = q.mul_add(r, 4.166_634_7e-2);
    let q = q.mul_add(r, 0.166_666_66);
    let q = q.mul_add(r, 0.5);
    let p = (r * r).mul_add(q, r);
    // 2ⁿ(1 + p) − 1 = 2·(2ⁿ⁻¹·p + (2ⁿ⁻¹ − ½)): halved, because 2¹²⁸ is no number.
    let half_scale = power_of_two(n.wrapping_sub(1));
    let y = 2.0 * half_scale.mul_add(p, half_scale - 0.5);
    let y = if n == 0 { p } else { y };
    let y = if x > OVERFLOW { f32::INFINITY } else { y };
    if x < MINUS_ONE { -1.0 } else { y }
}

/// `tanh x = −t / (t + 2)` with `t = e^(−2|x|) − 1`, and the sign of `x`.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let t = expm1(-2.0 * x.abs());
    (-t / (t + 2.0)).copysign(x)
}

/// `ln x`
#[inline(always)]
pub(crate) fn log(x: f32) -> f32 {
    const SQRT_HALF_BITS: i32 = 0x3f35_04f3;
    // A subnormal is scaled into the normal range first.
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits() as i32;
    // x = 2ⁿ·(1 + f) with √½ ≤ 1 + f < √2.
    let n = bits.wrapping_sub(SQRT_HALF_BITS) >> 23;
    let f = f32::from_bits(bits.wrapping_sub(n << 23) as u32) - 1.0;
    let n = n as f32 - if tiny { 23.0 } else { 0.0 };
    // ln(1 + f) = f − f²/2 + f³·q(f), relative error 2^-30.
    let q = 0.067_466_38_f32.mul_add(f, -0.116_756_506);
    let q = q.mul_add(f, 0.118_881_63);
    let q = q.mul_add(f, -0.124_055_9);
    let q = q.mul_add(f, 0.142_195_52);
    let q = q.mul_add(f, -0.166_679_96);
    let q = q.mul_add(f, 0.200_021_19);
    let q = q.mul_add(f, -0.250_000_1);
    let q = q.mul_add(f, 0.333_333_13);
    let square = f * f;
    let correction = square.mul_add(-0.5, square * f * q);
    let y = n.mul_add(LN2_LOW, correction) + f;
    let y = n.mul_add(LN2_HIGH, y);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// `2/√π ∫₀ˣ e^(−t²) dt`
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    const MIDDLE: f32 = 0.93;
    const SATURATED: f32 = 3.95;
    // Near 0: x + x·q(x²), relative error 2^-30.8.
    let s = x * x;
    let q = 8.251_003e-5_f32.mul_add(s, -8.114_048e-4);
    let q = q.mul_add(s, 5.198_463e-3);
    let q = q.mul_add(s, -2.685_834_5e-2);
    let q = q.mul_add(s, 0.112_836_76);
    let q = q.mul_add(s, -0.376_126_32);
    let q = q.mul_add(s, 0.128_379_17);
    let near = q.mul_add(x, x);
    // Beyond: 1 − e^(−t·p(t)), error 2^-34.5 of the result.
    let t = if x.abs() < SATURATED {
        x.abs()
    } else {
        SATURATED
    };
    let p = (-2.259_003e-6_f32).mul_add(t, 3.606_562_3e-5);
    let p = p.mul_add(t, -2.288_184_2e-4);
    let p = p.mul_add(t, 5.524_520_5e-4);
    let p = p.mul_add(t, 1.722_182_8e-3);
    let p = p.mul_add(t, -2.115_767_8e-2);
    let p = p.mul_add(t, 0.104_098_81);
    let p = p.mul_add(t, 0.636_124_97);
    let p = p.mul_add(t, 1.128_459_8);
    let far = (1.0 - exp(-t * p)).copysign(x);
    let y = if x.abs() < MIDDLE { near } else { far };
    if x.is_nan() { x } else { y }
}

/// `√(2/π)` and the cubic coefficient of `gelu_tanh`.
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

/// The gate `s = (1 + tanh u)/2` with `u = √(2/π)(x + 0.044715 x³)`, and `s(1 − s)`. With `e = e^(−2|u|)` both are quotients of
/// positive numbers: one exponential, no cancellation, no overflow.
#[inline(always)]
fn gelu_gate(x: f32) -> (f32, f32) {
    let u = GELU_SCALE * (x * x * x).mul_add(GELU_CUBIC, x);
    let e = exp(-2.0 * u.abs());
    let upper = 1.0 / (1.0 + e);
    let lower = e * upper;
    (if u < 0.0 { lower } else { upper }, lower * upper)
}

/// `x (1 + tanh u)/2`
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    x * gelu_gate(x).0
}

/// `d gelu_tanh/dx = s + x·s(1 − s)·2u'`, where `s` is the gate.
#[inline(always)]
pub(crate) fn gelu_tanh_slope(x: f32) -> f32 {
    let (gate, steepness) = gelu_gate(x);
    let slope = GELU_SCALE * (3.0 * GELU_CUBIC * x).mul_add(x, 1.0);
    (2.0 * x * slope).mul_add(steepness, gate)
}

/// `x·Φ(x)`
#[inline(always)]
pub(crate) fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// `Φ(x) + x·φ(x)`
#[inline(always)]
pub(crate) fn gelu_erf_slope(x: f32) -> f32 {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    let cumulative = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
    (x * INV_SQRT_TAU).mul_add(exp(-0.5 * x * x), cumulative)
}

#[cfg(test)]
pub(crate) mod tests;
