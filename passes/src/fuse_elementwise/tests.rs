use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Phase, Value};
use superstep_ir::op::{BinaryOp, Op, StateKind, UnaryOp};
use superstep_ir::types::{DType, Shape, TensorType};

use super::FuseElementwise;
use crate::testing::{Random, assert_same_meaning, check, ops_named};

fn input(b: &mut Builder<'_>, name: &str, dims: &[usize]) -> Value {
    b.input(name, TensorType::f32(dims)).unwrap()
}

/// `name = x · w + bias`
fn linear(b: &mut Builder<'_>, name: &str, x: Value, from: usize, to: usize) -> Value {
    let state = |part| format!("{name}.{part}");
    let w = b
        .parameter(
            &state("weight"),
            StateKind::Weight,
            TensorType::f32([from, to]),
        )
        .unwrap();
    let bias = b
        .parameter(&state("bias"), StateKind::Weight, TensorType::f32([to]))
        .unwrap();
    let mm = b.matmul(name, x, w, false, false).unwrap();
    b.add(&state("add_bias"), mm, bias).unwrap()
}

#[test]
fn bias_and_gelu_bias_and_residual_and_gelu_grad_are_one_map_each() {
    let mut graph = Graph::new("mlp");
    let mut b = Builder::new(&mut graph);
    let x = input(&mut b, "x", &[7, 3]);
    let wide = linear(&mut b, "c_fc", x, 3, 12);
    let active = b.unary("gelu", UnaryOp::GeluTanh, wide).unwrap();
    let out = linear(&mut b, "c_proj", active, 12, 3);
    let out = b.add("residual", x, out).unwrap();
    b.output("out", out).unwrap();
    b.place.phase = Phase::Backward;
    let g = input(&mut b, "g", &[7, 12]);
    let grad = b
        .binary("gelu.grad", BinaryOp::GeluTanhGrad, wide, g)
        .unwrap();
    b.output("grad", grad).unwrap();
    let after = check(&FuseElementwise, &graph);
    let maps = ops_named(&after, "map");
    let names: Vec<&str> = maps
        .iter()
        .map(|&op| after.node(op).name.as_str())
        .collect();
    assert_eq!(names, ["gelu", "residual", "gelu.grad"]);
    assert!(ops_named(&after, "add").is_empty());
    assert!(maps.iter().all(|&op| after.node(op).results().len() == 1));
}

#[test]
fn a_sum_of_two_tensors_is_not_computed_again() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let (x, y) = (input(&mut b, "x", &[7, 3]), input(&mut b, "y", &[7, 3]));
    let sum = b.add("sum", x, y).unwrap();
    b.place.phase = Phase::Backward;
    let back = b.unary("back", UnaryOp::Square, sum).unwrap();
    b.output("back", back).unwrap();
    let after = check(&FuseElementwise, &graph);
    assert_eq!(after, graph);
}

/// The update of one weight as the optimiser builds it, factors given as scalars.
fn adamw(b: &mut Builder<'_>, name: &str, shape: &[usize], rate: Value, correction: Value) {
    let ty = TensorType::f32(shape);
    let state = |b: &mut Builder<'_>, prefix: &str, kind| {
        b.parameter(&format!("{prefix}{name}"), kind, ty.clone())
            .unwrap()
    };
    let w = state(b, "", StateKind::Weight);
    let g = state(b, "accum.", StateKind::Accumulator);
    let m = state(b, "exp_avg.", StateKind::OptimiserState);
    let v = state(b, "exp_avg_sq.", StateKind::OptimiserState);
    let g = b.mul("clipped", g, correction).unwrap();
    let m = b.scale("m.decayed", m, 0.9).unwrap();
    let part = b.scale("m.new", g, 0.1).unwrap();
    let m = b.add("m", m, part).unwrap();
    let v = b.scale("v.decayed", v, 0.999).unwrap();
    let square = b.unary("g2", UnaryOp::Square, g).unwrap();
    let part = b.scale("v.new", square, 0.001).unwrap();
    let v = b.add("v", v, part).unwrap();
    let root = b.unary("root", UnaryOp::Sqrt, v).unwrap();
    let epsilon = b.constant("epsilon", 1e-8, TensorType::f32([])).unwrap();
    let root = b.add("root.epsilon", root, epsilon).unwrap();
    let step = b.binary("step", BinaryOp::Div, m, root).unwrap();
    let decay = b.scale("decay", w, 0.01).unwrap();
    let step = b.add("step.decayed", step, decay).unwrap();
    let step = b.mul("step.scaled", step, rate).unwrap();
    let w = b.binary("w", BinaryOp::Sub, w, step).unwrap();
    b.assign(name, w).unwrap();
    b.assign(&format!("exp_avg.{name}"), m).unwrap();
    b.assign(&format!("exp_avg_sq.{name}"), v).unwrap();
    let zeros = b.constant("zeros", 0.0, ty.clone()).unwrap();
    b.assign(&format!("accum.{name}"), zeros).unwrap();
}

