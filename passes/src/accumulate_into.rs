//! Let products add onto what they are added to anyway.
//!
//! Does     `add %acc, (matmul %a, %b)` becomes `matmul %a, %b, %acc`, and `add %acc, (scatter_add zeros, %ids, %u)` becomes
//!          `scatter_add %acc, %ids, %u`, when nobody else reads the product.
//! Needs    sums that run onto their accumulator, `((accum + g₁) + g₂)`, as differentiation makes them. Goes before
//!          `fuse_elementwise`, which would take the additions.
//! Leaves   the same sums; the product starts its chain from `acc` instead of from 0, so rounding may differ.
//!          An f16 product that was widened to be added onto an f32 sum is made in f32 instead, and rounded once less.
//! Example  the gradient of a weight is never stored: `matmul %x, %g, %accum {transpose_a}`.

use superstep_ir::graph::{Graph, Node, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::{BinaryOp, Op, StateKind};
use superstep_ir::types::DType;

use crate::fold_constants::splat;
use crate::order::Order;
use crate::pass::{Pass, PassContext, PassError};

#[derive(Clone, Copy, Debug)]
pub struct AccumulateInto;

impl Pass for AccumulateInto {
    fn name(&self) -> &'static str {
        "accumulate_into"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        let mut order = Order::default();
        for op in graph.topological() {
            let Some((acc, product)) = sum_onto(graph, op) else {
                continue;
            };
            let node = graph.node(product).clone();
            if !cx.may_rewrite(&node.name) {
                break;
            }
            let operands = match node.op {
                Op::ScatterAdd { .. } => [&[acc], &node.operands()[1..]].concat(),
                _ => [node.operands(), &[acc]].concat(),
            };
            let made = made_in(&node, graph.ty(acc).dtype);
            let new = graph.insert(made, &operands, node.name, node.place)?;
            order.put(new, op);
            graph.replace_uses(graph.value(op), graph.value(new));
            let widened = graph.node(op).operands().iter().find(|v| v.op != acc.op);
            let widened = widened.map(|v| v.op).filter(|&v| v != product);
            graph.erase(op);
            if let Some(cast) = widened {
                graph.erase(cast);
            }
            graph.erase(product);
            cx.count("sums absorbed", 1);
        }
        order.restore(graph)?;
        Ok(())
    }
}

/// The running sum and the product added to it, if `op` is such an addition.
fn sum_onto(graph: &Graph, op: OpId) -> Option<(Value, OpId)> {
    let node = graph.node(op);
    let &[a, b] = node.operands() else {
        return None;
    };
    if node.op != Op::Binary(BinaryOp::Add) || graph.ty(a) != graph.ty(b) {
        return None;
    }
    // The running sum comes first by custom; where both operands are products, the second is added onto the first.
    [(a, b), (b, a)]
        .into_iter()
        .map(|(acc, product)| (acc, before_widening(graph, product)))
        .find(|&(acc, product)| absorbs(graph, node, acc, product))
        .map(|(acc, product)| (acc, product.op))
}

/// What a product was before a cast to f32 that nobody else reads.
fn before_widening(graph: &Graph, value: Value) -> Value {
    let node = graph.node(value.op);
    match node.op {
        Op::Cast { to: DType::F32 } if graph.use_count(value.op) == 1 => {
            let x = node.operands()[0];
            match (graph.op(x.op), graph.ty(x).dtype) {
                (Op::Matmul { .. }, DType::F16) => x,
                _ => value,
            }
        }
        _ => value,
    }
}

/// The op of a product whose result has this type.
fn made_in(product: &Node, dtype: DType) -> Op {
    match product.op {
        Op::Matmul {
            transpose_a,
            transpose_b,
            out,
        } => Op::Matmul {
            transpose_a,
            transpose_b,
            out: match product.results()[0].dtype == dtype {
                true => out,
                false => Some(dtype),
            },
        },
        ref other => other.clone(),
    }
}

fn absorbs(graph: &Graph, sum: &Node, acc: Value, product: Value) -> bool {
    let node = graph.node(product.op);
    let adds_nothing_yet = match node.op {
        Op::Matmul { .. } => node.operands().len() == 2,
        // An exact zero: onto it, the rows are alone.
        Op::ScatterAdd { .. } => splat(graph, node.operands()[0]) == Some(0.0),
        _ => false,
    };
    // What another IPU of the group makes comes later, and no product waits for it.
    let is_here = |v: Value| graph.node(v.op).place.member == node.place.member;
    let together = node.place.ipu == sum.place.ipu
        && node.place.member == sum.place.member
        && is_here(acc)
        && node.place.phase == sum.place.phase
        && (node.place.layer == sum.place.layer || is_accumulator(graph, acc));
    adds_nothing_yet && together && graph.use_count(product.op) == 1
}

