//! The form of what is appended: names, places, which ops are used, and the errors.

use superstep_ir::graph::Use;
use superstep_ir::ids::{IpuId, StageId};
use superstep_ir::types::Real;

use super::*;
use superstep_ir::op::{BinaryOp, MapExpr, UnaryOp};

fn scalar() -> TensorType {
    TensorType::f32(Shape::scalar())
}

/// The ops appended after the first `forward` ones, by mnemonic.
fn appended(graph: &Graph, forward: usize) -> Vec<&'static str> {
    graph
        .ops()
        .skip(forward)
        .map(|op| graph.op(op).name())
        .collect()
}

#[test]
fn backward_ops_inherit_place_and_name() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let w = b
        .parameter("w", StateKind::Weight, TensorType::f32([2, 3]))
        .unwrap();
    b.place = Place {
        ipu: Some(IpuId(1)),
        stage: Some(StageId(2)),
        layer: Some(4),
        member: None,
        phase: Phase::Forward,
    };
    b.scope("h.4");
    let x = b.input("x", TensorType::f32([5, 2])).unwrap();
    let y = b.matmul("mlp.c_fc", x, w, false, false).unwrap();
    let loss = weighted_sum(&mut b, y);
    let seed = b.constant("seed", 1.0, scalar()).unwrap();
    let place = b.place;
    let gradients = differentiate(&mut graph, loss, seed, &[w]).unwrap();
    let node = graph.node(gradients[0].unwrap().op);
    assert_eq!(node.name, "h.4.mlp.c_fc.grad_w");
    assert_eq!(
        node.place,
        Place {
            phase: Phase::Backward,
            ..place
        }
    );
    let transposed = Op::Matmul {
        transpose_a: true,
        transpose_b: false,
        out: None,
    };
    assert_eq!(node.op, transposed);
    // Nobody asked for the gradient of `x`: loss.sum, product with the weights, and the one matmul.
    assert_eq!(
        graph
            .ops()
            .filter(|&op| graph.node(op).name.contains("grad_x"))
            .count(),
        1
    );
}

/// Tied embeddings: logits = x·wteᵀ and x = wte[ids]. The accumulator takes one contribution after the other.
#[test]
fn contributions_run_onto_their_base() {
    let mut graph = Graph::new("tied");
    let mut b = Builder::new(&mut graph);
    let table = TensorType::f32([5, 3]);
    let wte = b
        .parameter("wte", StateKind::Weight, table.clone())
        .unwrap();
    let ids = b.input("ids", i32s(4)).unwrap();
    let x = b
        .op("embed", Op::Gather { first: None }, &[wte, ids])
        .unwrap();
    let logits = b.matmul("lm_head", x, wte, false, true).unwrap();
    let loss = weighted_sum(&mut b, logits);
    let seed = b.constant("seed", 1.0, scalar()).unwrap();
    let accum = b
        .parameter("accum.wte", StateKind::Accumulator, table)
        .unwrap();
    let forward = b.graph.len();
    let sums = differentiate_onto(&mut graph, loss, seed, &[(wte, accum)], Joining::Sum).unwrap();

    let scatter = sums[0].unwrap();
    assert_eq!(*graph.op(scatter.op), Op::ScatterAdd { first: None });
    assert_eq!(graph.node(scatter.op).name, "embed.grad_table");
    let add = graph.node(scatter.op).operands()[0];
    assert_eq!(*graph.op(add.op), Op::Binary(BinaryOp::Add));
    assert_eq!(graph.node(add.op).operands()[0], accum);
    assert_eq!(
        graph.uses(accum),
        [Use {
            op: add.op,
            operand: 0
        }]
    );
    let ops = appended(&graph, forward);
    assert_eq!(
        ops,
        ["broadcast", "mul", "matmul", "matmul", "add", "scatter_add"]
    );
}

