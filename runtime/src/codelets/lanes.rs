//! Sums and maxima over rows in eight fixed lanes.
//!
//! Element `i` belongs to lane `i mod 8`; lanes are joined in one fixed tree. The order is part of the result, so it is the same on
//! every instruction set. Sums are kept in `f64`: a row of a thousand elements then rounds once, at the end.

const LANES: usize = 8;

#[inline(always)]
fn join(l: [f64; LANES]) -> f64 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// `Σ f(x_i)`
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += f(chunk[l]);
        }
    }
    for (l, &v) in tail.iter().enumerate() {
        lanes[l] += f(v);
    }
    join(lanes)
}

/// `Σ f(x_i, y_i)`
#[inline(always)]
pub(crate) fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let tail = xs.remainder().iter().zip(ys.remainder());
    for (a, b) in xs.zip(ys) {
        for l in 0..LANES {
            lanes[l] += f(a[l], b[l]);
        }
    }
    for (l, (&a, &b)) in tail.enumerate() {
        lanes[l] += f(a, b);
    }
    join(lanes)
}

/// The larger of two; a NaN on the left is dropped.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The largest element, `−∞` of none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = larger(chunk[l], lanes[l]);
        }
    }
    for (l, &v) in tail.iter().enumerate() {
        lanes[l] = larger(v, lanes[l]);
    }
    lanes
        .into_iter()
        .fold(f32::NEG_INFINITY, |m, v| larger(v, m))
}
