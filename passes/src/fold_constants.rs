//! Evaluate what is known: arithmetic and views of constants, and elementwise ops that change nothing.
//!
//! Does     turns elementwise ops, casts, views and reductions of constants into constants; drops `x·1`, `x/1`, `x+0`, `x−0`;
//!          puts the constant operand of a commuting op on the right; makes the constant of `x ∘ c` a scalar when `x` has the
//!          shape of the result.
//! Needs    nothing.
//! Leaves   the same values up to rounding: folded arithmetic is done in f64 and rounded once, where it is used. `x·0` stays, for
//!          `x` may be infinite.
//! Example  `mul %x, broadcast(div 1, 8)` becomes `mul %x, 0.125`.

use superstep_ir::graph::{Graph, Value};
use superstep_ir::ids::OpId;
use superstep_ir::interpret::elementwise;
use superstep_ir::op::{BinaryOp, Op, ReduceKind};
use superstep_ir::types::{Real, Shape, TensorType};

use crate::dead_code::sweep;
use crate::order::Order;
use crate::pass::{Pass, PassContext, PassError};

#[derive(Clone, Copy, Debug)]
pub struct FoldConstants;

/// What an op can be replaced with.
enum Folded {
    Constant(f64),
    Value(Value),
    /// The same op on other operands, the second of them a constant.
    WithConstant(Value, f64, TensorType),
}

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold_constants"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        let mut order = Order::default();
        for op in graph.topological() {
            let Some(folded) = fold(graph, op) else {
                continue;
            };
            if !cx.may_rewrite(&graph.node(op).name) {
                break;
            }
            replace(graph, &mut order, op, folded)?;
            cx.count("ops folded", 1);
        }
        sweep(graph, |graph, op| {
            matches!(graph.op(op), Op::Constant { .. })
        });
        order.restore(graph)?;
        Ok(())
    }
}

fn replace(
    graph: &mut Graph,
    order: &mut Order,
    op: OpId,
    folded: Folded,
) -> Result<(), PassError> {
    let node = graph.node(op).clone();
    let constant = |value, ty| Op::Constant {
        value: Real(value),
        ty,
    };
    let new = match folded {
        Folded::Value(value) => value,
        Folded::Constant(value) => {
            let new = constant(value, node.results()[0].clone());
            let new = graph.insert(new, &[], node.name, node.place)?;
            order.put(new, op);
            graph.value(new)
        }
        Folded::WithConstant(x, value, ty) => {
            let name = format!("{}.constant", node.name);
            let c = graph.insert(constant(value, ty), &[], name, node.place)?;
            let operands = [x, graph.value(c)];
            let new = graph.insert(node.op, &operands, node.name, node.place)?;
            order.put(c, op);
            order.put(new, op);
            graph.value(new)
        }
    };
    graph.replace_uses(graph.value(op), new);
    graph.erase(op);
    Ok(())
}

/// The value that fills a tensor, if it is a constant.
pub(crate) fn splat(graph: &Graph, value: Value) -> Option<f64> {
    match graph.op(value.op) {
        Op::Constant { value, .. } => Some(value.0),
        _ => None,
    }
}

fn fold(graph: &Graph, op: OpId) -> Option<Folded> {
    let node = graph.node(op);
    if let Op::Binary(b) = node.op {
        return fold_binary(graph, b, node.operands(), &node.results()[0]);
    }
    let (&first, rest) = node.operands().split_first()?;
    let value = splat(graph, first)?;
    let folded = match &node.op {
        Op::Unary(u) => elementwise::unary(*u, value),
        Op::Cast { to } => elementwise::cast(*to, value),
        Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Broadcast { .. } => {
            value
        }
        Op::Concat { .. } => {
            let same = |&v: &Value| splat(graph, v).is_some_and(|w| Real(w) == Real(value));
            rest.iter().all(same).then_some(value)?
        }
        Op::Reduce { kind, .. } => {
            let joined =
                graph.ty(first).shape.elements() / node.results()[0].shape.elements().max(1);
            match kind {
                ReduceKind::Sum => value * joined as f64,
                ReduceKind::SumSquares => value * value * joined as f64,
                ReduceKind::Max => value,
            }
        }
        _ => return None,
    };
    Some(Folded::Constant(folded))
}

