//! `out[.., m, n] (+)= a·b`, one product of the matrix unit.
//!
//! Computed: `out[i, j] = fma(a[i, k−1], b[k−1, j], … fma(a[i, 0], b[0, j], start))` with `start` 0 or the old `out`; or the old `out` plus
//!           that from 0, where a sum of partial results is made in place.
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
    pub old: Old,
}

/// What becomes of what `out` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// It is overwritten.
    Gone,
    /// The chains start from it.
    Start,
    /// The chains start from 0, and what they come to is added to it.
    Term,
}

/// Longest stretch of `k` that is gone through at once.
const STRETCH: usize = 256;

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
    let adds = product.old == Old::Term;
    let in_registers = isa.has_avx2() && (1..=STRETCH).contains(&k);
    if !adds || in_registers {
        work.resize(work.len().max(PANEL), 0.0);
        return one_way(isa, product, a, b, out, &mut work[..PANEL]);
    }
    work.resize(work.len().max(PANEL + m * n), 0.0);
    let (panel, sums) = work.split_at_mut(PANEL);
    let alone = Product {
        old: Old::Gone,
        ..*product
    };
    one_way(isa, &alone, a, b, &mut sums[..m * n], panel);
    for (o, s) in out.iter_mut().zip(sums) {
        *o += *s;
    }
}

#[cfg(target_arch = "x86_64")]
const PANEL: usize = blocked::PANEL;
#[cfg(not(target_arch = "x86_64"))]
const PANEL: usize = 0;

/// The product in registers, or in plain loops.
fn one_way(isa: Isa, product: &Product, a: &[f32], b: &[f32], out: &mut [f32], panel: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if blocked::multiply(isa, product, a, b, out, panel) {
        return;
    }
    let _ = (isa, panel);
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
    fn product(&self, vertex: &Vertex<'_>) -> (usize, Product) {
        let (batch, m, n) = vertex.outputs[0].matrices();
        let (_, first, last) = vertex.inputs[0].matrices();
        let k = if self.transpose_a { first } else { last };
        let &Matmul {
            transpose_a,
            transpose_b,
            ..
        } = self;
        let old = match vertex.adds {
            true => Old::Term,
            false if self.accumulate => Old::Start,
            false => Old::Gone,
        };
        (
            batch,
            Product {
                m,
                k,
                n,
                transpose_a,
                transpose_b,
                old,
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
        let (batch, Product { m, k, n, .. }) = self.product(vertex);
        expect_matrices("a", a, self.transpose_a, batch, (m, k))?;
        expect_matrices("b", b, self.transpose_b, batch, (k, n))
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        let (batch, p) = self.product(vertex);
        (batch * p.m * p.n) as f64 * (p.k as f64 / 35.0 + 0.5)
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let (batch, product) = self.product(vertex);
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
