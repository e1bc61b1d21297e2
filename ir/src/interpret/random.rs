//! Dropout.

use super::Tensor;
use crate::op::dropout::dropout_keep_run;

pub(super) fn dropout(p: f64, key: u32, x: &Tensor, seed: &Tensor) -> Vec<f64> {
    let seed = [seed.data[0] as u32, seed.data[1] as u32];
    let mut keep = vec![false; x.data.len()];
    dropout_keep_run(seed, key, 0, p, &mut keep);
    x.data
        .iter()
        .zip(keep)
        .map(|(x, keep)| if keep { x / (1.0 - p) } else { 0.0 })
        .collect()
}
