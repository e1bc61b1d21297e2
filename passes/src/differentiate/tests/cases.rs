//! One case or more a rule.

use smallvec::smallvec;
use superstep_ir::op::{BinaryOp, Op, ReduceKind, UnaryOp};
use superstep_ir::types::{DType, Real, TensorType};

use super::{case, i32s};

#[test]
fn matmul_in_every_orientation() {
    let stored = |transpose: bool, rows: usize, columns: usize| {
        if transpose {
            vec![columns, rows]
        } else {
            vec![rows, columns]
        }
    };
    for (m, k, n) in [(2, 3, 4), (1, 7, 1), (5, 1, 2)] {
        for (transpose_a, transpose_b) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let (a, b) = (stored(transpose_a, m, k), stored(transpose_b, k, n));
            let op = Op::Matmul {
                transpose_a,
                transpose_b,
                out: None,
            };
            case(&[&a, &b]).check(|builder, p| builder.op("y", op.clone(), p));
            case(&[&a, &b, &[m, n]]).check(|builder, p| builder.op("y", op.clone(), p));
            let batch = |s: &[usize]| [&[3], s].concat();
            case(&[&batch(&a), &batch(&b)]).check(|builder, p| builder.op("y", op, p));
        }
    }
}

#[test]
fn unary() {
    for op in UnaryOp::ALL {
        let range = match op {
            UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Reciprocal => (0.5, 2.0),
            _ => (-2.0, 2.0),
        };
        case(&[&[3, 7]])
            .within(range.0, range.1)
            .check(|b, p| b.unary("y", op, p[0]));
    }
}

#[test]
fn binary_with_every_broadcast() {
    let ops = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Max,
        BinaryOp::Min,
    ];
    let shapes: [[&[usize]; 2]; 7] = [
        [&[2, 3], &[2, 3]],
        [&[2, 3], &[3]],
        [&[3], &[2, 3]],
        [&[2, 3], &[]],
        [&[], &[2, 3]],
        [&[], &[]],
        [&[2, 1, 3], &[1, 3]],
    ];
    for op in ops {
        for shapes in &shapes {
            case(shapes)
                .within(0.3, 2.0)
                .check(|b, p| b.binary("y", op, p[0], p[1]));
        }
    }
}

#[test]
fn one_operand_is_no_parameter() {
    for op in [BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Div, BinaryOp::Max] {
        for swap in [false, true] {
            case(&[&[4]]).within(0.5, 2.0).check(|b, p| {
                let other = b.input("other", TensorType::f32([5, 4]))?;
                let (x, y) = if swap { (other, p[0]) } else { (p[0], other) };
                b.binary("y", op, x, y)
            });
        }
    }
}

/// The slopes of activations are linear in the gradient they carry.
#[test]
fn gradient_ops_in_their_second_operand() {
    for op in [
        BinaryOp::ReluGrad,
        BinaryOp::GeluTanhGrad,
        BinaryOp::GeluErfGrad,
    ] {
        case(&[&[3]]).check(|b, p| {
            let x = b.input("x", TensorType::f32([2, 3]))?;
            b.binary("y", op, x, p[0])
        });
    }
}

#[test]
fn casts_between_float_types() {
    case(&[&[3]]).through_halves().check(|b, p| {
        let half = b.op("half", Op::Cast { to: DType::F16 }, p)?;
        let square = b.unary("square", UnaryOp::Square, half)?;
        b.op("y", Op::Cast { to: DType::F32 }, &[square])
    });
}

#[test]
fn dropout_replays_its_mask() {
    case(&[&[4, 7]])
        .with_ids(&[("seed", &[11, 5])])
        .check(|b, p| {
            let seed = b.input("seed", TensorType::new(DType::U32, [2]))?;
            let op = Op::Dropout {
                p: Real(0.4),
                key: 3,
            };
            let dropped = b.op("drop", op, &[p[0], seed])?;
            b.unary("y", UnaryOp::Square, dropped)
        });
}

#[test]
fn layer_norm() {
    let shapes: [&[&[usize]]; 3] = [
        &[&[5, 4], &[4], &[4]],
        &[&[2, 3, 7], &[7], &[7]],
        &[&[6], &[6], &[6]],
    ];
    for shapes in shapes {
        let epsilon = Real(1e-2);
        case(shapes).check(|b, p| b.op("y", Op::LayerNorm { epsilon }, p));
    }
}

#[test]
fn softmax() {
    for (scale, causal) in [(1.0, false), (0.3, false), (0.7, true)] {
        let op = Op::Softmax {
            scale: Real(scale),
            causal,
        };
        case(&[&[2, 4, 5]]).check(|b, p| b.op("y", op, p));
    }
}

/// The attention scores of the front end: scale, mask, softmax, mix.
#[test]
fn masked_softmax() {
    case(&[&[2, 4, 3], &[2, 4, 3], &[2, 4, 3]]).check(|b, p| {
        let scores = b.matmul("scores", p[0], p[1], false, true)?;
        let scaled = b.scale("scaled", scores, 0.6)?;
        let masked = b.op("mask", Op::CausalMask, &[scaled])?;
        let op = Op::Softmax {
            scale: Real(1.0),
            causal: false,
        };
        let probs = b.op("probs", op, &[masked])?;
        b.matmul("y", probs, p[2], false, false)
    });
}

