//! Reductions of leading axes.

use super::Tensor;
use crate::op::ReduceKind;

/// Reduces `x`, seen as `[.., inner]`, to `inner` elements.
pub(super) fn reduce(kind: ReduceKind, inner: usize, x: &Tensor) -> Vec<f64> {
    let (start, combine): (f64, fn(f64, f64) -> f64) = match kind {
        ReduceKind::Sum => (0.0, |sum, x| sum + x),
        ReduceKind::SumSquares => (0.0, |sum, x| sum + x * x),
        ReduceKind::Max => (f64::NEG_INFINITY, f64::max),
    };
    let mut out = vec![start; inner];
    for row in x.data.chunks_exact(inner.max(1)) {
        for (sum, &x) in out.iter_mut().zip(row) {
            *sum = combine(*sum, x);
        }
    }
    out
}
