//! Hand-computed cases, the numpy-like laws of the views, and every error.

mod halves;

use std::collections::BTreeMap;

use smallvec::smallvec;

use super::*;
use crate::graph::Place;
use crate::graph::build::Builder;
use crate::op::{BinaryOp, MapExpr, MapNode, ReduceKind, StateKind, UnaryOp};
use crate::types::Real;

fn f32(dims: &[usize], data: &[f64]) -> Tensor {
    Tensor::f32(dims, data.to_vec()).unwrap()
}

fn i32(data: &[f64]) -> Tensor {
    Tensor::new(TensorType::i32([data.len()]), data.to_vec()).unwrap()
}

/// Interprets a single op and returns the data of its results.
fn results(op: Op, operands: &[Tensor]) -> Result<Vec<Vec<f64>>, InterpretError> {
    let mut graph = Graph::new("case");
    let mut inputs = BTreeMap::new();
    let mut values = Vec::new();
    for (i, t) in operands.iter().enumerate() {
        let stream = format!("in{i}");
        let input = Op::Input {
            stream: stream.clone(),
            ty: t.ty.clone(),
        };
        let id = graph
            .insert(input, &[], stream.clone(), Place::default())
            .unwrap();
        values.push(graph.value(id));
        inputs.insert(stream, t.clone());
    }
    let id = graph.insert(op, &values, "case", Place::default()).unwrap();
    let count = graph.node(id).results().len();
    for i in 0..count {
        let value = Value {
            op: id,
            result: i as u32,
        };
        graph
            .insert(
                Op::Output {
                    stream: format!("out{i}"),
                },
                &[value],
                "out",
                Place::default(),
            )
            .unwrap();
    }
    let mut outputs = run(&graph, &mut BTreeMap::new(), &inputs)?;
    Ok((0..count)
        .map(|i| outputs.remove(&format!("out{i}")).unwrap().data)
        .collect())
}

fn result(op: Op, operands: &[Tensor]) -> Vec<f64> {
    results(op, operands).unwrap().remove(0)
}

fn close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!(
            (x - y).abs() <= 1e-12 * (1.0 + y.abs()),
            "{a:?} is not {b:?}"
        );
    }
}

#[test]
fn matmul_in_every_orientation() {
    let want = [4.0, 5.0, 10.0, 11.0];
    let a = [
        f32(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        f32(&[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
    ];
    let b = [
        f32(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 2.0, 2.0]),
        f32(&[2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, 2.0]),
    ];
    // [0 1 2; 3 4 5] · [1 0; 0 1; 2 2] = [4 5; 13 14]
    let want = [want[0], want[1], 13.0, 14.0];
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        let op = Op::Matmul {
            transpose_a: ta,
            transpose_b: tb,
            out: None,
        };
        let operands = [a[usize::from(ta)].clone(), b[usize::from(tb)].clone()];
        assert_eq!(result(op.clone(), &operands), want, "{ta} {tb}");
        let [a, b] = operands;
        let with_acc = result(op, &[a, b, f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0])]);
        assert_eq!(with_acc, [5.0, 7.0, 16.0, 18.0]);
    }
}

