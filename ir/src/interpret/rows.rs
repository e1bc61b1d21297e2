//! Ops over rows, the last axis: layer norm, masks, softmax, and their gradients.

use super::Tensor;

/// `y`, `mean` and `rstd` of every row.
pub(super) fn layer_norm(
    epsilon: f64,
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
) -> [Vec<f64>; 3] {
    let (mut y, mut means, mut rstds) = (Vec::with_capacity(x.data.len()), Vec::new(), Vec::new());
    for row in x.rows() {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let rstd = 1.0 / (variance + epsilon).sqrt();
        y.extend(
            row.iter()
                .zip(&scale.data)
                .zip(&shift.data)
                .map(|((x, w), b)| (x - mean) * rstd * w + b),
        );
        means.push(mean);
        rstds.push(rstd);
    }
    [y, means, rstds]
}

/// With `x̂ = (x − mean)·rstd` and `h = g ⊙ scale`: `rstd · (h − avg(h) − x̂ · avg(h ⊙ x̂))`, averages over the row.
pub(super) fn layer_norm_grad(
    g: &Tensor,
    x: &Tensor,
    scale: &Tensor,
    mean: &Tensor,
    rstd: &Tensor,
) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.data.len());
    for (r, (g, x)) in g.rows().zip(x.rows()).enumerate() {
        let (mean, rstd) = (mean.data[r], rstd.data[r]);
        let n = x.len() as f64;
        let normed: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
        let h: Vec<f64> = g.iter().zip(&scale.data).map(|(g, w)| g * w).collect();
        let h_average = h.iter().sum::<f64>() / n;
        let h_normed_average = h.iter().zip(&normed).map(|(h, x)| h * x).sum::<f64>() / n;
        out.extend(
            h.iter()
                .zip(&normed)
                .map(|(h, x)| rstd * (h - h_average - x * h_normed_average)),
        );
    }
    out
}

/// Gradients of `scale` and `shift`: `Σ g ⊙ x̂` and `Σ g` over all rows.
pub(super) fn layer_norm_param_grad(
    g: &Tensor,
    x: &Tensor,
    mean: &Tensor,
    rstd: &Tensor,
) -> [Vec<f64>; 2] {
    let width = x.ty.shape.last();
    let (mut scale, mut shift) = (vec![0.0; width], vec![0.0; width]);
    for (r, (g, x)) in g.rows().zip(x.rows()).enumerate() {
        for c in 0..width {
            scale[c] += g[c] * (x[c] - mean.data[r]) * rstd.data[r];
            shift[c] += g[c];
        }
    }
    [scale, shift]
}

/// `(row, column)` is visible when the column is not beyond the row; `r` counts rows of the last axis over all leading axes.
fn row_index(x: &Tensor, r: usize) -> usize {
    r % x.ty.shape[x.ty.shape.rank() - 2]
}

pub(super) fn causal_mask(x: &Tensor) -> Vec<f64> {
    let mut out = x.data.clone();
    for (r, row) in out.chunks_exact_mut(x.ty.shape.last().max(1)).enumerate() {
        for hidden in row.iter_mut().skip(row_index(x, r) + 1) {
            *hidden = f64::NEG_INFINITY;
        }
    }
    out
}

pub(super) fn mask_beyond(x: &Tensor, last: &Tensor) -> Vec<f64> {
    let mut out = x.data.clone();
    let columns = x.ty.shape.last().max(1);
    let each = (x.data.len() / last.data.len().max(1)).max(1);
    for (entry, last) in out.chunks_exact_mut(each).zip(&last.data) {
        for row in entry.chunks_exact_mut(columns) {
            // A negative column hides all of the row.
            let visible = (last + 1.0).max(0.0) as usize;
            for hidden in row.iter_mut().skip(visible) {
                *hidden = f64::NEG_INFINITY;
            }
        }
    }
    out
}

pub(super) fn softmax(scale: f64, causal: bool, x: &Tensor) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.data.len());
    for (r, row) in x.rows().enumerate() {
        let visible = if causal {
            row.len().min(row_index(x, r) + 1)
        } else {
            row.len()
        };
        let scaled: Vec<f64> = row[..visible].iter().map(|x| scale * x).collect();
        // Subtracting the maximum changes nothing but keeps the exponentials finite.
        let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scaled.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = powers.iter().sum();
        out.extend(powers.iter().map(|e| e / sum));
        out.extend(std::iter::repeat_n(0.0, row.len() - visible));
    }
    out
}

pub(super) fn softmax_grad(scale: f64, p: &Tensor, g: &Tensor) -> Vec<f64> {
    let mut out = Vec::with_capacity(p.data.len());
    for (p, g) in p.rows().zip(g.rows()) {
        let dot: f64 = p.iter().zip(g).map(|(p, g)| p * g).sum();
        out.extend(p.iter().zip(g).map(|(p, g)| scale * p * (g - dot)));
    }
    out
}
