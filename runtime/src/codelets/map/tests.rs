use superstep_ir::op::{BinaryOp, MapNode, UnaryOp};
use superstep_ir::types::Real;

use super::*;
use crate::codelets::testing::{
    assert_close, bits, isas, numbers as random, run, run_in_place, whole,
};

/// Runs on both instruction sets, asks for equal bits.
fn map(
    expression: &MapExpr,
    inputs: &[crate::codelets::testing::Data],
    dims: &[usize],
) -> Vec<Vec<f32>> {
    let zeros = vec![0.0; dims.iter().product()];
    let outputs: Vec<_> = expression
        .outputs
        .iter()
        .map(|_| whole(dims, &zeros))
        .collect();
    let results: Vec<_> = isas()
        .into_iter()
        .map(|isa| run(&Map::new(expression, isa), inputs, &outputs))
        .collect();
    assert!(results.iter().all(|r| bits(r) == bits(&results[0])));
    results.into_iter().next().unwrap_or_default()
}

#[test]
fn every_unary_op() {
    for op in UnaryOp::ALL {
        for n in [0, 1, 7, 512, 1300] {
            let mut x: Vec<f32> = random(n, 5).iter().map(|v| v * 4.0).collect();
            if matches!(op, UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt) {
                x.iter_mut().for_each(|v| *v = v.abs() + 0.01);
            }
            let expected: Vec<f64> = x
                .iter()
                .map(|&v| crate::codelets::math::tests::unary(op, f64::from(v)))
                .collect();
            assert_close(
                &map(&MapExpr::unary(op), &[whole(&[n], &x)], &[n])[0],
                &expected,
                1e-6,
                op.name(),
            );
        }
    }
}

#[test]
fn every_binary_op_with_every_broadcast() {
    for op in BinaryOp::ALL {
        for (own, period) in [
            (vec![3, 5, 24], 360),
            (vec![5, 24], 120),
            (vec![24], 24),
            (vec![], 1),
            (vec![1, 24], 24),
        ] {
            let (x, y) = (random(360, 1), random(period, 2));
            let expected: Vec<f64> = (0..360)
                .map(|i| {
                    crate::codelets::math::tests::binary(
                        op,
                        f64::from(x[i]),
                        f64::from(y[i % period]),
                    )
                })
                .collect();
            let inputs = [whole(&[3, 5, 24], &x), whole(&own, &y)];
            assert_close(
                &map(&MapExpr::binary(op), &inputs, &[3, 5, 24])[0],
                &expected,
                1e-6,
                op.name(),
            );
        }
    }
}

/// `(p, m, g, rate) → (p − rate·m', m' = 0.9 m + 0.1 g)`, and the old `p` as third output.
fn momentum() -> MapExpr {
    MapExpr {
        operands: 4,
        nodes: vec![
            MapNode::Operand(0),
            MapNode::Operand(1),
            MapNode::Operand(2),
            MapNode::Operand(3),
            MapNode::Constant(Real(0.9)),
            MapNode::Constant(Real(0.1)),
            MapNode::Binary(BinaryOp::Mul, 1, 4),
            MapNode::Binary(BinaryOp::Mul, 2, 5),
            MapNode::Binary(BinaryOp::Add, 6, 7),
            MapNode::Binary(BinaryOp::Mul, 8, 3),
            MapNode::Binary(BinaryOp::Sub, 0, 9),
        ],
        outputs: vec![10, 8, 0],
        types: vec![],
    }
}

#[test]
fn many_outputs_in_place() {
    let n = 1031;
    let (p, m, g) = (random(n, 1), random(n, 2), random(n, 3));
    let inputs = [
        whole(&[n], &p),
        whole(&[n], &m),
        whole(&[n], &g),
        whole(&[], &[0.01]),
    ];
    let apart = map(&momentum(), &inputs, &[n]);
    let outputs = [inputs[0].clone(), inputs[1].clone(), inputs[2].clone()];
    let in_place = run_in_place(
        &Map::new(&momentum(), Isa::detect()),
        &inputs,
        &outputs,
        &[0, 1, 2],
    );
    assert_eq!(bits(&apart), bits(&in_place));
    assert_eq!(apart[2], p);
    let expected: Vec<f64> = (0..n)
        .map(|i| f64::from(m[i]) * 0.9 + f64::from(g[i]) * 0.1)
        .collect();
    assert_close(&apart[1], &expected, 1e-6, "m");
}

#[test]
fn registers_are_used_again() {
    let mut nodes = vec![MapNode::Operand(0)];
    for i in 0..40 {
        nodes.push(MapNode::Binary(BinaryOp::Mul, i, i));
    }
    let schedule = Schedule::of(&MapExpr {
        operands: 1,
        nodes,
        outputs: vec![40],
        types: vec![],
    });
    assert!(schedule.registers <= 3, "{schedule:?}");
}

#[test]
fn what_does_not_broadcast_is_refused() {
    let kernel = Map::new(&MapExpr::binary(BinaryOp::Add), Isa::detect());
    let (a, b) = (whole(&[4, 6], &[0.0; 24]), whole(&[4], &[0.0; 4]));
    let operand = |data: &crate::codelets::testing::Data| data.layout.clone();
    let (la, lb) = (operand(&a), operand(&b));
    let at = |byte, layout| {
        Operand::new(
            std::ptr::without_provenance_mut(byte),
            true,
            None,
            layout,
            0,
        )
    };
    let vertex = Vertex {
        inputs: SmallVec::from_slice(&[at(0, &la), at(96, &lb)]),
        outputs: SmallVec::from_slice(&[at(112, &la)]),
        adds: false,
    };
    assert!(kernel.check(&vertex).is_err());
}