/// Slices of a tied table in half precision: product and rows are both added onto the accumulator itself, and there is no gradient of the
/// slice beside it.
#[test]
fn running_means_of_slices_take_products_straight() {
    let mut graph = Graph::new("tied");
    let mut b = Builder::new(&mut graph);
    let half = |dims: [usize; 2]| TensorType::new(DType::F16, dims);
    let slice = b
        .parameter("wte.1", StateKind::Weight, half([5, 3]))
        .unwrap();
    let ids = b.input("ids", i32s(4)).unwrap();
    let first = Some(5);
    let x = b.op("embed", Op::Gather { first }, &[slice, ids]).unwrap();
    let logits = b.matmul("lm_head", x, slice, false, true).unwrap();
    let loss = weighted_sum(&mut b, logits);
    let half_scalar = TensorType::new(DType::F16, Shape::scalar());
    let seed = b.constant("seed", 1.0, half_scalar).unwrap();
    let [keep, take, share] =
        ["keep", "take", "share"].map(|name| b.input(name, scalar()).unwrap());
    let accum = b
        .parameter("accum.wte.1", StateKind::Accumulator, half([5, 3]))
        .unwrap();
    let joining = Joining::RunningMean { keep, take, share };
    let onto = [(slice, accum)];
    let sums = differentiate_onto(&mut graph, loss, seed, &onto, joining).unwrap();

    let scatter = sums[0].unwrap();
    assert_eq!(*graph.op(scatter.op), Op::ScatterAdd { first });
    let add = graph.node(scatter.op).operands()[0];
    assert_eq!(*graph.op(add.op), Op::Binary(BinaryOp::Add));
    let &[base, product] = graph.node(add.op).operands() else {
        panic!("an addition has two operands");
    };
    assert_eq!(base, accum);
    assert_eq!(graph.node(product.op).name, "lm_head.grad_w");
    assert_eq!(graph.ty(product).dtype, DType::F16);
    // The share is taken of the rows, not of the product.
    let rows = graph.node(product.op).operands()[1];
    let scaled = graph.node(rows.op).operands()[0];
    assert_eq!(graph.node(scaled.op).operands()[1], share);
    assert!(graph.uses(keep).is_empty() && graph.uses(take).is_empty());
}

/// The gradient of a fused query-key-value product is one concat of the three, without any zeros.
#[test]
fn slices_that_cover_a_value_join_into_one_concat() {
    let mut graph = Graph::new("qkv");
    let mut b = Builder::new(&mut graph);
    let x = b
        .parameter("x", StateKind::Weight, TensorType::f32([2, 6]))
        .unwrap();
    let parts: Vec<Value> = (0..3)
        .map(|i| b.slice("part", x, 1, 2 * i, 2).unwrap())
        .collect();
    let product = b.mul("qk", parts[0], parts[1]).unwrap();
    let product = b.mul("qkv", product, parts[2]).unwrap();
    let loss = weighted_sum(&mut b, product);
    let seed = b.constant("seed", 1.0, scalar()).unwrap();
    let forward = b.graph.len();
    let gradient = differentiate(&mut graph, loss, seed, &[x]).unwrap()[0].unwrap();
    assert_eq!(*graph.op(gradient.op), Op::Concat { axis: 1 });
    let ops = appended(&graph, forward);
    assert!(
        !ops.contains(&"constant") && !ops.contains(&"add"),
        "{ops:?}"
    );
}

#[test]
fn what_the_loss_does_not_depend_on_has_no_gradient() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let x = b.parameter("x", StateKind::Weight, scalar()).unwrap();
    let unused = b.parameter("unused", StateKind::Weight, scalar()).unwrap();
    let y = b.unary("y", UnaryOp::Exp, x).unwrap();
    b.unary("z", UnaryOp::Exp, unused).unwrap();
    let seed = b.constant("seed", 1.0, scalar()).unwrap();
    let gradients = differentiate(&mut graph, y, seed, &[unused, y, x]).unwrap();
    assert_eq!(gradients[0], None);
    assert_eq!(gradients[1], Some(seed));
    assert!(gradients[2].is_some());
    let onto = differentiate_onto(&mut graph, y, seed, &[(unused, seed)], Joining::Sum).unwrap();
    assert_eq!(onto, [None]);
}

