//! Half precision: which types ops take and give, and where their results are rounded.

use super::*;
use crate::op::infer::infer;

fn ty(dtype: DType, dims: &[usize]) -> TensorType {
    TensorType::new(dtype, dims)
}

fn f16(dims: &[usize], data: &[f64]) -> Tensor {
    Tensor::new(ty(DType::F16, dims), data.to_vec()).unwrap()
}

/// Dtypes that `op` gives for operands of these types, or `None` where it refuses them.
fn given(op: &Op, operands: &[TensorType]) -> Option<Vec<DType>> {
    let operands: Vec<&TensorType> = operands.iter().collect();
    let results = infer(op, &operands).ok()?;
    Some(results.into_iter().map(|ty| ty.dtype).collect())
}

fn matmul(out: Option<DType>) -> Op {
    Op::Matmul {
        transpose_a: false,
        transpose_b: false,
        out,
    }
}

/// `(x + y, x · y)` with these result types.
fn sum_and_product(types: &[DType]) -> Op {
    Op::Map(MapExpr {
        operands: 2,
        nodes: vec![
            MapNode::Operand(0),
            MapNode::Operand(1),
            MapNode::Binary(BinaryOp::Add, 0, 1),
            MapNode::Binary(BinaryOp::Mul, 0, 1),
        ],
        outputs: vec![2, 3],
        types: types.to_vec(),
    })
}

#[test]
fn products_and_reductions_state_another_type() {
    use DType::{F16, F32, I32};
    let square = |dtype| ty(dtype, &[2, 2]);
    let product = |out, operands: &[DType]| {
        let operands: Vec<TensorType> = operands.iter().map(|&d| square(d)).collect();
        given(&matmul(out), &operands)
    };
    assert_eq!(product(None, &[F16, F16]), Some(vec![F16]));
    assert_eq!(product(Some(F32), &[F16, F16]), Some(vec![F32]));
    assert_eq!(product(Some(F32), &[F16, F16, F32]), Some(vec![F32]));
    assert_eq!(product(Some(F32), &[F16, F16, F16]), None);
    assert_eq!(product(None, &[F16, F32]), None);
    assert_eq!(product(Some(I32), &[F16, F16]), None);
    let reduce = |out| Op::Reduce {
        kind: ReduceKind::Sum,
        leading: 1,
        out,
    };
    assert_eq!(given(&reduce(None), &[square(F16)]), Some(vec![F16]));
    assert_eq!(given(&reduce(Some(F32)), &[square(F16)]), Some(vec![F32]));
}

#[test]
fn rows_and_tables_mix_types() {
    use DType::{F16, F32};
    let epsilon = Real(1e-5);
    let (x, row, stat) = (ty(F16, &[3, 4]), ty(F32, &[4]), ty(F32, &[3]));
    let operands = [x.clone(), row.clone(), ty(F16, &[4])];
    let norms = given(&Op::LayerNorm { epsilon }, &operands);
    assert_eq!(norms, Some(vec![F16, F32, F32]));
    let operands = [x.clone(), x.clone(), row, stat.clone(), stat.clone()];
    assert_eq!(given(&Op::LayerNormGrad, &operands), Some(vec![F16]));
    let operands = [x.clone(), x.clone(), stat.clone(), stat.clone()];
    assert_eq!(
        given(&Op::LayerNormParamGrad, &operands),
        Some(vec![F16; 2])
    );
    let labels = TensorType::i32([3]);
    let operands = [x.clone(), labels.clone()];
    assert_eq!(
        given(&Op::CrossEntropy { padding: 0 }, &operands),
        Some(vec![F32; 2])
    );
    assert_eq!(
        given(&Op::Gather { first: None }, &operands),
        Some(vec![F16])
    );
    let operands = [x.clone(), labels.clone(), stat.clone(), stat];
    assert_eq!(
        given(
            &Op::CrossEntropyGrad {
                first: 0,
                padding: 0
            },
            &operands
        ),
        Some(vec![F16])
    );
    let operands = [ty(F32, &[9, 4]), labels, x];
    assert_eq!(
        given(&Op::ScatterAdd { first: None }, &operands),
        Some(vec![F32])
    );
}

#[test]
fn only_maps_with_stated_types_mix_operands() {
    use DType::{F16, F32, U32};
    let mixed = [ty(F16, &[3]), ty(F32, &[])];
    let halves = [ty(F16, &[3]), ty(F16, &[])];
    assert_eq!(given(&Op::Binary(BinaryOp::Add), &mixed), None);
    assert_eq!(given(&sum_and_product(&[]), &mixed), None);
    assert_eq!(given(&sum_and_product(&[]), &halves), Some(vec![F16; 2]));
    let stated = sum_and_product(&[F16, F32]);
    assert_eq!(given(&stated, &mixed), Some(vec![F16, F32]));
    assert_eq!(given(&sum_and_product(&[F16, U32]), &mixed), None);
    assert_eq!(given(&sum_and_product(&[F16]), &mixed), None);
}

#[test]
fn only_what_is_stored_is_rounded() {
    let (x, y) = (f16(&[2], &[2048.0, 65504.0]), f32(&[], &[1.001]));
    let got = results(sum_and_product(&[DType::F16, DType::F32]), &[x, y]).unwrap();
    // Halves are 2 apart from 2048 on: 2049.001 is nearer to 2050.
    assert_eq!(got[0], [2050.0, 65504.0]);
    assert_eq!(got[1], [2048.0 * 1.001, 65504.0 * 1.001]);
    // A product rounds its sum, not the terms of it.
    let a = f16(&[1, 3], &[2048.0, 1.0, 1.0]);
    let b = f16(&[3, 1], &[1.0, 1.0, 1.0]);
    assert_eq!(result(matmul(None), &[a.clone(), b]), [2050.0]);
    let b = f16(&[3, 1], &[1.0, 1.0, 0.0]);
    assert_eq!(result(matmul(None), &[a.clone(), b.clone()]), [2048.0]);
    assert_eq!(result(matmul(Some(DType::F32)), &[a, b]), [2049.0]);
}

#[test]
fn too_large_is_infinite_and_stays_so() {
    let x = f16(&[2], &[60000.0, -60000.0]);
    let doubled = result(Op::Binary(BinaryOp::Add), &[x.clone(), x]);
    assert_eq!(doubled, [f64::INFINITY, f64::NEG_INFINITY]);
    let x = f16(&[2], &doubled);
    let nothing = result(Op::Binary(BinaryOp::Sub), &[x.clone(), x]);
    assert!(nothing.iter().all(|x| x.is_nan()));
}

#[test]
fn what_comes_from_outside_is_stored_as_halves() {
    let third = f16(&[1], &[1.0 / 3.0]);
    let shape = Shape::new(&[1, 1]);
    assert_eq!(result(Op::Reshape { shape }, &[third]), [1365.0 / 4096.0]);
}