/// True for a gradient accumulator and for what has been added onto one.
fn is_accumulator(graph: &Graph, value: Value) -> bool {
    let node = graph.node(value.op);
    match &node.op {
        Op::Parameter { kind, .. } => *kind == StateKind::Accumulator,
        Op::Matmul { .. } => node
            .operands()
            .get(2)
            .is_some_and(|&acc| is_accumulator(graph, acc)),
        Op::ScatterAdd { .. } | Op::Binary(BinaryOp::Add) => {
            is_accumulator(graph, node.operands()[0])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use superstep_ir::graph::build::Builder;
    use superstep_ir::graph::{Graph, Value};
    use superstep_ir::op::{Op, StateKind};
    use superstep_ir::types::{DType, TensorType};

    use super::AccumulateInto;
    use crate::pass::{Pass, PassContext};
    use crate::testing::{check, ops_named, output};

    fn product(b: &mut Builder<'_>, name: &str) -> Value {
        let x = b
            .input(&format!("{name}.x"), TensorType::f32([7, 3]))
            .unwrap();
        let g = b
            .input(&format!("{name}.g"), TensorType::f32([7, 5]))
            .unwrap();
        b.matmul(name, x, g, true, false).unwrap()
    }

    #[test]
    fn weight_gradients_run_onto_their_accumulator() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let accum = b
            .parameter("accum.w", StateKind::Accumulator, TensorType::f32([3, 5]))
            .unwrap();
        b.place.layer = Some(3);
        let first = product(&mut b, "first");
        b.place.layer = None;
        let sum = b.add("sum", accum, first).unwrap();
        let second = product(&mut b, "second");
        let sum = b.add("sum", second, sum).unwrap();
        let ids = b.input("ids", TensorType::i32([4])).unwrap();
        let rows = b.input("rows", TensorType::f32([4, 5])).unwrap();
        let zeros = b.constant("zeros", 0.0, TensorType::f32([3, 5])).unwrap();
        let table = b
            .op("table", Op::ScatterAdd { first: None }, &[zeros, ids, rows])
            .unwrap();
        let sum = b.add("sum", sum, table).unwrap();
        b.assign("accum.w", sum).unwrap();
        let after = check(&AccumulateInto, &graph);
        assert!(ops_named(&after, "add").is_empty());
        let matmuls = ops_named(&after, "matmul");
        assert_eq!(after.node(matmuls[0]).operands()[2], accum);
        assert_eq!(after.node(matmuls[0]).name, "first");
        assert_eq!(after.node(matmuls[1]).operands()[2].op, matmuls[0]);
    }

    #[test]
    fn half_products_are_made_in_the_type_of_their_accumulator() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let ty = TensorType::f32([3, 5]);
        let accum = b.parameter("accum.w", StateKind::Accumulator, ty).unwrap();
        let half = |dims: [usize; 2]| TensorType::new(DType::F16, dims);
        let (x, g) = (
            b.input("x", half([7, 3])).unwrap(),
            b.input("g", half([7, 5])).unwrap(),
        );
        let product = b.matmul("product", x, g, true, false).unwrap();
        let to = DType::F32;
        let wide = b.op("wide", Op::Cast { to }, &[product]).unwrap();
        let sum = b.add("sum", accum, wide).unwrap();
        b.assign("accum.w", sum).unwrap();
        AccumulateInto
            .run(&mut graph, &mut PassContext::new())
            .unwrap();
        let matmul = graph.node(ops_named(&graph, "matmul")[0]);
        assert_eq!(matmul.operands()[2], accum);
        assert_eq!(matmul.results()[0].dtype, DType::F32);
        assert!(ops_named(&graph, "cast").is_empty() && ops_named(&graph, "add").is_empty());
    }

    #[test]
    fn a_part_of_a_sum_does_not_wait_for_those_of_other_ipus() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        b.place.layer = Some(0);
        let parts = [0, 1].map(|member| {
            b.place.member = Some(member);
            product(&mut b, &format!("part.{member}"))
        });
        b.place.member = None;
        let sum = b.add("sum", parts[0], parts[1]).unwrap();
        b.output("sum", sum).unwrap();
        let after = check(&AccumulateInto, &graph);
        assert_eq!(ops_named(&after, "add").len(), 1);
    }

    #[test]
    fn a_product_with_other_readers_or_another_layer_stays() {
        let mut graph = Graph::new("g");
        let mut b = Builder::new(&mut graph);
        let residual = b.input("residual", TensorType::f32([3, 5])).unwrap();
        let read_twice = product(&mut b, "read_twice");
        let sum = b.add("sum", residual, read_twice).unwrap();
        b.output("read_twice", read_twice).unwrap();
        b.place.layer = Some(0);
        let elsewhere = product(&mut b, "elsewhere");
        b.place.layer = Some(1);
        let sum = b.add("sum", sum, elsewhere).unwrap();
        let here = product(&mut b, "here");
        let sum = b.add("sum", sum, here).unwrap();
        b.output("sum", sum).unwrap();
        let after = check(&AccumulateInto, &graph);
        assert_eq!(ops_named(&after, "add").len(), 2);
        assert_eq!(after.node(output(&after, "sum").op).operands().len(), 3);
    }
}