#[test]
fn matmul_of_a_batch_is_a_batch_of_matmuls() {
    let a = f32(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let b = f32(&[2, 1, 2], &[5.0, 6.0, 7.0, 8.0]);
    let op = Op::Matmul {
        transpose_a: false,
        transpose_b: true,
        out: None,
    };
    assert_eq!(result(op, &[a, b]), [17.0, 53.0]);
}

#[test]
fn binary_broadcasts_scalars_and_trailing_axes() {
    let x = f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let row = f32(&[3], &[10.0, 20.0, 30.0]);
    let sub = |a: &Tensor, b: &Tensor| result(Op::Binary(BinaryOp::Sub), &[a.clone(), b.clone()]);
    assert_eq!(sub(&x, &row), [-9.0, -18.0, -27.0, -6.0, -15.0, -24.0]);
    assert_eq!(sub(&row, &x), [9.0, 18.0, 27.0, 6.0, 15.0, 24.0]);
    assert_eq!(
        sub(&Tensor::scalar(DType::F32, 1.0), &row),
        [-9.0, -19.0, -29.0]
    );
}

#[test]
fn a_map_is_its_ops_one_by_one() {
    // (x · w, tanh(x · w) + 2)
    let expr = MapExpr {
        operands: 2,
        nodes: vec![
            MapNode::Operand(0),
            MapNode::Operand(1),
            MapNode::Binary(BinaryOp::Mul, 0, 1),
            MapNode::Unary(UnaryOp::Tanh, 2),
            MapNode::Constant(Real(2.0)),
            MapNode::Binary(BinaryOp::Add, 3, 4),
        ],
        outputs: vec![2, 5],
        types: vec![],
    };
    let both = results(
        Op::Map(expr),
        &[f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), f32(&[2], &[0.5, -1.0])],
    )
    .unwrap();
    let product = [0.5, -2.0, 1.5, -4.0];
    close(&both[0], &product);
    close(&both[1], &product.map(|x: f64| x.tanh() + 2.0));
}

/// The slopes of the gradient ops are those of the functions.
#[test]
fn gradient_ops_are_slopes() {
    let pairs = [
        (UnaryOp::GeluTanh, BinaryOp::GeluTanhGrad),
        (UnaryOp::GeluErf, BinaryOp::GeluErfGrad),
        (UnaryOp::Relu, BinaryOp::ReluGrad),
    ];
    for (function, slope) in pairs {
        for x in [-4.0, -1.3, -0.2, 0.3, 0.9, 2.0, 5.0] {
            let h = 1e-5;
            let want = (elementwise::unary(function, x + h) - elementwise::unary(function, x - h))
                / (2.0 * h);
            assert!(
                (elementwise::binary(slope, x, 3.0) - 3.0 * want).abs() < 1e-8,
                "{} at {x}",
                slope.name()
            );
        }
    }
}

#[test]
fn layer_norm_has_mean_zero_and_deviation_one() {
    let x = f32(&[2, 4], &[1.0, 2.0, 3.0, 4.0, -1.0, 0.0, 0.0, 5.0]);
    let (ones, zeros) = (f32(&[4], &[1.0; 4]), f32(&[4], &[0.0; 4]));
    let all = results(Op::LayerNorm { epsilon: Real(0.0) }, &[x, ones, zeros]).unwrap();
    close(&all[1], &[2.5, 1.0]);
    close(&all[2], &[1.0 / 1.25f64.sqrt(), 1.0 / 5.5f64.sqrt()]);
    for row in all[0].chunks(4) {
        close(
            &[row.iter().sum::<f64>(), row.iter().map(|y| y * y).sum()],
            &[0.0, 4.0],
        );
    }
}

#[test]
fn a_masked_softmax_is_a_causal_softmax() {
    let x = f32(&[2, 2, 2], &[0.0, 9.0, 1.0, 2.0, 0.5, -1.0, 7.0, 7.0]);
    let masked = result(Op::CausalMask, std::slice::from_ref(&x));
    assert_eq!(masked[1], f64::NEG_INFINITY);
    assert_eq!(masked[5], f64::NEG_INFINITY);
    let softmax = |causal| Op::Softmax {
        scale: Real(0.5),
        causal,
    };
    let want = 1.0 / (1.0 + 0.5f64.exp());
    let p = result(softmax(true), std::slice::from_ref(&x));
    close(&p, &[1.0, 0.0, want, 1.0 - want, 1.0, 0.0, 0.5, 0.5]);
    assert_eq!(p, result(softmax(false), &[f32(&[2, 2, 2], &masked)]));
}

#[test]
fn a_mask_hides_what_is_beyond_the_last_column_of_each_entry() {
    let x = f32(&[3, 2, 3], &[1.0; 18]);
    let masked = result(Op::MaskBeyond, &[x, i32(&[0.0, 5.0, -1.0])]);
    let hidden = f64::NEG_INFINITY;
    let row = [1.0, hidden, hidden];
    assert_eq!(masked[..6], [row, row].concat());
    assert_eq!(masked[6..12], [1.0; 6]);
    assert_eq!(masked[12..], [hidden; 6]);
}

