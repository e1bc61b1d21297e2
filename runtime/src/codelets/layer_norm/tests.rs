use super::*;
use crate::codelets::testing::{assert_close, bits, isas, numbers as random, run, whole};

const EPSILON: f64 = 1e-5;

/// `(mean, rstd, x̂)` of a row.
fn normal(x: &[f32]) -> (f64, f64, Vec<f64>) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = x
        .iter()
        .map(|&v| (f64::from(v) - mean).powi(2))
        .sum::<f64>()
        / n;
    let rstd = 1.0 / (variance + EPSILON).sqrt();
    (
        mean,
        rstd,
        x.iter().map(|&v| (f64::from(v) - mean) * rstd).collect(),
    )
}

#[test]
fn forward_and_backward() {
    for (r, c) in [(1, 1), (7, 24), (3, 7), (5, 768), (0, 8), (24, 33)] {
        let x: Vec<f32> = random(r * c, 1).iter().map(|v| 3.0 * v + 1.0).collect();
        let (g, scale, shift) = (random(r * c, 2), random(c, 3), random(c, 4));
        let (mut y, mut means, mut rstds, mut dx) = (vec![], vec![], vec![], vec![]);
        let (mut dscale, mut dshift) = (vec![0.0; c], vec![0.0; c]);
        for i in 0..r {
            let (mean, rstd, n) = normal(&x[i * c..][..c]);
            let g: Vec<f64> = g[i * c..][..c].iter().map(|&v| f64::from(v)).collect();
            let h: Vec<f64> = g
                .iter()
                .zip(&scale)
                .map(|(g, &s)| g * f64::from(s))
                .collect();
            let mean_h = h.iter().sum::<f64>() / c as f64;
            let mean_hn = h.iter().zip(&n).map(|(h, n)| h * n).sum::<f64>() / c as f64;
            means.push(mean);
            rstds.push(rstd);
            for j in 0..c {
                y.push(n[j] * f64::from(scale[j]) + f64::from(shift[j]));
                dx.push(rstd * (h[j] - mean_h - n[j] * mean_hn));
                dscale[j] += g[j] * n[j];
                dshift[j] += g[j];
            }
        }
        let (rows, row, matrix) = (vec![0.0; r], vec![0.0; c], vec![0.0; r * c]);
        let mut results: Vec<Vec<Vec<f32>>> = Vec::new();
        for isa in isas() {
            let (x, g) = (whole(&[r, c], &x), whole(&[r, c], &g));
            let (scale, shift) = (whole(&[c], &scale), whole(&[c], &shift));
            let outputs = [
                whole(&[r, c], &matrix),
                whole(&[r], &rows),
                whole(&[r], &rows),
            ];
            let forward = LayerNorm {
                epsilon: EPSILON,
                isa,
            };
            let mut all = run(&forward, &[x.clone(), scale.clone(), shift], &outputs);
            let (mean, rstd) = (whole(&[r], &all[1]), whole(&[r], &all[2]));
            let inputs = [g.clone(), x.clone(), scale, mean.clone(), rstd.clone()];
            all.extend(run(&LayerNormGrad { isa }, &inputs, &outputs[..1]));
            let outputs = [whole(&[1, c], &row), whole(&[1, c], &row)];
            all.extend(run(
                &LayerNormParamGrad { isa },
                &[g, x, mean, rstd],
                &outputs,
            ));
            results.push(all);
        }
        let what = format!("[{r}, {c}]");
        // A row of one element has the gain 1/√ε, which magnifies the rounding of x.
        let tolerance = if c == 1 { 1e-4 } else { 2e-6 };
        for (found, expected) in results[0]
            .iter()
            .zip([&y, &means, &rstds, &dx, &dscale, &dshift])
        {
            assert_close(found, expected, tolerance, &what);
        }
        assert!(
            results.iter().all(|r| bits(r) == bits(&results[0])),
            "{what}"
        );
    }
}
