use superstep_ir::op::{BinaryOp, UnaryOp};

use super::*;

/// `erf` in `f64`: the power series near 0, a continued fraction for `erfc` beyond.
fn erf64(x: f64) -> f64 {
    let t = x.abs();
    let value = if t < 2.5 {
        let (mut term, mut sum) = (t, t);
        for n in 1..80 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..=200)
            .rev()
            .fold(0.0, |f, k| f64::from(k) / 2.0 / (t + f));
        1.0 - (-t * t).exp() / std::f64::consts::PI.sqrt() / (t + fraction)
    };
    value.copysign(x)
}

fn gelu_tanh64(x: f64) -> (f64, f64) {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    let t = (c * (x + 0.044715 * x * x * x)).tanh();
    (
        0.5 * x * (1.0 + t),
        0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x),
    )
}

fn gelu_erf64(x: f64) -> (f64, f64) {
    let cumulative = 0.5 * (1.0 + erf64(x / std::f64::consts::SQRT_2));
    (
        x * cumulative,
        cumulative + x * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt(),
    )
}

/// The meaning of an op in `f64`.
pub(crate) fn unary(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Exp => x.exp(),
        UnaryOp::Expm1 => x.exp_m1(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Square => x * x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Relu => x.max(0.0),
        UnaryOp::GeluTanh => gelu_tanh64(x).0,
        UnaryOp::GeluErf => gelu_erf64(x).0,
    }
}

/// The meaning of an op in `f64`.
pub(crate) fn binary(op: BinaryOp, x: f64, y: f64) -> f64 {
    match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x * y,
        BinaryOp::Div => x / y,
        BinaryOp::Max => x.max(y),
        BinaryOp::Min => x.min(y),
        BinaryOp::ReluGrad => {
            if x > 0.0 {
                y
            } else {
                0.0
            }
        }
        BinaryOp::GeluTanhGrad => y * gelu_tanh64(x).1,
        BinaryOp::GeluErfGrad => y * gelu_erf64(x).1,
    }
}

/// Distance of `found` from `exact` in units of the last place of `exact` as `f32`.
fn ulps(found: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if found == rounded || (found.is_nan() && exact.is_nan()) {
        return 0.0;
    }
    let bits = rounded.abs().to_bits().min(f32::MAX.to_bits() - 1);
    let unit = f64::from(f32::from_bits(bits + 1)) - f64::from(f32::from_bits(bits));
    (f64::from(found) - exact).abs() / unit
}

/// The largest error over every 1,009th float of the range of bits, both signs where asked.
fn worst(
    f: impl Fn(f32) -> f32,
    exact: impl Fn(f64) -> f64,
    from: f32,
    to: f32,
    negative: bool,
) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    for bits in (from.to_bits()..=to.to_bits()).step_by(1009) {
        let x = f32::from_bits(bits);
        for x in [x, -x].into_iter().take(1 + usize::from(negative)) {
            let error = ulps(f(x), exact(f64::from(x)));
            if error > worst.0 {
                worst = (error, x);
            }
        }
    }
    worst
}

#[test]
fn errors_in_units_of_the_last_place() {
    /// Name, function, meaning, smallest and largest argument, whether negative ones too, most units.
    type Row = (
        &'static str,
        fn(f32) -> f32,
        fn(f64) -> f64,
        f32,
        f32,
        bool,
        f64,
    );
    let table: [Row; 5] = [
        ("exp", exp, f64::exp, 1e-20, 103.0, true, 1.01),
        ("expm1", expm1, f64::exp_m1, 1e-30, 88.7, true, 1.5),
        ("tanh", tanh, f64::tanh, 1e-30, 30.0, true, 2.5),
        ("log", log, f64::ln, 1e-44, 3e38, false, 1.5),
        ("erf", erf, erf64, 1e-30, 6.0, true, 1.5),
    ];
    for (name, f, exact, from, to, negative, limit) in table {
        let (error, at) = worst(f, exact, from, to, negative);
        assert!(error <= limit, "{name}({at:e}) is {error} units off");
    }
}

#[test]
fn gelu_and_its_slope_are_accurate_where_they_matter() {
    for i in -120_000..120_000 {
        let x = i as f32 / 10_000.0;
        let wide = f64::from(x);
        let scale = wide.abs().max(1e-3);
        assert!(
            (f64::from(gelu_tanh(x)) - gelu_tanh64(wide).0).abs() < 4e-7 * scale,
            "gelu_tanh({x})"
        );
        assert!(
            (f64::from(gelu_erf(x)) - gelu_erf64(wide).0).abs() < 2e-7 * scale,
            "gelu_erf({x})"
        );
        assert!(
            (f64::from(gelu_tanh_slope(x)) - gelu_tanh64(wide).1).abs() < 8e-7,
            "slope of gelu_tanh({x})"
        );
        assert!(
            (f64::from(gelu_erf_slope(x)) - gelu_erf64(wide).1).abs() < 4e-7,
            "slope of gelu_erf({x})"
        );
    }
}

#[test]
fn limits_and_specials() {
    let inf = f32::INFINITY;
    assert_eq!(
        (exp(inf), exp(-inf), exp(0.0), exp(89.0), exp(-104.0)),
        (inf, 0.0, 1.0, inf, 0.0)
    );
    assert_eq!(
        (expm1(inf), expm1(-inf), expm1(0.0), expm1(-1e-30)),
        (inf, -1.0, 0.0, -1e-30)
    );
    assert_eq!((log(inf), log(0.0), log(1.0)), (inf, -inf, 0.0));
    assert_eq!((tanh(inf), tanh(-inf), tanh(0.0)), (1.0, -1.0, 0.0));
    assert_eq!((erf(inf), erf(-inf), erf(0.0)), (1.0, -1.0, 0.0));
    assert_eq!(
        (gelu_tanh(-100.0), gelu_tanh(100.0), gelu_erf(100.0)),
        (0.0, 100.0, 100.0)
    );
    for f in [exp, expm1, log, tanh, erf, gelu_tanh, gelu_erf] {
        assert!(f(f32::NAN).is_nan());
    }
    assert!(log(-1.0).is_nan());
}
