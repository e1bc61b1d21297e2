use superstep_ir::types::DType;

use super::*;
use crate::codelets::testing::{
    assert_close, bits, block, integers, isas, numbers as random, run, run_in_place, whole,
};

/// Softmax of one row in which `seen` columns count.
fn reference(x: &[f32], scale: f64, seen: usize) -> Vec<f64> {
    let e: Vec<f64> = x[..seen]
        .iter()
        .map(|&v| (scale * f64::from(v)).exp())
        .collect();
    let sum: f64 = e.iter().sum();
    e.iter()
        .map(|v| v / sum)
        .chain(std::iter::repeat_n(0.0, x.len() - seen))
        .collect()
}

#[test]
fn rows_with_and_without_a_mask() {
    // Rows 5.. of a tensor of 24 rows, two batch entries.
    for (rows, c) in [(1, 1), (7, 24), (3, 7), (4, 1000), (0, 8)] {
        let x: Vec<f32> = random(2 * rows * c, 1).iter().map(|v| 20.0 * v).collect();
        for causal in [false, true] {
            let expected: Vec<f64> = (0..2 * rows)
                .flat_map(|r| {
                    let seen = if causal { c.min(5 + r % rows + 1) } else { c };
                    reference(&x[r * c..][..c], 0.3, seen)
                })
                .collect();
            let input = block(&[2, 24, c], &[0, 5, 0], &[2, rows, c], &x);
            let results: Vec<_> = isas()
                .into_iter()
                .map(|isa| {
                    let kernel = Softmax {
                        scale: 0.3,
                        causal,
                        isa,
                    };
                    let apart = run(
                        &kernel,
                        std::slice::from_ref(&input),
                        std::slice::from_ref(&input),
                    );
                    let inside = run_in_place(
                        &kernel,
                        std::slice::from_ref(&input),
                        std::slice::from_ref(&input),
                        &[0],
                    );
                    assert_eq!(bits(&apart), bits(&inside));
                    apart
                })
                .collect();
            assert_close(
                &results[0][0],
                &expected,
                1e-6,
                &format!("[{rows}, {c}], causal {causal}"),
            );
            assert!(results.iter().all(|r| bits(r) == bits(&results[0])));
        }
    }
}

#[test]
fn gradient_also_in_place() {
    for (r, c) in [(1, 1), (7, 24), (5, 33), (0, 3)] {
        let (p, g) = (random(r * c, 1), random(r * c, 2));
        let expected: Vec<f64> = (0..r * c)
            .map(|i| {
                let row = i / c * c..i / c * c + c;
                let dot: f64 = p[row.clone()]
                    .iter()
                    .zip(&g[row])
                    .map(|(&p, &g)| f64::from(p) * f64::from(g))
                    .sum();
                0.125 * f64::from(p[i]) * (f64::from(g[i]) - dot)
            })
            .collect();
        for isa in isas() {
            let kernel = SoftmaxGrad { scale: 0.125, isa };
            let inputs = [whole(&[r, c], &p), whole(&[r, c], &g)];
            let apart = run(&kernel, &inputs, &inputs[..1]);
            assert_close(&apart[0], &expected, 1e-6, "softmax_grad");
            for on in [0, 1] {
                assert_eq!(
                    bits(&run_in_place(&kernel, &inputs, &inputs[on..on + 1], &[on])),
                    bits(&apart)
                );
            }
        }
    }
}

#[test]
fn the_mask_counts_from_the_whole_tensor() {
    let x = random(2 * 3 * 4, 1);
    let input = block(&[2, 24, 24], &[0, 5, 6], &[2, 3, 4], &x);
    for on in [0, usize::MAX] {
        let out = run_in_place(
            &CausalMask,
            std::slice::from_ref(&input),
            std::slice::from_ref(&input),
            &[on],
        );
        for (i, &y) in out[0].iter().enumerate() {
            let (row, column) = (5 + i / 4 % 3, 6 + i % 4);
            assert_eq!(
                y,
                if column > row {
                    f32::NEG_INFINITY
                } else {
                    x[i]
                }
            );
        }
    }
}

#[test]
fn what_is_beyond_the_last_column_is_hidden() {
    let x = random(3 * 2 * 4, 1);
    let input = block(&[5, 2, 24], &[1, 0, 6], &[3, 2, 4], &x);
    let last = [5, 7, i32::MAX];
    let inputs = [input.clone(), integers(DType::I32, &[3], &last)];
    for on in [0, usize::MAX] {
        let out = run_in_place(&MaskBeyond, &inputs, std::slice::from_ref(&input), &[on]);
        for (i, &y) in out[0].iter().enumerate() {
            let seen = 6 + (i % 4) as i32 <= last[i / 8];
            assert_eq!(y, if seen { x[i] } else { f32::NEG_INFINITY });
        }
    }
}
