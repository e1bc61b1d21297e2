//! Ops that only move elements.

use super::Tensor;
use crate::types::Shape;

pub(super) fn transpose(perm: &[usize], x: &Tensor) -> Vec<f64> {
    let shape = &x.ty.shape;
    let from = shape.strides();
    let dims: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
    let strides: Vec<usize> = perm.iter().map(|&axis| from[axis]).collect();
    let mut index = vec![0; dims.len()];
    let mut out = Vec::with_capacity(x.data.len());
    for _ in 0..x.data.len() {
        out.push(
            x.data[index
                .iter()
                .zip(&strides)
                .map(|(i, s)| i * s)
                .sum::<usize>()],
        );
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Elements from one entry of `axis` to the next.
fn stride(shape: &Shape, axis: usize) -> usize {
    shape.dims()[axis + 1..].iter().product()
}

pub(super) fn slice(axis: usize, start: usize, len: usize, x: &Tensor) -> Vec<f64> {
    let stride = stride(&x.ty.shape, axis);
    let outer = x.ty.shape[axis] * stride;
    x.data
        .chunks_exact(outer.max(1))
        .flat_map(|c| c[start * stride..][..len * stride].iter().copied())
        .collect()
}

pub(super) fn concat(axis: usize, xs: &[&Tensor]) -> Vec<f64> {
    let outer: usize = xs[0].ty.shape.dims()[..axis].iter().product();
    let mut out = Vec::new();
    for i in 0..outer {
        for x in xs {
            let run = x.ty.shape[axis] * stride(&x.ty.shape, axis);
            out.extend_from_slice(&x.data[i * run..][..run]);
        }
    }
    out
}

pub(super) fn broadcast(shape: &Shape, x: &Tensor) -> Vec<f64> {
    x.data
        .iter()
        .copied()
        .cycle()
        .take(shape.elements())
        .collect()
}
