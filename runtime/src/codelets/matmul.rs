//! `out[.., m, n] (+)= a·b`, one product of the matrix unit.
//!
//! Computed: `out[i, j] = fma(a[i, k−1], b[k−1, j], … fma(a[i, 0], b[0, j], start))` with `start` 0 or the old `out`.
//! Stored:   row-major; `a` is `[m, k]`, or `[k, m]` with `transpose_a`; `b` is `[k, n]`, or `[n, k]` with `transpose_b`.
//! Order:    one chain of fused multiply-adds an output element, over ascending `k`. Rows and columns may be grouped at will; `k` may
//!           only be cut where the chain is stored and taken up again, which is exact.

#[cfg(target_arch = "x86_64")]
mod blocked;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vectors;

use super::vertex_memory::{numbers, numbers_mut};
use super::{Isa, Kernel, Mismatch, Operand, Scratch, Vertex, VertexMemory};

/// Extents and storage of one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// `a` is stored `[k, m]`.
    pub transpose_a: bool,
    /// `b` is stored `[n, k]`.
    pub transpose_b: bool,
    /// The chains start from the old `out`.
    pub accumulate: bool,
}

/// One product on dense slices. `work` is work space.
pub fn multiply(
    isa: Isa,
    product: &Product,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    work: &mut Vec<f32>,
) {
    let &Product { m, k, n, .. } = product;
    assert!(
        a.len() == m * k && b.len() == k * n && out.len() == m * n,
        "operands of {product:?}"
    );
    #[cfg(target_arch = "x86_64")]
    if blocked::multiply(isa, product, a, b, out, work) {
        return;
    }
    let _ = (isa, work);
    portable::multiply(product, a, b, out);
}

pub(super) struct Matmul {
    pub(super) transpose_a: bool,
    pub(super) transpose_b: bool,
    pub(super) accumulate: bool,
    pub(super) isa: Isa,
}

impl Matmul {
    /// The product of one batch entry, and the number of entries.
    fn product(&self, a: &Operand<'_>, out: &Operand<'_>) -> (usize, Product) {
        let (batch, m, n) = out.matrices();
        let (_, first, last) = a.matrices();
        let k = if self.transpose_a { first } else { last };
        let &Matmul {
            transpose_a,
            transpose_b,
            accumulate,
            ..
        } = self;
        (
            batch,
            Product {
                m,
                k,
                n,
                transpose_a,
                transpose_b,
                accumulate,
            },
        )
    }
}

/// Ok when `operand` is `batch` matrices of `[r, c]`, or of `[c, r]` when it is stored transposed.
fn expect_matrices(
    name: &str,
    operand: &Operand<'_>,
    transposed: bool,
    batch: usize,
    (r, c): (usize, usize),
) -> Result<(), Mismatch> {
    let expected = if transposed {
        (batch, c, r)
    } else {
        (batch, r, c)
    };
    if operand.matrices() == expected {
        return Ok(());
    }
    let (batch, r, c) = expected;
    let reason = format!(
        "has extents {:?} where [{batch}, {r}, {c}] belong",
        operand.dims()
    );
    Err(Mismatch {
        operand: name.into(),
        reason,
    })
}

impl Kernel for Matmul {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (a, b) = (&vertex.inputs[0], &vertex.inputs[1]);
        let (batch, Product { m, k, n, .. }) = self.product(a, &vertex.outputs[0]);
        expect_matrices("a", a, self.transpose_a, batch, (m, k))?;
        expect_matrices("b", b, self.transpose_b, batch, (k, n))
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        let (batch, p) = self.product(&vertex.inputs[0], &vertex.outputs[0]);
        (batch * p.m * p.n) as f64 * (p.k as f64 / 35.0 + 0.5)
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let (batch, product) = self.product(&vertex.inputs[0], &vertex.outputs[0]);
        let ([a, b], [out]) = memory.split();
        let (a, b, out) = (numbers(a), numbers(b), numbers_mut(out));
        let Product { m, k, n, .. } = product;
        for i in 0..batch {
            multiply(
                self.isa,
                &product,
                &a[i * m * k..][..m * k],
                &b[i * k * n..][..k * n],
                &mut out[i * m * n..][..m * n],
                &mut scratch.floats,
            );
        }
    }
}

#[cfg(test)]
mod tests;