#[test]
fn the_update_of_a_weight_is_one_map_with_three_results() {
    let mut graph = Graph::new("update");
    let mut b = Builder::new(&mut graph);
    b.place.phase = Phase::Update;
    let rate = input(&mut b, "learning_rate", &[]);
    let norm = input(&mut b, "norm", &[]);
    let correction = b.unary("correction", UnaryOp::Reciprocal, norm).unwrap();
    adamw(&mut b, "w", &[3, 5], rate, correction);
    adamw(&mut b, "b", &[5], rate, correction);
    let after = check(&FuseElementwise, &graph);
    let maps = ops_named(&after, "map");
    assert_eq!(maps.len(), 2);
    for op in maps {
        let node = after.node(op);
        assert_eq!(node.results().len(), 3);
        assert_eq!(node.operands().len(), 6);
        assert_eq!(node.name, "w");
    }
}

/// `exp → (sum over rows) → add` beside `exp → add`: joining the ends would swallow the reduction.
#[test]
fn a_path_through_another_op_keeps_groups_apart() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let x = input(&mut b, "x", &[3, 5]);
    let e = b.unary("e", UnaryOp::Exp, x).unwrap();
    let r = b.reshape("r", e, [5, 3]).unwrap();
    let r = b.transpose("t", r, &[1, 0]).unwrap();
    let a = b.add("a", e, r).unwrap();
    let n = b.unary("n", UnaryOp::Neg, a).unwrap();
    b.output("n", n).unwrap();
    let after = check(&FuseElementwise, &graph);
    assert_eq!(ops_named(&after, "map").len(), 1);
    assert_eq!(ops_named(&after, "exp").len(), 1);
}

#[test]
fn places_shapes_and_full_constants_keep_ops_apart() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let x = input(&mut b, "x", &[]);
    let wide = b.constant("wide", 2.0, TensorType::f32([5])).unwrap();
    // Without the constant, this map would have no operand of its result's shape.
    let a = b.add("a", x, wide).unwrap();
    let n = b.unary("n", UnaryOp::Neg, a).unwrap();
    b.output("n", n).unwrap();
    let after = check(&FuseElementwise, &graph);
    assert_eq!(after, graph);
}

