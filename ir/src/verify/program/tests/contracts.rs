//! Every codelet: operands as documented pass, and any extent that is one off is refused.

use super::super::contract::{Dimension, OperandBlock, check};
use super::*;
use crate::op::ReduceKind;
use crate::types::DType;

/// A block that is its whole tensor.
fn block(dtype: DType, dims: &[usize]) -> OperandBlock {
    let dim = |&len: &usize| Dimension {
        size: len,
        start: 0,
        len,
    };
    OperandBlock {
        dtype,
        dims: dims.iter().map(dim).collect(),
    }
}

fn f(dims: &[usize]) -> OperandBlock {
    block(DType::F32, dims)
}

fn i(dims: &[usize]) -> OperandBlock {
    block(DType::I32, dims)
}

type Case = (Codelet, Vec<OperandBlock>, Vec<OperandBlock>);

fn matmul(transpose_a: bool, transpose_b: bool) -> Codelet {
    Codelet::Matmul {
        transpose_a,
        transpose_b,
        accumulate: false,
    }
}

fn products_and_maps() -> Vec<Case> {
    let rows = f(&[3, 5]);
    let reduce = |accumulate| Codelet::SumPartials { accumulate };
    vec![
        (
            matmul(false, false),
            vec![f(&[3, 5]), f(&[5, 7])],
            vec![f(&[3, 7])],
        ),
        (
            matmul(true, false),
            vec![f(&[2, 5, 3]), f(&[2, 5, 7])],
            vec![f(&[2, 3, 7])],
        ),
        (
            matmul(false, true),
            vec![f(&[3, 5]), f(&[7, 5])],
            vec![f(&[1, 3, 7])],
        ),
        (
            matmul(true, true),
            vec![f(&[5, 3]), f(&[1, 7, 5])],
            vec![f(&[3, 7])],
        ),
        (
            Codelet::Map(MapExpr::binary(BinaryOp::Add)),
            vec![rows.clone(), f(&[5])],
            vec![rows.clone()],
        ),
        (
            Codelet::Map(MapExpr::unary(UnaryOp::Neg)),
            vec![rows.clone()],
            vec![rows.clone()],
        ),
        (reduce(false), vec![f(&[4, 3, 5])], vec![f(&[3, 5])]),
        (reduce(true), vec![f(&[4, 5])], vec![f(&[1, 5])]),
        (Codelet::Cast, vec![i(&[3, 5])], vec![rows.clone()]),
        (
            Codelet::Dropout {
                p: Real(0.5),
                key: 1,
            },
            vec![rows.clone(), block(DType::U32, &[2])],
            vec![rows],
        ),
    ]
}

fn row_codelets() -> Vec<Case> {
    let (x, flat) = (f(&[2, 3, 5]), f(&[6, 5]));
    let (rows, columns, stats) = (f(&[6]), f(&[5]), f(&[2, 3]));
    let softmax = |causal| Codelet::Softmax {
        scale: Real(1.0),
        causal,
    };
    vec![
        (
            Codelet::LayerNorm { epsilon: Real(0.0) },
            vec![x.clone(), columns.clone(), columns.clone()],
            vec![x.clone(), stats.clone(), rows.clone()],
        ),
        (
            Codelet::LayerNormGrad,
            vec![
                x.clone(),
                x.clone(),
                columns.clone(),
                rows.clone(),
                stats.clone(),
            ],
            vec![x.clone()],
        ),
        (
            Codelet::LayerNormParamGrad,
            vec![x.clone(), x.clone(), rows.clone(), stats],
            vec![f(&[1, 5]), columns],
        ),
        (softmax(true), vec![x.clone()], vec![x.clone()]),
        (Codelet::CausalMask, vec![x.clone()], vec![x.clone()]),
        (
            Codelet::MaskBeyond,
            vec![f(&[2, 3, 5]), i(&[2])],
            vec![f(&[2, 3, 5])],
        ),
        (
            Codelet::WriteRows,
            vec![i(&[2]), f(&[2, 3, 5])],
            vec![f(&[2, 7, 5])],
        ),
        (
            Codelet::SoftmaxGrad { scale: Real(1.0) },
            vec![x.clone(), x.clone()],
            vec![x],
        ),
        (
            Codelet::RowMaxSum { padding: 0 },
            vec![flat.clone()],
            vec![f(&[1, 6]), f(&[1, 6])],
        ),
        (
            Codelet::JoinLogSumExp,
            vec![f(&[4, 6]), f(&[4, 6])],
            vec![rows.clone()],
        ),
        (
            Codelet::PickLabel { first: 0 },
            vec![flat.clone(), i(&[6])],
            vec![f(&[1, 6])],
        ),
        (
            Codelet::RowLoss,
            vec![f(&[4, 6]), rows.clone(), i(&[6])],
            vec![rows.clone()],
        ),
        (
            Codelet::CrossEntropyGrad {
                first: 0,
                padding: 0,
            },
            vec![flat.clone(), i(&[6]), rows.clone(), rows],
            vec![flat],
        ),
        (
            Codelet::Gather { first: 0 },
            vec![f(&[9, 5]), i(&[4])],
            vec![f(&[1, 4, 5])],
        ),
        (
            Codelet::ScatterAdd { first: 0 },
            vec![i(&[4]), f(&[4, 5])],
            vec![f(&[9, 5])],
        ),
    ]
}

