//! Random graphs of smooth ops with shared values.

use proptest::prelude::*;
use superstep_ir::op::{BinaryOp, Op, UnaryOp};
use superstep_ir::types::Real;

use super::case;

/// What is done to two earlier values, chosen by index.
#[derive(Clone, Copy, Debug)]
enum Link {
    Unary(UnaryOp),
    Binary(BinaryOp),
    Matmul(bool, bool),
    Softmax,
    /// The two values side by side, cut back to the square they came from.
    ConcatSlice(usize),
}

fn link() -> impl Strategy<Value = Link> {
    let unary = prop::sample::select(vec![
        UnaryOp::Neg,
        UnaryOp::Tanh,
        UnaryOp::GeluTanh,
        UnaryOp::GeluErf,
    ]);
    let binary = prop::sample::select(vec![BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul]);
    prop_oneof![
        unary.prop_map(Link::Unary),
        binary.prop_map(Link::Binary),
        any::<(bool, bool)>().prop_map(|(a, b)| Link::Matmul(a, b)),
        Just(Link::Softmax),
        (0usize..3).prop_map(Link::ConcatSlice),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agree_with_finite_differences(
        links in prop::collection::vec((link(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..9),
    ) {
        case(&[&[3, 3], &[3, 3]]).within(-0.8, 0.8).check(|b, p| {
            let mut values = vec![b.add("start", p[0], p[1])?];
            for (link, i, j) in &links {
                let (x, y) = (*i.get(&values), *j.get(&values));
                let value = match *link {
                    Link::Unary(op) => b.unary("u", op, x)?,
                    Link::Binary(op) => b.binary("b", op, x, y)?,
                    Link::Matmul(ta, tb) => b.matmul("m", x, y, ta, tb)?,
                    Link::Softmax => b.op("s", Op::Softmax { scale: Real(0.5), causal: false }, &[x])?,
                    Link::ConcatSlice(start) => {
                        let both = b.concat("c", &[x, y], 0)?;
                        b.slice("c.slice", both, 0, start, 3)?
                    }
                };
                // Kept small, so that finite differences stay exact.
                values.push(b.unary("bound", UnaryOp::Tanh, value)?);
            }
            // Every value counts, not only the last.
            values.iter().skip(1).try_fold(values[0], |sum, &v| b.add("sum", sum, v))
        });
    }
}
