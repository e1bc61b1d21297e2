//! Every codelet with every mix of f16 and f32 operands gives the f32 kernel's results on widened inputs, rounded once.

use superstep_ir::op::{BinaryOp, MapExpr, MapNode, ReduceKind, UnaryOp};
use superstep_ir::program::Codelet;
use superstep_ir::types::{DType, Real};

use crate::codelets::testing::{
    Data, bits, block, halves, integers, isas, numbers, run, run_rounding, whole,
};
use crate::codelets::{AtRandom, CodeletError, Isa, kernel};

struct Case {
    codelet: Codelet,
    inputs: Vec<Data>,
    outputs: Vec<Data>,
}

fn case<const I: usize, const O: usize>(
    codelet: Codelet,
    inputs: [Data; I],
    outputs: [Data; O],
) -> Case {
    Case {
        codelet,
        inputs: inputs.into(),
        outputs: outputs.into(),
    }
}

/// A whole tensor of random numbers.
fn random(dims: &[usize], seed: u32) -> Data {
    whole(dims, &numbers(dims.iter().product(), seed))
}

fn ids(values: &[i32]) -> Data {
    integers(DType::I32, &[values.len()], values)
}

fn products() -> Vec<Case> {
    let mut cases = Vec::new();
    for (m, k, n) in [(1, 1, 1), (7, 24, 5), (3, 300, 17), (24, 7, 33)] {
        for turned in 0..8 {
            let [transpose_a, transpose_b, accumulate] = [1, 2, 4].map(|bit| turned & bit > 0);
            let stored = |turned: bool, [r, c]: [usize; 2]| if turned { [c, r] } else { [r, c] };
            let codelet = Codelet::Matmul {
                transpose_a,
                transpose_b,
                accumulate,
            };
            let a = random(&stored(transpose_a, [m, k]), 1);
            let b = random(&stored(transpose_b, [k, n]), 2);
            cases.push(case(codelet, [a, b], [random(&[m, n], 3)]));
        }
    }
    cases
}

fn elementwise() -> Vec<Case> {
    let expr = MapExpr {
        operands: 3,
        nodes: vec![
            MapNode::Operand(0),
            MapNode::Operand(1),
            MapNode::Binary(BinaryOp::Mul, 0, 1),
            MapNode::Operand(2),
            MapNode::Binary(BinaryOp::Add, 2, 3),
            MapNode::Unary(UnaryOp::GeluTanh, 4),
            MapNode::Constant(Real(1e-3)),
            MapNode::Binary(BinaryOp::Mul, 4, 6),
        ],
        outputs: vec![5, 7],
        types: vec![],
    };
    let (x, row, one) = (random(&[7, 101], 1), random(&[101], 2), random(&[], 3));
    let outputs = [random(&[7, 101], 4), random(&[7, 101], 5)];
    let dropout = Codelet::Dropout {
        p: Real(0.3),
        key: 5,
    };
    let seed = integers(DType::U32, &[2], &[7, 9]);
    vec![
        case(Codelet::Map(expr), [x.clone(), row, one], outputs),
        case(Codelet::Cast, [x.clone()], [random(&[7, 101], 6)]),
        case(Codelet::Transpose, [x.clone()], [random(&[101, 7], 6)]),
        case(dropout, [x, seed], [random(&[7, 101], 6)]),
    ]
}

fn reductions() -> Vec<Case> {
    let kinds = [
        Codelet::SumPartials { accumulate: false },
        Codelet::SumPartials { accumulate: true },
        Codelet::Reduce {
            kind: ReduceKind::Sum,
        },
        Codelet::Reduce {
            kind: ReduceKind::SumSquares,
        },
        Codelet::Reduce {
            kind: ReduceKind::Max,
        },
    ];
    let (x, out) = (random(&[24, 7], 1), random(&[7], 2));
    kinds
        .map(|codelet| case(codelet, [x.clone()], [out.clone()]))
        .into()
}