#[test]
fn intermediate_values_have_gradients_too() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let x = b.parameter("x", StateKind::Weight, scalar()).unwrap();
    let y = b.unary("y", UnaryOp::Square, x).unwrap();
    let z = b.mul("z", y, y).unwrap();
    let seed = b.constant("seed", 1.0, scalar()).unwrap();
    let gradients = differentiate(&mut graph, z, seed, &[y, x]).unwrap();
    let mut b = Builder::new(&mut graph);
    b.output("dy", gradients[0].unwrap()).unwrap();
    b.output("dx", gradients[1].unwrap()).unwrap();
    let mut states = BTreeMap::from([("x".to_string(), Tensor::scalar(DType::F32, 3.0))]);
    let outputs = interpret::run(&graph, &mut states, &BTreeMap::new()).unwrap();
    assert_eq!(outputs["dy"].data, [18.0]);
    assert_eq!(outputs["dx"].data, [108.0]);
}

/// Contributions in half precision are added to a base in single precision.
#[test]
fn contributions_are_cast_to_their_base() {
    let mut graph = Graph::new("half");
    let mut b = Builder::new(&mut graph);
    let ty = TensorType::new(DType::F16, [5, 3]);
    let w = b.parameter("w", StateKind::Weight, ty).unwrap();
    let ids = b.input("ids", i32s(4)).unwrap();
    let rows = b.op("rows", Op::Gather { first: None }, &[w, ids]).unwrap();
    let square = b.unary("square", UnaryOp::Square, w).unwrap();
    let both = b.concat("both", &[rows, square], 0).unwrap();
    let loss = weighted_sum(&mut b, both);
    let half = TensorType::new(DType::F16, Shape::scalar());
    let seed = b.constant("seed", 1.0, half).unwrap();
    let accum = b
        .parameter("accum.w", StateKind::Accumulator, TensorType::f32([5, 3]))
        .unwrap();
    let sum = differentiate_onto(&mut graph, loss, seed, &[(w, accum)], Joining::Sum).unwrap()[0]
        .unwrap();
    assert_eq!(graph.ty(sum).dtype, DType::F32);
}

#[test]
fn errors_name_the_op() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let x = b
        .parameter("x", StateKind::Weight, TensorType::f32([3]))
        .unwrap();
    let max = b.reduce("largest", ReduceKind::Max, 1, x).unwrap();
    let expr = MapExpr::unary(UnaryOp::Exp);
    let map = b.op("fused", Op::Map(expr), &[max]).unwrap();
    let one = b
        .op(
            "norm",
            Op::LayerNorm {
                epsilon: Real(1e-5),
            },
            &[x, x, x],
        )
        .unwrap();
    let mean = Value { result: 1, ..one };
    let seed = b.constant("seed", 1.0, scalar()).unwrap();
    let error = |loss, wrt| {
        let mut copy = graph.clone();
        differentiate(&mut copy, loss, seed, &[wrt])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(max, x),
        "reduce_max \"largest\" has no gradient: a maximum over axes is not differentiated"
    );
    assert!(error(map, max).starts_with("map \"fused\" has no gradient"));
    assert!(error(mean, x).starts_with("layer_norm \"norm\" has no gradient"));
    assert_eq!(error(one, x), "the gradient of f32[3] is seeded with f32[]");
    let not_a_source =
        differentiate_onto(&mut graph, map, seed, &[(max, seed)], Joining::Sum).unwrap_err();
    assert!(matches!(
        not_a_source,
        DifferentiateError::NotASource { .. }
    ));
    let base = differentiate_onto(&mut graph, map, seed, &[(x, seed)], Joining::Sum).unwrap_err();
    assert!(matches!(base, DifferentiateError::BaseType { .. }));
}
