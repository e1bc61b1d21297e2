//! Layer normalisation over the last axis, forward and backward.
//!
//! With `x̂ = (x − mean)·rstd`:
//! `y = x̂·scale + shift`; `dscale = Σ_r g·x̂`; `dshift = Σ_r g`; `dx = rstd·(h − Σ h/c − x̂·Σ(h·x̂)/c)` where `h = g·scale`.

use super::isa::isa_kernel;
use super::lanes::{sum, sum2};
use super::vertex::{expect_elements, expect_rows};
use super::vertex_memory::{numbers, numbers_mut};
use super::{Isa, Kernel, Mismatch, Scratch, Vertex, VertexMemory};

/// `(x: [r, c], scale: [c], shift: [c]) → (y: [r, c], mean: [r], rstd: [r])`
pub(super) struct LayerNorm {
    pub(super) epsilon: f64,
    pub(super) isa: Isa,
}

impl Kernel for LayerNorm {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (r, c) = vertex.inputs[0].rows();
        expect_elements("scale", &vertex.inputs[1], c)?;
        expect_elements("shift", &vertex.inputs[2], c)?;
        expect_rows("y", &vertex.outputs[0], (r, c))?;
        expect_elements("mean", &vertex.outputs[1], r)?;
        expect_elements("rstd", &vertex.outputs[2], r)
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let vertex = memory.vertex();
        let (_, c) = vertex.inputs[0].rows();
        let ([x, scale, shift], [y, mean, rstd]) = memory.split();
        let (x, scale, shift): (&[f32], &[f32], &[f32]) =
            (numbers(x), numbers(scale), numbers(shift));
        let (y, mean, rstd): (&mut [f32], &mut [f32], &mut [f32]) =
            (numbers_mut(y), numbers_mut(mean), numbers_mut(rstd));
        for r in 0..mean.len() {
            let at = r * c..(r + 1) * c;
            (mean[r], rstd[r]) = normalise(
                self.isa,
                &x[at.clone()],
                scale,
                shift,
                self.epsilon,
                &mut y[at],
            );
        }
    }
}

isa_kernel! {
    /// One row; gives its mean and `1/√(variance + ε)`.
    fn normalise(x: &[f32], scale: &[f32], shift: &[f32], epsilon: f64, y: &mut [f32]) -> (f32, f32) {
        let n = x.len() as f64;
        let mean = sum(x, f64::from) / n;
        let variance = sum(x, |v| (f64::from(v) - mean) * (f64::from(v) - mean)) / n;
        let (mean, rstd) = (mean as f32, (1.0 / (variance + epsilon).sqrt()) as f32);
        for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
            *y = ((x - mean) * rstd).mul_add(scale, shift);
        }
        (mean, rstd)
    }
}

/// `(g: [r, c], x: [r, c], scale: [c], mean: [r], rstd: [r]) → dx: [r, c]`
pub(super) struct LayerNormGrad {
    pub(super) isa: Isa,
}

impl Kernel for LayerNormGrad {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (r, c) = vertex.inputs[0].rows();
        expect_rows("x", &vertex.inputs[1], (r, c))?;
        expect_elements("scale", &vertex.inputs[2], c)?;
        expect_elements("mean", &vertex.inputs[3], r)?;
        expect_elements("rstd", &vertex.inputs[4], r)?;
        expect_rows("dx", &vertex.outputs[0], (r, c))
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let (_, c) = vertex.inputs[0].rows();
        let ([g, x, scale, mean, rstd], [dx]) = memory.split();
        let (g, x, scale): (&[f32], &[f32], &[f32]) = (numbers(g), numbers(x), numbers(scale));
        let (mean, rstd): (&[f32], &[f32]) = (numbers(mean), numbers(rstd));
        let dx: &mut [f32] = numbers_mut(dx);
        scratch.floats.resize(scratch.floats.len().max(2 * c), 0.0);
        let (h, normal) = scratch.floats[..2 * c].split_at_mut(c);
        for r in 0..mean.len() {
            let at = r * c..(r + 1) * c;
            input_gradient(
                self.isa,
                &g[at.clone()],
                &x[at.clone()],
                scale,
                mean[r],
                rstd[r],
                h,
                normal,
                &mut dx[at],
            );
        }
    }
}

isa_kernel! {
    /// One row of `dx`; `h` and `normal` are work space for `g·scale` and `x̂`.
    fn input_gradient(g: &[f32], x: &[f32], scale: &[f32], mean: f32, rstd: f32, h: &mut [f32], normal: &mut [f32], dx: &mut [f32]) {
        let n = g.len() as f64;
        for ((h, &g), &scale) in h.iter_mut().zip(g).zip(scale) {
            *h = g * scale;
        }
        for (normal, &x) in normal.iter_mut().zip(x) {
            *normal = (x - mean) * rstd;
        }
        let mean_h = (sum(h, f64::from) / n) as f32;
        let mean_h_normal = (sum2(h, normal, |h, v| f64::from(h) * f64::from(v)) / n) as f32;
        for ((dx, &h), &normal) in dx.iter_mut().zip(&*h).zip(&*normal) {
            *dx = rstd * (-normal).mul_add(mean_h_normal, h - mean_h);
        }
    }
}

/// `(g: [r, c], x: [r, c], mean: [r], rstd: [r]) → (dscale: [1, c], dshift: [1, c])`
pub(super) struct LayerNormParamGrad {
    pub(super) isa: Isa,
}

impl Kernel for LayerNormParamGrad {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let (r, c) = vertex.inputs[0].rows();
        expect_rows("x", &vertex.inputs[1], (r, c))?;
        expect_elements("mean", &vertex.inputs[2], r)?;
        expect_elements("rstd", &vertex.inputs[3], r)?;
        expect_elements("dscale", &vertex.outputs[0], c)?;
        expect_elements("dshift", &vertex.outputs[1], c)
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let (_, c) = vertex.inputs[0].rows();
        let ([g, x, mean, rstd], [dscale, dshift]) = memory.split();
        let (g, x): (&[f32], &[f32]) = (numbers(g), numbers(x));
        let (mean, rstd): (&[f32], &[f32]) = (numbers(mean), numbers(rstd));
        scratch.doubles.clear();
        scratch.doubles.resize(2 * c, 0.0);
        let (scale_sums, shift_sums) = scratch.doubles.split_at_mut(c);
        for r in 0..mean.len() {
            let at = r * c..(r + 1) * c;
            add_row(
                self.isa,
                &g[at.clone()],
                &x[at],
                mean[r],
                rstd[r],
                scale_sums,
                shift_sums,
            );
        }
        round(scale_sums, numbers_mut(dscale));
        round(shift_sums, numbers_mut(dshift));
    }
}

isa_kernel! {
    fn add_row(g: &[f32], x: &[f32], mean: f32, rstd: f32, scale_sums: &mut [f64], shift_sums: &mut [f64]) {
        for (((s, t), &g), &x) in scale_sums.iter_mut().zip(shift_sums).zip(g).zip(x) {
            *s += f64::from(g) * f64::from((x - mean) * rstd);
            *t += f64::from(g);
        }
    }
}

fn round(sums: &[f64], out: &mut [f32]) {
    for (o, &s) in out.iter_mut().zip(sums) {
        *o = s as f32;
    }
}

#[cfg(test)]
mod tests;