fn rows() -> Vec<Case> {
    let (r, c) = (7, 24);
    let [x, g, y] = [1, 2, 3].map(|seed| random(&[r, c], seed));
    let [scale, shift] = [4, 5].map(|seed| random(&[c], seed));
    let [mean, rstd] = [6, 7].map(|seed| random(&[r], seed));
    let norm = Codelet::LayerNorm {
        epsilon: Real(1e-5),
    };
    let inputs = [x.clone(), scale.clone(), shift.clone()];
    let grad = [&g, &x, &scale, &mean, &rstd].map(Clone::clone);
    let parameters = [&g, &x, &mean, &rstd].map(Clone::clone);
    let square = random(&[3, 7, 7], 1);
    let soft = |causal| Codelet::Softmax {
        scale: Real(0.25),
        causal,
    };
    let soft_grad = Codelet::SoftmaxGrad { scale: Real(0.25) };
    vec![
        case(norm, inputs, [y.clone(), mean.clone(), rstd.clone()]),
        case(Codelet::LayerNormGrad, grad, [y.clone()]),
        case(Codelet::LayerNormParamGrad, parameters, [scale, shift]),
        case(soft(false), [x.clone()], [y.clone()]),
        case(soft(true), [square.clone()], [square.clone()]),
        case(Codelet::CausalMask, [square.clone()], [square.clone()]),
        case(
            Codelet::MaskBeyond,
            [square.clone(), ids(&[6, 2, -1])],
            [square],
        ),
        case(soft_grad, [x, g], [y]),
    ]
}

fn losses() -> Vec<Case> {
    let (r, c) = (7, 24);
    let logits = random(&[r, c], 1);
    let labels = ids(&[3, -100, 23, 0, 7, 5, 24]);
    let [row, sum, g] = [2, 3, 4].map(|seed| random(&[r], seed));
    let [parts, sums] = [5, 6].map(|seed| random(&[3, r], seed));
    let grad = [&logits, &labels, &row, &g].map(Clone::clone);
    let loss = [&parts, &row, &labels].map(Clone::clone);
    vec![
        case(
            Codelet::RowMaxSum { padding: 0 },
            [logits.clone()],
            [row.clone(), sum],
        ),
        case(Codelet::JoinLogSumExp, [parts, sums], [row.clone()]),
        case(
            Codelet::PickLabel { first: 0 },
            [logits.clone(), labels],
            [row.clone()],
        ),
        case(Codelet::RowLoss, loss, [row]),
        case(
            Codelet::CrossEntropyGrad {
                first: 0,
                padding: 0,
            },
            grad,
            [logits],
        ),
    ]
}

fn tables() -> Vec<Case> {
    let ids = ids(&[4, 6, -1, 7, 5, 4, 100]);
    let table = block(&[24, 5], &[4, 0], &[3, 5], &numbers(15, 1));
    let rows = random(&[7, 5], 2);
    let gathered = random(&[1, 7, 5], 3);
    let gather = [table.clone(), ids.clone()];
    vec![
        case(Codelet::Gather { first: 0 }, gather, [gathered]),
        case(Codelet::ScatterAdd { first: 0 }, [ids, rows], [table]),
    ]
}

fn dtypes(data: &[Data]) -> Vec<DType> {
    data.iter().map(|d| d.layout.dtype).collect()
}

/// The results of the codelet's kernel for these operands.
fn results(codelet: &Codelet, inputs: &[Data], outputs: &[Data], isa: Isa) -> Vec<Vec<f32>> {
    let kernel = kernel(codelet, &dtypes(inputs), &dtypes(outputs), isa).expect("a kernel");
    run(&*kernel, inputs, outputs)
}

/// Values as f32 blocks that are stored in `data`.
fn stored(data: &Data) -> Data {
    let mut wide = data.clone();
    if data.layout.dtype == DType::F32 {
        let half = halves(data);
        wide.words = half
            .words
            .iter()
            .map(|&w| ::half::f16::from_bits(w as u16).to_f32_const().to_bits())
            .collect();
    }
    wide
}

