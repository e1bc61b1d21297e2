//! The product in plain loops: the meaning, and the fallback of machines without AVX2.

use super::{Old, Product};

/// `out (+)= a·b`; see [`Product`].
pub(super) fn multiply(product: &Product, a: &[f32], b: &[f32], out: &mut [f32]) {
    let &Product {
        m,
        k,
        n,
        transpose_a,
        transpose_b,
        old,
    } = product;
    match old {
        Old::Gone => out.fill(0.0),
        Old::Start => {}
        Old::Term => unreachable!("added by the caller"),
    }
    if n == 0 {
        return;
    }
    for (i, row) in out.chunks_exact_mut(n).enumerate() {
        for p in 0..k {
            let x = if transpose_a {
                a[p * m + i]
            } else {
                a[i * k + p]
            };
            for (j, y) in row.iter_mut().enumerate() {
                let w = if transpose_b {
                    b[j * k + p]
                } else {
                    b[p * n + j]
                };
                *y = x.mul_add(w, *y);
            }
        }
    }
}