fn fold_binary(
    graph: &Graph,
    op: BinaryOp,
    operands: &[Value],
    result: &TensorType,
) -> Option<Folded> {
    let &[a, b] = operands else { return None };
    let (x, c, constant) = match (splat(graph, a), splat(graph, b)) {
        (Some(x), Some(y)) => return Some(Folded::Constant(elementwise::binary(op, x, y))),
        (Some(c), None) if op.commutes() => (b, c, a),
        (None, Some(c)) => (a, c, b),
        _ => return None,
    };
    let whole = graph.ty(x) == result;
    if whole && changes_nothing(op, c) {
        return Some(Folded::Value(x));
    }
    let shrinks = whole && graph.ty(constant).shape.rank() > 0;
    let ty = if shrinks {
        TensorType::new(result.dtype, Shape::scalar())
    } else {
        graph.ty(constant).clone()
    };
    (shrinks || constant == a).then_some(Folded::WithConstant(x, c, ty))
}

/// True when `x ∘ y = x` for every `x`.
fn changes_nothing(op: BinaryOp, y: f64) -> bool {
    match op {
        BinaryOp::Mul | BinaryOp::Div => y == 1.0,
        BinaryOp::Add | BinaryOp::Sub => y == 0.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use superstep_ir::graph::Graph;
    use superstep_ir::graph::build::Builder;
    use superstep_ir::op::{BinaryOp, Op, ReduceKind, UnaryOp};
    use superstep_ir::types::{Shape, TensorType};

    use super::{FoldConstants, splat};
    use crate::testing::{check, ops_named, output};

    #[test]
    fn a_tree_of_constants_is_one_constant() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let eight = b.constant("eight", 8.0, TensorType::f32([])).unwrap();
        let r = b.unary("r", UnaryOp::Rsqrt, eight).unwrap();
        let wide = Op::Broadcast {
            shape: Shape::new(&[2, 3]),
        };
        let wide = b.op("wide", wide, &[r]).unwrap();
        let turned = b.transpose("turned", wide, &[1, 0]).unwrap();
        let flat = b.reshape("flat", turned, [6]).unwrap();
        let some = b.slice("some", flat, 0, 1, 4).unwrap();
        let both = b.concat("both", &[some, flat], 0).unwrap();
        let sum = b.reduce("sum", ReduceKind::SumSquares, 1, both).unwrap();
        b.output("sum", sum).unwrap();
        let after = check(&FoldConstants, &graph);
        assert_eq!(after.len(), 2);
        assert!((splat(&after, output(&after, "sum")).unwrap() - 10.0 / 8.0).abs() < 1e-12);
    }

    #[test]
    fn neutral_operands_go_and_constants_move_right_as_scalars() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let ty = TensorType::f32([2, 3]);
        let x = b.input("x", ty.clone()).unwrap();
        let one = b.constant("one", 1.0, ty.clone()).unwrap();
        let two = b.constant("two", 2.0, ty.clone()).unwrap();
        let zero = b.constant("zero", 0.0, TensorType::f32([])).unwrap();
        let y = b.mul("y", one, x).unwrap();
        let y = b.binary("y", BinaryOp::Sub, y, zero).unwrap();
        let y = b.binary("y", BinaryOp::Div, y, one).unwrap();
        let y = b.mul("doubled", two, y).unwrap();
        b.output("y", y).unwrap();
        let after = check(&FoldConstants, &graph);
        assert_eq!(after.len(), 4);
        let mul = ops_named(&after, "mul")[0];
        let c = after.node(mul).operands()[1];
        assert_eq!(
            (splat(&after, c), after.ty(c)),
            (Some(2.0), &TensorType::f32([]))
        );
    }

    #[test]
    fn a_constant_that_gives_the_result_its_shape_keeps_it() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let x = b.input("x", TensorType::f32([])).unwrap();
        let wide = b.constant("wide", 0.0, TensorType::f32([5])).unwrap();
        let y = b.add("y", x, wide).unwrap();
        b.output("y", y).unwrap();
        assert_eq!(check(&FoldConstants, &graph).len(), 4);
    }
}