#[test]
fn rows_are_written_where_each_matrix_says() {
    let base = f32(&[2, 4, 2], &[0.0; 16]);
    let rows = f32(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let write = |first: [f64; 2]| {
        let operands = [base.clone(), i32(&first), rows.clone()];
        results(Op::WriteRows, &operands)
    };
    let written = &write([2.0, 0.0]).unwrap()[0];
    assert_eq!(written[..8], [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(written[8..], [5.0, 6.0, 7.0, 8.0, 0.0, 0.0, 0.0, 0.0]);
    for outside in [-1.0, 3.0] {
        let error = write([0.0, outside]).unwrap_err().to_string();
        assert!(
            error.contains("write_rows") && error.contains("0..3"),
            "{error}"
        );
    }
}

#[test]
fn cross_entropy_ignores_negative_labels() {
    let logits = f32(&[2, 2], &[1.0, 3.0, 1000.0, 0.0]);
    let labels = i32(&[0.0, -100.0]);
    let both = results(
        Op::CrossEntropy { padding: 0 },
        &[logits.clone(), labels.clone()],
    )
    .unwrap();
    let logsumexp = 3.0 + (1.0 + (-2.0f64).exp()).ln();
    close(&both[0], &[logsumexp - 1.0, 0.0]);
    close(&both[1], &[logsumexp, 1000.0]);
    let g = result(
        Op::CrossEntropyGrad {
            first: 0,
            padding: 0,
        },
        &[logits, labels, f32(&[2], &both[1]), f32(&[2], &[2.0, 2.0])],
    );
    let p = (1.0 - logsumexp).exp();
    close(&g, &[2.0 * (p - 1.0), 2.0 * (1.0 - p), 0.0, 0.0]);
}

/// Two slices of three and two columns and one of padding: what all columns give in one piece.
#[test]
fn slices_of_logits_are_the_whole() {
    let rows = [
        [1.0, 3.0, -2.0, 0.5, 2.0],
        [7.0, 0.0, 1.0, -3.0, 6.5],
        [0.0; 5],
    ];
    let columns = |range: std::ops::Range<usize>, padding: &[f64]| {
        let data: Vec<f64> = rows
            .iter()
            .flat_map(|row| [&row[range.clone()], padding].concat())
            .collect();
        f32(&[3, range.len() + padding.len()], &data)
    };
    let (left, right) = (columns(0..3, &[]), columns(3..5, &[1e30]));
    let labels = i32(&[4.0, 1.0, -1.0]);
    let whole = [columns(0..5, &[]), labels.clone()];
    let want = results(Op::CrossEntropy { padding: 0 }, &whole).unwrap();
    let slices = [left.clone(), right.clone(), labels.clone()];
    let got = results(Op::CrossEntropy { padding: 1 }, &slices).unwrap();
    assert_eq!(got, want);
    let (sum, g) = (f32(&[3], &want[1]), f32(&[3], &[2.0, 0.5, 1.0]));
    let grad = |logits: &Tensor, first, padding| {
        let operands = [logits.clone(), labels.clone(), sum.clone(), g.clone()];
        result(Op::CrossEntropyGrad { first, padding }, &operands)
    };
    let want = grad(&whole[0], 0, 0);
    let (left, right) = (grad(&left, 0, 0), grad(&right, 3, 1));
    for r in 0..3 {
        assert_eq!(left[r * 3..][..3], want[r * 5..][..3]);
        assert_eq!(right[r * 3..][..2], want[r * 5 + 3..][..2]);
        assert_eq!(right[r * 3 + 2], 0.0);
    }
    // Padding is no class.
    let labels = i32(&[5.0, 1.0, -1.0]);
    let bad = [slices[0].clone(), slices[1].clone(), labels];
    assert!(results(Op::CrossEntropy { padding: 1 }, &bad).is_err());
    assert!(results(Op::CrossEntropy { padding: 0 }, &bad).is_ok());
}

#[test]
fn slices_of_a_table_serve_their_own_ids() {
    let slice = f32(&[2, 2], &[0.0, 1.0, 10.0, 11.0]);
    let ids = i32(&[6.0, 4.0, 5.0, 0.0, -1.0]);
    let first = Some(5);
    let rows = result(Op::Gather { first }, &[slice.clone(), ids.clone()]);
    assert_eq!(rows, [10.0, 11.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    let updates = f32(&[5, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0]);
    let sum = result(Op::ScatterAdd { first }, &[slice, ids, updates]);
    assert_eq!(sum, [5.0, 7.0, 11.0, 13.0]);
}

#[test]
fn tables_read_and_add_rows_by_id() {
    let table = f32(&[3, 2], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
    let ids = i32(&[2.0, 0.0, 2.0]);
    let rows = result(Op::Gather { first: None }, &[table.clone(), ids.clone()]);
    assert_eq!(rows, [20.0, 21.0, 0.0, 1.0, 20.0, 21.0]);
    let sum = result(
        Op::ScatterAdd { first: None },
        &[table, ids, f32(&[3, 2], &rows)],
    );
    assert_eq!(sum, [0.0, 2.0, 10.0, 11.0, 60.0, 63.0]);
}

#[test]
fn reductions_take_leading_axes() {
    let x = f32(&[2, 1, 2], &[1.0, -2.0, 3.0, -4.0]);
    let reduce = |kind, leading| {
        result(
            Op::Reduce {
                kind,
                leading,
                out: None,
            },
            std::slice::from_ref(&x),
        )
    };
    assert_eq!(reduce(ReduceKind::Sum, 2), [4.0, -6.0]);
    assert_eq!(reduce(ReduceKind::SumSquares, 3), [30.0]);
    assert_eq!(reduce(ReduceKind::Max, 1), [3.0, -2.0]);
    assert_eq!(reduce(ReduceKind::Sum, 0), x.data);
}

#[test]
fn views_move_elements() {
    let x = f32(&[2, 3, 2], &(0..12).map(f64::from).collect::<Vec<_>>());
    let transpose = |perm| result(Op::Transpose { perm }, std::slice::from_ref(&x));
    assert_eq!(
        transpose(smallvec![0, 2, 1]),
        [0., 2., 4., 1., 3., 5., 6., 8., 10., 7., 9., 11.]
    );
    assert_eq!(
        transpose(smallvec![2, 0, 1]),
        [0., 2., 4., 6., 8., 10., 1., 3., 5., 7., 9., 11.]
    );
    let slice = |start, len| {
        result(
            Op::Slice {
                axis: 1,
                start,
                len,
            },
            std::slice::from_ref(&x),
        )
    };
    let (head, tail) = (slice(0, 1), slice(1, 2));
    assert_eq!(head, [0., 1., 6., 7.]);
    assert_eq!(
        result(
            Op::Concat { axis: 1 },
            &[f32(&[2, 1, 2], &head), f32(&[2, 2, 2], &tail)]
        ),
        x.data
    );
    let repeated = result(
        Op::Broadcast {
            shape: [2, 2].into(),
        },
        &[f32(&[2], &[1.0, 2.0])],
    );
    assert_eq!(repeated, [1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn dropout_scales_what_it_keeps() {
    let seed = Tensor::new(TensorType::new(DType::U32, [2]), vec![1.0, 4_294_967_295.0]).unwrap();
    let op = Op::Dropout {
        p: Real(0.25),
        key: 9,
    };
    let y = result(op.clone(), &[f32(&[24], &[3.0; 24]), seed.clone()]);
    assert!(y.iter().all(|&y| y == 0.0 || y == 4.0));
    assert!(y.contains(&0.0) && y.contains(&4.0));
    assert_eq!(y, result(op, &[f32(&[24], &[3.0; 24]), seed]));
}

#[test]
fn casts_cut_to_integers_and_round_to_halves() {
    let x = f32(&[4], &[1.7, -1.7, 0.0, 3e9]);
    let cast = |to| result(Op::Cast { to }, std::slice::from_ref(&x));
    assert_eq!(cast(DType::I32), [1.0, -1.0, 0.0, f64::from(i32::MAX)]);
    assert_eq!(cast(DType::U16), [1.0, 0.0, 0.0, 65535.0]);
    assert_eq!(cast(DType::Bool), [1.0, 1.0, 0.0, 1.0]);
    // The nearest half has ten bits of fraction: 1.7 · 1024 = 1740.8.
    let near = 1741.0 / 1024.0;
    assert_eq!(cast(DType::F16), [near, -near, 0.0, f64::INFINITY]);
}

/// `w ← w + x; v ← w`: the second assignment sees the value from before the run.
#[test]
fn assignments_take_effect_at_the_end() {
    let mut graph = Graph::new("update");
    let mut b = Builder::new(&mut graph);
    let w = b
        .parameter("w", StateKind::Weight, TensorType::f32([2]))
        .unwrap();
    let x = b.input("x", TensorType::f32([2])).unwrap();
    let sum = b.add("sum", w, x).unwrap();
    b.assign("w", sum).unwrap();
    b.assign("v", w).unwrap();
    let mut states = BTreeMap::from([("w".to_string(), f32(&[2], &[1.0, 2.0]))]);
    let inputs = BTreeMap::from([("x".to_string(), f32(&[2], &[10.0, 20.0]))]);
    let outputs = run(&graph, &mut states, &inputs).unwrap();
    assert!(outputs.is_empty());
    assert_eq!(states["w"].data, [11.0, 22.0]);
    assert_eq!(states["v"].data, [1.0, 2.0]);
}

#[test]
fn missing_and_misshapen_things_are_errors() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let w = b
        .parameter("w", StateKind::Weight, TensorType::f32([2]))
        .unwrap();
    let x = b.input("x", TensorType::f32([2])).unwrap();
    let y = b.add("y", w, x).unwrap();
    b.assign("w", y).unwrap();
    let ok = f32(&[2], &[1.0, 2.0]);
    let attempt = |w: Option<Tensor>, x: Option<Tensor>| {
        let mut states: BTreeMap<_, _> = w.map(|w| ("w".to_string(), w)).into_iter().collect();
        run(
            &graph,
            &mut states,
            &x.map(|x| ("x".to_string(), x)).into_iter().collect(),
        )
    };
    assert_eq!(
        attempt(None, Some(ok.clone())),
        Err(InterpretError::MissingState { state: "w".into() })
    );
    assert_eq!(
        attempt(Some(ok.clone()), None),
        Err(InterpretError::MissingInput { stream: "x".into() })
    );
    assert!(matches!(
        attempt(Some(i32(&[1.0, 2.0])), Some(ok.clone())),
        Err(InterpretError::WrongType { .. })
    ));
    let short = Tensor {
        ty: ok.ty.clone(),
        data: vec![1.0],
    };
    let error = attempt(Some(ok), Some(short)).unwrap_err();
    assert_eq!(error.to_string(), "\"x\" is f32[2] but has 1 elements");
    assert!(Tensor::f32(&[3], vec![1.0]).is_err());
}

#[test]
fn ids_outside_their_table_are_errors() {
    let table = f32(&[3, 1], &[0.0; 3]);
    for bad in [-1.0, 3.0] {
        let ids = i32(&[0.0, bad]);
        let error = results(Op::Gather { first: None }, &[table.clone(), ids.clone()]).unwrap_err();
        let name = "case".to_string();
        assert_eq!(
            error,
            InterpretError::IdOutOfRange {
                op: "gather",
                name,
                id: bad,
                position: 1,
                entries: 3
            }
        );
        assert!(
            results(
                Op::ScatterAdd { first: None },
                &[table.clone(), ids, f32(&[2, 1], &[0.0; 2])]
            )
            .is_err()
        );
    }
    assert!(
        results(
            Op::CrossEntropy { padding: 0 },
            &[f32(&[1, 3], &[0.0; 3]), i32(&[3.0])]
        )
        .is_err()
    );
}