#[test]
fn a_mask_that_no_softmax_reads() {
    case(&[&[3, 4]]).check(|b, p| {
        let masked = b.op("mask", Op::CausalMask, p)?;
        b.unary("y", UnaryOp::Exp, masked)
    });
}

#[test]
fn cross_entropy() {
    case(&[&[4, 5]])
        .with_ids(&[("labels", &[3, -100, 0, 4])])
        .check(|b, p| {
            let labels = b.input("labels", i32s(4))?;
            b.op("y", Op::CrossEntropy { padding: 0 }, &[p[0], labels])
        });
}

#[test]
fn gather_with_repeated_and_missing_rows() {
    case(&[&[5, 3]])
        .with_ids(&[("ids", &[1, 4, 1, 0])])
        .check(|b, p| {
            let ids = b.input("ids", i32s(4))?;
            let rows = b.op("rows", Op::Gather { first: None }, &[p[0], ids])?;
            b.unary("y", UnaryOp::Square, rows)
        });
}

#[test]
fn cross_entropy_of_slices_with_padding() {
    case(&[&[4, 3], &[4, 3]])
        .with_ids(&[("labels", &[3, -100, 0, 2])])
        .check(|b, p| {
            let labels = b.input("labels", i32s(4))?;
            b.op("y", Op::CrossEntropy { padding: 2 }, &[p[0], p[1], labels])
        });
}

#[test]
fn slices_of_a_table() {
    case(&[&[3, 2], &[3, 2], &[4, 2]])
        .with_ids(&[("ids", &[1, 5, 3, 0])])
        .check(|b, p| {
            let ids = b.input("ids", i32s(4))?;
            let low = b.op("low", Op::Gather { first: Some(0) }, &[p[0], ids])?;
            let first = Some(3);
            let sum = b.op("sum", Op::ScatterAdd { first }, &[p[1], ids, p[2]])?;
            let high = b.op("high", Op::Gather { first }, &[sum, ids])?;
            let rows = b.add("rows", low, high)?;
            b.unary("y", UnaryOp::Square, rows)
        });
}

#[test]
fn scatter_add() {
    case(&[&[4, 2], &[3, 2]])
        .with_ids(&[("ids", &[3, 0, 3])])
        .check(|b, p| {
            let ids = b.input("ids", i32s(3))?;
            let sum = b.op("sum", Op::ScatterAdd { first: None }, &[p[0], ids, p[1]])?;
            b.unary("y", UnaryOp::Square, sum)
        });
}

#[test]
fn reductions() {
    for kind in [ReduceKind::Sum, ReduceKind::SumSquares] {
        for leading in 0..=3 {
            case(&[&[2, 3, 4]]).check(|b, p| b.reduce("y", kind, leading, p[0]));
        }
    }
}

#[test]
fn reshape_transpose_broadcast() {
    case(&[&[2, 3, 4]]).check(|b, p| {
        let rows = b.reshape("rows", p[0], [6, 4])?;
        let turned = b.transpose("turned", rows, &[1, 0])?;
        let cube = b.reshape("cube", turned, [4, 2, 3])?;
        let turned = b.transpose("cube.turned", cube, &[1, 2, 0])?;
        b.unary("y", UnaryOp::Square, turned)
    });
    for from in [&[3][..], &[2, 3], &[]] {
        let shape = [4, 2, 3].into();
        case(&[from]).check(|b, p| b.op("y", Op::Broadcast { shape }, p));
    }
}

#[test]
fn slices_and_concats_on_every_axis() {
    for axis in 0..3 {
        case(&[&[4, 4, 4]]).check(|b, p| b.slice("y", p[0], axis, 1, 2));
        let mut shapes = [vec![2, 2, 2], vec![2, 2, 2]];
        shapes[1][axis] = 3;
        case(&[&shapes[0], &shapes[1]]).check(|b, p| b.concat("y", &[p[0], p[1], p[0]], axis));
    }
    // Parts that overlap, parts of another axis, and a whole.
    case(&[&[4, 4]]).check(|b, p| {
        let top = b.slice("top", p[0], 0, 0, 3)?;
        let bottom = b.slice("bottom", p[0], 0, 1, 3)?;
        let left = b.slice("left", p[0], 1, 0, 3)?;
        let left = b.transpose("left.turned", left, &[1, 0])?;
        let product = b.mul("product", top, bottom)?;
        let product = b.mul("with_left", product, left)?;
        let whole = b.reduce("whole", ReduceKind::SumSquares, 1, p[0])?;
        b.mul("y", product, whole)
    });
}

#[test]
fn swapped_axes() {
    let perm = smallvec![0, 2, 1, 3];
    case(&[&[2, 3, 4, 2]]).check(|b, p| {
        let turned = b.op("turned", Op::Transpose { perm }, p)?;
        b.unary("y", UnaryOp::Exp, turned)
    });
}

/// `x` is used by five ops, directly and through each other.
#[test]
fn shared_subexpressions() {
    case(&[&[3, 3], &[3]]).check(|b, p| {
        let (x, w) = (p[0], p[1]);
        let square = b.mul("square", x, x)?;
        let shifted = b.add("shifted", square, w)?;
        let product = b.matmul("product", shifted, x, false, true)?;
        let gelu = b.unary("gelu", UnaryOp::GeluTanh, product)?;
        let sum = b.add("sum", gelu, shifted)?;
        let scaled = b.mul("scaled", sum, w)?;
        b.binary("y", BinaryOp::Sub, scaled, x)
    });
}