fn check(case: &Case, isa: Isa) {
    let float = |d: &&Data| d.layout.dtype == DType::F32;
    let floats = case
        .inputs
        .iter()
        .chain(&case.outputs)
        .filter(float)
        .count();
    for mix in 0..1_u32 << floats {
        let mut bit = 0;
        let mut next = |d: &Data| {
            let is_half = float(&d) && mix >> bit & 1 == 1;
            bit += u32::from(float(&d));
            is_half
        };
        let inputs: Vec<bool> = case.inputs.iter().map(&mut next).collect();
        let outputs: Vec<bool> = case.outputs.iter().map(&mut next).collect();
        if matches!(case.codelet, Codelet::Matmul { .. }) && inputs[0] != inputs[1] {
            continue;
        }
        let as_half = |(d, &is_half): (&Data, &bool)| if is_half { halves(d) } else { d.clone() };
        let widened = |(d, &is_half): (&Data, &bool)| if is_half { stored(d) } else { d.clone() };
        let pairs = || {
            (
                case.inputs.iter().zip(&inputs),
                case.outputs.iter().zip(&outputs),
            )
        };
        let (i, o) = pairs();
        let (i, o): (Vec<Data>, Vec<Data>) = (i.map(as_half).collect(), o.map(as_half).collect());
        let found = results(&case.codelet, &i, &o, isa);
        let (i, o) = pairs();
        let (i, o): (Vec<Data>, Vec<Data>) = (i.map(widened).collect(), o.map(widened).collect());
        let mut expected = results(&case.codelet, &i, &o, isa);
        for (values, is_half) in expected.iter_mut().zip(&outputs) {
            let nearest = |x: &mut f32| *x = superstep_ir::half::nearest(f64::from(*x)) as f32;
            if *is_half {
                values.iter_mut().for_each(nearest);
            }
        }
        let (found, expected) = (bits(&found), bits(&expected));
        assert_eq!(found, expected, "{} mix {mix:b}", case.codelet.name());
    }
}

#[test]
fn every_mix_of_types_is_the_f32_kernel_and_one_rounding() {
    let cases = [
        products(),
        elementwise(),
        reductions(),
        rows(),
        losses(),
        tables(),
    ];
    for case in cases.iter().flatten() {
        for isa in isas() {
            check(case, isa);
        }
    }
}

#[test]
fn infinities_and_nans_pass() {
    let x = [f32::INFINITY, 65519.0, 65520.0, -1e30, 1e-30, 0.0, -0.0];
    let data = whole(&[7], &x);
    let out = results(
        &Codelet::Cast,
        &[data],
        &[halves(&random(&[7], 1))],
        Isa::PORTABLE,
    );
    let inf = f32::INFINITY;
    let expected = vec![vec![inf, 65504.0, inf, -inf, 0.0, 0.0, -0.0]];
    assert_eq!(bits(&out), bits(&expected));
    let infinite = halves(&whole(&[1], &[inf]));
    let sub = Codelet::Map(MapExpr::binary(BinaryOp::Sub));
    for isa in isas() {
        let out = results(
            &sub,
            &[infinite.clone(), infinite.clone()],
            std::slice::from_ref(&infinite),
            isa,
        );
        assert!(out[0][0].is_nan());
    }
}

#[test]
fn products_take_operands_of_one_type() {
    let codelet = Codelet::Matmul {
        transpose_a: false,
        transpose_b: false,
        accumulate: false,
    };
    let types = [DType::F16, DType::F32];
    let refused = kernel(&codelet, &types, &types[..1], Isa::PORTABLE);
    assert!(matches!(refused, Err(CodeletError::Types { .. })));
}

/// A block of a larger variable rounds its elements as the whole variable does, whatever lies where.
#[test]
fn random_rounding_goes_by_the_place_in_the_variable() {
    let at_random = Some(AtRandom {
        seed: [3, 4],
        step: 11,
        group: 0,
    });
    let (rows, columns) = (9, 70);
    let all = numbers(rows * columns, 1);
    let (start, extent) = ([2, 30], [5, 37]);
    let part: Vec<f32> = (0..extent[0])
        .flat_map(|r| (0..extent[1]).map(move |c| (r, c)))
        .map(|(r, c)| all[(start[0] + r) * columns + start[1] + c])
        .collect();
    let cast = |isa, x: &Data| {
        let types = [DType::F32, DType::F16];
        let kernel = kernel(&Codelet::Cast, &types[..1], &types[1..], isa).expect("a kernel");
        let out = [halves(x)];
        run_rounding(
            &*kernel,
            std::slice::from_ref(x),
            &out,
            &[usize::MAX],
            at_random,
        )
        .remove(0)
    };
    for isa in isas() {
        let whole = cast(isa, &whole(&[rows, columns], &all));
        let nearest = all
            .iter()
            .map(|&x| superstep_ir::half::nearest(f64::from(x)) as f32);
        let differ = nearest.zip(&whole).filter(|(x, y)| x != *y).count();
        assert!(differ > all.len() / 10, "rounds up and down: {differ}");
        let block = cast(isa, &block(&[rows, columns], &start, &extent, &part));
        for (i, &x) in block.iter().enumerate() {
            let at = (start[0] + i / extent[1]) * columns + start[1] + i % extent[1];
            assert_eq!(x.to_bits(), whole[at].to_bits());
        }
    }
}
