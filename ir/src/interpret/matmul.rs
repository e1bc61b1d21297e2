//! Matrix products, single or batched, with either operand stored transposed.

use std::borrow::Cow;

use super::Tensor;

/// `a·b [+ acc]`, one product for each leading index; see [`Op::Matmul`](crate::op::Op::Matmul).
pub(super) fn matmul(
    a: &Tensor,
    transpose_a: bool,
    b: &Tensor,
    transpose_b: bool,
    acc: Option<&Tensor>,
) -> Vec<f64> {
    let (a_rows, a_columns) = matrix(a);
    let (b_rows, b_columns) = matrix(b);
    let (m, k) = if transpose_a {
        (a_columns, a_rows)
    } else {
        (a_rows, a_columns)
    };
    let n = if transpose_b { b_rows } else { b_columns };
    let groups = if a.ty.shape.rank() == 3 {
        a.ty.shape[0]
    } else {
        1
    };
    let mut out = acc.map_or_else(|| vec![0.0; groups * m * n], |acc| acc.data.clone());
    for group in 0..groups {
        let a = stored(
            &a.data[group * m * k..][..m * k],
            a_rows,
            a_columns,
            transpose_a,
        );
        let b = stored(
            &b.data[group * k * n..][..k * n],
            b_rows,
            b_columns,
            transpose_b,
        );
        product(&a, &b, &mut out[group * m * n..][..m * n], m, k, n);
    }
    out
}

/// Extents of the last two axes.
fn matrix(t: &Tensor) -> (usize, usize) {
    let rank = t.ty.shape.rank();
    (t.ty.shape[rank - 2], t.ty.shape[rank - 1])
}

/// The matrix the product means: as stored, or transposed.
fn stored(data: &[f64], rows: usize, columns: usize, transpose: bool) -> Cow<'_, [f64]> {
    if !transpose {
        return Cow::Borrowed(data);
    }
    let mut out = vec![0.0; data.len()];
    for r in 0..rows {
        for c in 0..columns {
            out[c * rows + r] = data[r * columns + c];
        }
    }
    Cow::Owned(out)
}

/// `out[m, n] += a[m, k] · b[k, n]`; the middle loop runs over `k` so that the inner one walks rows.
fn product(a: &[f64], b: &[f64], out: &mut [f64], m: usize, k: usize, n: usize) {
    for row in 0..m {
        let out = &mut out[row * n..][..n];
        for (&factor, b) in a[row * k..][..k].iter().zip(b.chunks_exact(n.max(1))) {
            for (sum, &b) in out.iter_mut().zip(b) {
                *sum += factor * b;
            }
        }
    }
}