/// Random layered graphs of elementwise ops, views and shapes: fusing keeps the meaning.
#[test]
fn random_graphs_keep_their_meaning() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut graph = Graph::new("random");
        let mut b = Builder::new(&mut graph);
        let shapes = [Shape::scalar(), Shape::new(&[3]), Shape::new(&[2, 3])];
        let mut values: Vec<Value> = (0..3)
            .map(|i| {
                b.input(&format!("x{i}"), TensorType::f32(shapes[i].clone()))
                    .unwrap()
            })
            .collect();
        for _ in 0..25 {
            let x = values[random.below(values.len())];
            let y = values[random.below(values.len())];
            b.place.phase = Phase::Forward;
            let new = match random.below(8) {
                0 => b.unary("u", UnaryOp::Tanh, x),
                1 => b.scale("s", x, 0.5),
                2 => b.reshape("r", x, b.graph.ty(x).shape.clone()),
                3 => b.binary("sub", BinaryOp::Sub, x, y),
                4 => b.binary("max", BinaryOp::Max, x, y),
                _ => b.add("a", x, y),
            };
            values.push(new.unwrap());
        }
        for (i, &v) in values.iter().enumerate().skip(3) {
            if b.graph.use_count(v.op) == 0 || random.below(6) == 0 {
                b.output(&format!("out{i}"), v).unwrap();
            }
        }
        let once = check(&FuseElementwise, &graph);
        let twice = check(&FuseElementwise, &once);
        assert_same_meaning(&graph, &twice);
        assert!(once.len() <= graph.len());
        assert_eq!(twice, once, "one run finds everything");
    }
}

fn half(b: &mut Builder<'_>, name: &str, dims: &[usize]) -> Value {
    b.input(name, TensorType::new(DType::F16, dims)).unwrap()
}

fn cast(b: &mut Builder<'_>, name: &str, to: DType, x: Value) -> Value {
    b.op(name, Op::Cast { to }, &[x]).unwrap()
}

/// `m = round(m · k + g · t)` and `v = v · k + g²`, with `m` and `g` f16 and `v` f32.
#[test]
fn casts_are_the_loads_and_stores_of_one_map() {
    let mut graph = Graph::new("update");
    let mut b = Builder::new(&mut graph);
    let (m, g) = (half(&mut b, "m", &[3, 5]), half(&mut b, "g", &[3, 5]));
    let (v, k) = (input(&mut b, "v", &[3, 5]), input(&mut b, "k", &[]));
    let m = cast(&mut b, "m.wide", DType::F32, m);
    let g = cast(&mut b, "g.wide", DType::F32, g);
    let kept = b.mul("m.kept", m, k).unwrap();
    let sum = b.add("m.sum", kept, g).unwrap();
    let rounded = cast(&mut b, "m.rounded", DType::F16, sum);
    b.output("m", rounded).unwrap();
    let kept = b.mul("v.kept", v, k).unwrap();
    let square = b.unary("square", UnaryOp::Square, g).unwrap();
    let v = b.add("v.sum", kept, square).unwrap();
    b.output("v", v).unwrap();
    let after = check(&FuseElementwise, &graph);
    assert!(ops_named(&after, "cast").is_empty());
    let maps = ops_named(&after, "map");
    assert_eq!(maps.len(), 2, "{}", superstep_ir::text::print_graph(&after));
    let types: Vec<DType> = maps
        .iter()
        .map(|&m| after.node(m).results()[0].dtype)
        .collect();
    assert_eq!(types, [DType::F16, DType::F32]);
    for map in maps {
        let reads_half = |v: &Value| after.ty(*v).dtype == DType::F16;
        assert!(after.node(map).operands().iter().any(reads_half));
    }
}

/// What a cast has rounded is read rounded: the sum is stored before the product is made of it.
#[test]
fn a_rounding_ends_a_map() {
    let mut graph = Graph::new("g");
    let mut b = Builder::new(&mut graph);
    let (x, y) = (input(&mut b, "x", &[7]), input(&mut b, "y", &[7]));
    let sum = b.add("sum", x, y).unwrap();
    let rounded = cast(&mut b, "rounded", DType::F16, sum);
    let wide = cast(&mut b, "wide", DType::F32, rounded);
    let product = b.mul("product", wide, x).unwrap();
    // Another way from the sum to the product must not join them either.
    let product = b.add("both", product, sum).unwrap();
    b.output("product", product).unwrap();
    let after = check(&FuseElementwise, &graph);
    let maps = ops_named(&after, "map");
    assert_eq!(maps.len(), 2);
    assert!(
        after
            .node(maps[0])
            .results()
            .iter()
            .any(|t| t.dtype == DType::F16)
    );
}
