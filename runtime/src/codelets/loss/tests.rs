use superstep_ir::types::DType;

use super::*;
use crate::codelets::testing::{
    assert_close, bits, block, integers, isas, numbers as random, run, run_in_place, whole,
};

const ROWS: usize = 7;
const VOCABULARY: usize = 50;
/// Columns of the tiles; one holds none.
const CUTS: [usize; 5] = [0, 20, 20, 31, 50];
const LABELS: [i32; ROWS] = [0, 19, 20, 49, -100, 31, 7];

fn logits() -> Vec<f32> {
    random(ROWS * VOCABULARY, 1)
        .iter()
        .map(|v| 10.0 * v)
        .collect()
}

/// The columns of one tile.
fn part(t: usize) -> crate::codelets::testing::Data {
    let (all, columns) = (logits(), CUTS[t]..CUTS[t + 1]);
    let data: Vec<f32> = (0..ROWS)
        .flat_map(|r| all[r * VOCABULARY..][columns.clone()].to_vec())
        .collect();
    block(
        &[ROWS, VOCABULARY],
        &[0, columns.start],
        &[ROWS, columns.len()],
        &data,
    )
}

fn reference_logsumexp() -> Vec<f64> {
    logits()
        .chunks(VOCABULARY)
        .map(|row| row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln())
        .collect()
}

#[test]
fn parts_of_four_tiles_join_to_the_loss() {
    let labels = integers(DType::I32, &[ROWS], &LABELS);
    let mut bits_of: Vec<Vec<Vec<u32>>> = Vec::new();
    for isa in isas() {
        let (mut max, mut sum, mut picked) = (vec![], vec![], vec![]);
        let row = whole(&[1, ROWS], &[5.0; ROWS]);
        for t in 0..4 {
            let parts = run(
                &RowMaxSum { padding: 0, isa },
                &[part(t)],
                &[row.clone(), row.clone()],
            );
            max.extend_from_slice(&parts[0]);
            sum.extend_from_slice(&parts[1]);
            picked.extend(
                run(
                    &PickLabel { first: 0 },
                    &[part(t), labels.clone()],
                    std::slice::from_ref(&row),
                )
                .concat(),
            );
        }
        let out = whole(&[ROWS], &[5.0; ROWS]);
        let joined = run(
            &JoinLogSumExp,
            &[whole(&[4, ROWS], &max), whole(&[4, ROWS], &sum)],
            std::slice::from_ref(&out),
        );
        assert_close(&joined[0], &reference_logsumexp(), 3e-7, "logsumexp");
        let inputs = [
            whole(&[4, ROWS], &picked),
            whole(&[ROWS], &joined[0]),
            labels.clone(),
        ];
        let loss = run(&RowLoss, &inputs, &[out]);
        let expected: Vec<f64> = (0..ROWS)
            .map(|r| match usize::try_from(LABELS[r]) {
                Ok(label) => reference_logsumexp()[r] - f64::from(logits()[r * VOCABULARY + label]),
                Err(_) => 0.0,
            })
            .collect();
        assert_close(&loss[0], &expected, 1e-6, "loss");
        bits_of.push(bits(&[max, sum, loss.concat()]));
    }
    assert!(bits_of.iter().all(|b| *b == bits_of[0]));
}

#[test]
fn gradient_of_each_tile() {
    let labels = integers(DType::I32, &[ROWS], &LABELS);
    let g = random(ROWS, 3);
    let logsumexp: Vec<f32> = reference_logsumexp().iter().map(|&x| x as f32).collect();
    for t in 0..4 {
        let columns = CUTS[t + 1] - CUTS[t];
        let expected: Vec<f64> = (0..ROWS * columns)
            .map(|i| {
                let (r, j) = (i / columns, CUTS[t] + i % columns);
                let hit = if LABELS[r] == j as i32 { 1.0 } else { 0.0 };
                let p = (f64::from(logits()[r * VOCABULARY + j]) - reference_logsumexp()[r]).exp();
                if LABELS[r] < 0 {
                    0.0
                } else {
                    (p - hit) * f64::from(g[r])
                }
            })
            .collect();
        let inputs = [
            part(t),
            labels.clone(),
            whole(&[ROWS], &logsumexp),
            whole(&[ROWS], &g),
        ];
        for isa in isas() {
            let kernel = CrossEntropyGrad {
                first: 0,
                padding: 0,
                isa,
            };
            let apart = run(&kernel, &inputs, &inputs[..1]);
            assert_close(&apart[0], &expected, 2e-6, "gradient");
            assert_eq!(
                bits(&run_in_place(&kernel, &inputs, &inputs[..1], &[0])),
                bits(&apart)
            );
        }
    }
}

#[test]
fn padding_counts_for_nothing() {
    const PADDING: usize = 33;
    const FIRST: u32 = 1000;
    let labels = LABELS.map(|l| if l < 0 { l } else { l % 17 + FIRST as i32 });
    let labels_in = integers(DType::I32, &[ROWS], &labels);
    let classes = VOCABULARY - PADDING;
    let g = random(ROWS, 3);
    let of_row = |r: usize| logits()[r * VOCABULARY..][..classes].to_vec();
    for isa in isas() {
        for t in 0..4 {
            let real = CUTS[t].min(classes)..CUTS[t + 1].min(classes);
            let row = whole(&[1, ROWS], &[5.0; ROWS]);
            let kernel = RowMaxSum {
                padding: PADDING,
                isa,
            };
            let parts = run(&kernel, &[part(t)], &[row.clone(), row.clone()]);
            for (r, (&got_max, &got_sum)) in parts[0].iter().zip(&parts[1]).enumerate() {
                let own = &of_row(r)[real.clone()];
                let max = own.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = own.iter().map(|x| f64::from(x - max).exp()).sum();
                assert_eq!(got_max, max);
                assert!((f64::from(got_sum) - sum).abs() <= 1e-6 * sum);
            }
            let inputs = [
                part(t),
                labels_in.clone(),
                whole(&[ROWS], &[1.5; ROWS]),
                whole(&[ROWS], &g),
            ];
            let kernel = CrossEntropyGrad {
                first: FIRST,
                padding: PADDING,
                isa,
            };
            let got = run(&kernel, &inputs, &inputs[..1]).concat();
            let columns = CUTS[t + 1] - CUTS[t];
            for (i, got) in got.iter().enumerate() {
                let (r, j) = (i / columns, CUTS[t] + i % columns);
                let hit = f64::from(u8::from(labels[r] == (FIRST as usize + j) as i32));
                let p = (f64::from(logits()[r * VOCABULARY + j]) - 1.5).exp();
                let expected = match j < classes && labels[r] >= 0 {
                    true => (p - hit) * f64::from(g[r]),
                    false => 0.0,
                };
                let off = (f64::from(*got) - expected).abs();
                assert!(off <= 2e-6 * expected.abs(), "{got} for {expected}");
            }
        }
    }
}