/// Extents that may be anything: leading ones of stacked partials, entries of tables, rows written and the matrix that they
/// are written into, and what is reduced away on the tile.
fn is_free(codelet: &Codelet, operand: usize, dim: usize) -> bool {
    match codelet {
        Codelet::Gather { .. }
        | Codelet::Reduce { .. }
        | Codelet::SumPartials { .. }
        | Codelet::RowLoss => (operand, dim) == (0, 0),
        Codelet::ScatterAdd { .. } => (operand, dim) == (2, 0),
        Codelet::RowMaxSum { .. } | Codelet::PickLabel { .. } => (operand, dim) == (0, 1),
        Codelet::WriteRows => operand > 0 && dim == 1,
        _ => false,
    }
}

#[test]
fn an_extent_that_is_one_off_is_refused() {
    for (codelet, inputs, outputs) in products_and_maps().into_iter().chain(row_codelets()) {
        assert_eq!(check(&codelet, &inputs, &outputs), Ok(()), "{codelet:?}");
        let all: Vec<OperandBlock> = inputs.iter().chain(&outputs).cloned().collect();
        for operand in 0..all.len() {
            for dim in 0..all[operand].dims.len() {
                if is_free(&codelet, operand, dim) {
                    continue;
                }
                let mut wrong = all.clone();
                wrong[operand].dims[dim].len += 1;
                wrong[operand].dims[dim].size += 1;
                let (i, o) = wrong.split_at(inputs.len());
                assert!(
                    check(&codelet, i, o).is_err(),
                    "{codelet:?}: {operand}, {dim}"
                );
            }
            let mut wrong = all.clone();
            wrong[operand].dtype = DType::U16;
            let (i, o) = wrong.split_at(inputs.len());
            let is_checked = codelet != Codelet::Cast;
            assert_eq!(
                check(&codelet, i, o).is_err(),
                is_checked,
                "{codelet:?}: {operand}"
            );
        }
        assert!(check(&codelet, &inputs, &[]).is_err(), "{codelet:?}");
    }
    assert_eq!(
        check(&Codelet::Fill { value: Real(1.0) }, &[], &[i(&[3])]),
        Ok(())
    );
}

#[test]
fn trailing_axes_broadcast_to_larger_outputs() {
    let add = Codelet::Map(MapExpr::binary(BinaryOp::Add));
    let out = [f(&[4, 3, 5])];
    assert_eq!(check(&add, &[f(&[1, 5]), f(&[])], &out), Ok(()));
    assert_eq!(check(&add, &[f(&[3, 5]), f(&[1, 1])], &out), Ok(()));
    assert!(check(&add, &[f(&[4, 5]), f(&[])], &out).is_err());
}

#[test]
fn blocks_of_equal_tensors_must_start_together() {
    let part = |start: usize| OperandBlock {
        dtype: DType::F32,
        dims: smallvec![
            Dimension {
                size: 8,
                start,
                len: 4
            },
            Dimension {
                size: 5,
                start: 0,
                len: 5
            },
        ],
    };
    let add = Codelet::Map(MapExpr::binary(BinaryOp::Add));
    assert_eq!(check(&add, &[part(4), part(4)], &[part(4)]), Ok(()));
    assert!(check(&add, &[part(4), part(0)], &[part(4)]).is_err());
    // A slice of another tensor may lie anywhere.
    let slice = f(&[4, 5]);
    assert_eq!(check(&add, &[part(4), slice], &[part(4)]), Ok(()));
}

#[test]
fn rows_must_be_whole() {
    let part = OperandBlock {
        dtype: DType::F32,
        dims: smallvec![
            Dimension {
                size: 3,
                start: 0,
                len: 3
            },
            Dimension {
                size: 8,
                start: 4,
                len: 4
            },
        ],
    };
    let softmax = Codelet::Softmax {
        scale: Real(1.0),
        causal: false,
    };
    let part = [part];
    assert!(check(&softmax, &part, &part).is_err());
    assert_eq!(check(&Codelet::CausalMask, &part, &part), Ok(()));
}

#[test]
fn empty_blocks_are_no_error() {
    let empty = || OperandBlock {
        dtype: DType::F32,
        dims: smallvec![
            Dimension {
                size: 3,
                start: 3,
                len: 0
            },
            Dimension {
                size: 5,
                start: 0,
                len: 5
            },
        ],
    };
    let relu = Codelet::Map(MapExpr::binary(BinaryOp::Max));
    assert_eq!(check(&relu, &[empty(), f(&[5])], &[empty()]), Ok(()));
    let sum = Codelet::Reduce {
        kind: ReduceKind::Sum,
    };
    let mut stacked = empty();
    stacked.dims.insert(
        0,
        Dimension {
            size: 2,
            start: 0,
            len: 2,
        },
    );
    assert_eq!(check(&sum, &[stacked], &[empty()]), Ok(()));
}
