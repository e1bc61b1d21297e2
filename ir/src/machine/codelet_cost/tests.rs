//! `vertex_cycles` over every codelet: the right formula, no surprises on odd blocks.

use super::*;
use crate::op::{BinaryOp, MapExpr, UnaryOp};
use crate::types::Real;

fn block(dims: &[usize]) -> BlockShape {
    BlockShape {
        dtype: DType::F32,
        shape: Shape::new(dims),
    }
}

fn ids(n: usize) -> BlockShape {
    BlockShape {
        dtype: DType::I32,
        shape: Shape::new(&[n]),
    }
}

/// Every codelet with blocks of `r` rows and `c` columns.
fn all(r: usize, c: usize) -> Vec<(Codelet, Vec<BlockShape>, Vec<BlockShape>)> {
    let (x, rows, columns, one) = (block(&[r, c]), block(&[r]), block(&[c]), Real(1.0));
    let matmul = Codelet::Matmul {
        transpose_a: true,
        transpose_b: true,
        accumulate: false,
    };
    let reduce = Codelet::SumPartials { accumulate: true };
    let stats = || vec![rows.clone(), rows.clone()];
    let with = |more: Vec<BlockShape>| [vec![x.clone()], more].concat();
    let softmax = Codelet::Softmax {
        scale: one,
        causal: true,
    };
    vec![
        (
            matmul,
            vec![block(&[c, r]), block(&[7, c])],
            vec![block(&[r, 7])],
        ),
        (
            Codelet::Map(MapExpr::unary(UnaryOp::GeluTanh)),
            with(vec![]),
            with(vec![]),
        ),
        (
            Codelet::Map(MapExpr::binary(BinaryOp::Add)),
            with(vec![columns.clone()]),
            with(vec![]),
        ),
        (Codelet::Fill { value: one }, vec![], with(vec![])),
        (reduce, with(vec![]), vec![columns.clone()]),
        (
            Codelet::LayerNorm { epsilon: one },
            with(vec![columns.clone(), columns.clone()]),
            with(stats()),
        ),
        (
            Codelet::LayerNormGrad,
            [with(vec![x.clone(), columns.clone()]), stats()].concat(),
            with(vec![]),
        ),
        (
            Codelet::LayerNormParamGrad,
            [with(vec![x.clone()]), stats()].concat(),
            vec![block(&[1, c]), block(&[1, c])],
        ),
        (softmax, with(vec![]), with(vec![])),
        (Codelet::CausalMask, with(vec![]), with(vec![])),
        (Codelet::MaskBeyond, with(vec![block(&[1])]), with(vec![])),
        (
            Codelet::SoftmaxGrad { scale: one },
            with(vec![x.clone()]),
            with(vec![]),
        ),
        (
            Codelet::RowMaxSum { padding: 0 },
            with(vec![]),
            vec![block(&[1, r]), block(&[1, r])],
        ),
        (
            Codelet::JoinLogSumExp,
            vec![block(&[c, r]), block(&[c, r])],
            vec![rows.clone()],
        ),
        (
            Codelet::PickLabel { first: 0 },
            with(vec![ids(r)]),
            vec![block(&[1, r])],
        ),
        (
            Codelet::RowLoss,
            vec![block(&[c, r]), rows.clone(), ids(r)],
            vec![rows.clone()],
        ),
        (
            Codelet::CrossEntropyGrad {
                first: 0,
                padding: 0,
            },
            [with(vec![ids(r)]), stats()].concat(),
            with(vec![]),
        ),
        (
            Codelet::Gather { first: 0 },
            with(vec![ids(24)]),
            vec![block(&[1, 24, c])],
        ),
        (
            Codelet::ScatterAdd { first: 0 },
            vec![ids(24), block(&[24, c])],
            with(vec![]),
        ),
        (
            Codelet::Dropout { p: one, key: 1 },
            with(vec![ids(2)]),
            with(vec![]),
        ),
        (Codelet::Cast, with(vec![]), with(vec![])),
    ]
}

#[test]
fn every_codelet_costs_something_and_more_when_larger() {
    let mk2 = Machine::mk2();
    let cycles = |r, c| {
        all(r, c)
            .into_iter()
            .map(|(codelet, i, o)| (codelet.name(), vertex_cycles(&mk2, &codelet, &i, &o)))
            .collect::<Vec<_>>()
    };
    for ((name, small), (_, large)) in cycles(7, 24).into_iter().zip(cycles(96, 768)) {
        assert!(small > 0, "{name}");
        assert!(large > small, "{name}: {large} after {small}");
        assert!(large < 100_000_000, "{name}: {large}");
    }
}

#[test]
fn odd_and_empty_blocks_have_a_price() {
    let mk2 = Machine::mk2();
    for (r, c) in [(1, 1), (1, 7), (7, 1), (0, 5), (5, 0)] {
        for (codelet, inputs, outputs) in all(r, c) {
            vertex_cycles(&mk2, &codelet, &inputs, &outputs);
            vertex_cycles(&mk2, &codelet, &inputs, &[]);
            vertex_cycles(&mk2, &codelet, &[], &outputs);
            vertex_cycles(&mk2, &codelet, &inputs[..inputs.len().min(1)], &outputs);
        }
    }
}

#[test]
fn leading_extents_of_one_do_not_matter() {
    let mk2 = Machine::mk2();
    for (codelet, inputs, outputs) in all(12, 32) {
        let lead = |blocks: &[BlockShape]| -> Vec<BlockShape> {
            let wrap = |b: &BlockShape| BlockShape {
                dtype: b.dtype,
                shape: Shape([1].iter().chain(b.shape.dims()).copied().collect()),
            };
            blocks.iter().map(wrap).collect()
        };
        assert_eq!(
            vertex_cycles(&mk2, &codelet, &inputs, &outputs),
            vertex_cycles(&mk2, &codelet, &lead(&inputs), &lead(&outputs)),
            "{}",
            codelet.name()
        );
    }
}

#[test]
fn a_matmul_adds_the_turning_of_its_operands() {
    let mk2 = Machine::mk2();
    let cycles = |transpose_b, b: &[usize]| {
        let codelet = Codelet::Matmul {
            transpose_a: false,
            transpose_b,
            accumulate: false,
        };
        vertex_cycles(
            &mk2,
            &codelet,
            &[block(&[6, 8]), block(b)],
            &[block(&[6, 16])],
        )
    };
    assert_eq!(cycles(false, &[8, 16]), 519);
    assert_eq!(
        cycles(true, &[16, 8]),
        519 + transpose::transpose(&mk2, DType::F32, 1, 16, 8).cycles
    );
}
