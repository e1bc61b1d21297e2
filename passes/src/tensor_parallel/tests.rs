use std::collections::BTreeMap;

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::interpret::{Tensor, run};
use superstep_ir::op::{BinaryOp, Op, ReduceKind, StateKind, UnaryOp};
use superstep_ir::text::{parse_graph, print_graph};
use superstep_ir::types::{DType, Real, TensorType};
use superstep_ir::verify::verify_graph;

use super::TensorParallel;
use crate::pass::{Pass, PassContext, PassError};
use crate::testing::{Random, close, plain_descent, random_environment};
use crate::training::training_module;

/// Sizes of a decoder layer.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    seq: usize,
    heads: usize,
    head_size: usize,
    inner: usize,
}

fn weight(b: &mut Builder<'_>, name: &str, dims: &[usize]) -> Value {
    b.parameter(name, StateKind::Weight, TensorType::f32(dims))
        .unwrap()
}

fn linear(b: &mut Builder<'_>, name: &str, x: Value, dims: [usize; 2]) -> Value {
    let w = weight(b, &format!("{name}.weight"), &dims);
    let bias = weight(b, &format!("{name}.bias"), &dims[1..]);
    let product = b.matmul(name, x, w, false, false).unwrap();
    b.add(&format!("{name}.add_bias"), product, bias).unwrap()
}

fn norm(b: &mut Builder<'_>, name: &str, x: Value, width: usize) -> Value {
    let scale = weight(b, &format!("{name}.weight"), &[width]);
    let shift = weight(b, &format!("{name}.bias"), &[width]);
    let epsilon = Real(1e-3);
    b.results(name, Op::LayerNorm { epsilon }, &[x, scale, shift])
        .unwrap()[0]
}

fn heads(b: &mut Builder<'_>, qkv: Value, i: usize, sizes: Sizes) -> Value {
    let Sizes {
        batch,
        seq,
        heads,
        head_size,
        ..
    } = sizes;
    let width = heads * head_size;
    let flat = b.slice("flat", qkv, 1, i * width, width).unwrap();
    let split = [batch, seq, heads, head_size];
    let split = b.reshape("split", flat, split).unwrap();
    let turned = b.transpose("turned", split, &[0, 2, 1, 3]).unwrap();
    b.reshape("heads", turned, [batch * heads, seq, head_size])
        .unwrap()
}

/// A decoder layer of those ops that GPT-2 has, and a loss.
fn layer(sizes: Sizes) -> Graph {
    let Sizes {
        batch,
        seq,
        heads: n,
        head_size,
        inner,
    } = sizes;
    let width = n * head_size;
    let mut graph = Graph::new("forward");
    let mut b = Builder::new(&mut graph);
    let x = b.input("x", TensorType::f32([batch * seq, width])).unwrap();
    b.place.layer = Some(0);
    let normal = norm(&mut b, "ln_1", x, width);
    let qkv = linear(&mut b, "c_attn", normal, [width, 3 * width]);
    let [q, k, v] = [0, 1, 2].map(|i| heads(&mut b, qkv, i, sizes));
    let scores = b.matmul("scores", q, k, false, true).unwrap();
    let scores = b.scale("scaled", scores, 0.7).unwrap();
    let masked = b.op("mask", Op::CausalMask, &[scores]).unwrap();
    let (scale, causal) = (Real(1.0), false);
    let probs = b.op("probs", Op::Softmax { scale, causal }, &[masked]);
    let mixed = b.matmul("mixed", probs.unwrap(), v, false, false).unwrap();
    let split = b.reshape("o.split", mixed, [batch, n, seq, head_size]);
    let turned = b.transpose("o.turned", split.unwrap(), &[0, 2, 1, 3]);
    let merged = b.reshape("o", turned.unwrap(), [batch * seq, width]);
    let out = linear(&mut b, "c_proj", merged.unwrap(), [width, width]);
    let x = b.add("residual", x, out).unwrap();
    let normal = norm(&mut b, "ln_2", x, width);
    let wide = linear(&mut b, "c_fc", normal, [width, inner]);
    let active = b.unary("gelu", UnaryOp::GeluTanh, wide).unwrap();
    let out = linear(&mut b, "fc_proj", active, [inner, width]);
    let x = b.add("out", x, out).unwrap();
    b.place.layer = None;
    let x = b.unary("squared", UnaryOp::Square, x).unwrap();
    let loss = b.reduce("loss", ReduceKind::Sum, 2, x).unwrap();
    b.output("loss", loss).unwrap();
    graph
}

fn divided(graph: &Graph, members: u32) -> Result<Graph, PassError> {
    let mut graph = graph.clone();
    TensorParallel { members }.run(&mut graph, &mut PassContext::new())?;
    verify_graph(&graph).unwrap();
    Ok(graph)
}

/// Which element of the whole a part's element is.
fn whole_index(name: &str, i: usize, ty: &TensorType, member: usize, members: usize) -> usize {
    let columns = *ty.shape.dims().last().unwrap();
    let (row, column) = (i / columns, i % columns);
    if name.contains("proj.weight") {
        return (member * ty.shape[0] + row) * columns + column;
    }
    let runs = if name.contains("c_attn") { 3 } else { 1 };
    let share = columns / runs;
    let (run, inside) = (column / share, column % share);
    row * columns * members + run * share * members + member * share + inside
}

/// A part's name without its number, and the number.
fn part(name: &str) -> Option<(&str, usize)> {
    let (whole, member) = name.rsplit_once('.')?;
    Some((whole, member.parse().ok()?))
}

/// States of the divided graph from those of the whole one.
fn states_of(
    graph: &Graph,
    whole: &BTreeMap<String, Tensor>,
    members: usize,
) -> BTreeMap<String, Tensor> {
    let states = graph.parameters().map(|(_, name, _, ty)| {
        let tensor = match part(name) {
            None => whole[name].clone(),
            Some((of, member)) => {
                let at = |i| whole[of].data[whole_index(of, i, ty, member, members)];
                let data = (0..ty.shape.elements()).map(at).collect();
                Tensor::new(ty.clone(), data).unwrap()
            }
        };
        (name.to_owned(), tensor)
    });
    states.collect()
}

#[test]
fn divided_layers_mean_the_same_forward_and_backward() {
    let mut random = Random::new(3);
    for members in [2, 3, 4, 2, 5] {
        let sizes = Sizes {
            batch: 1 + random.below(3),
            seq: 1 + random.below(5),
            heads: members * (1 + random.below(2)),
            head_size: 1 + random.below(4),
            inner: members * (1 + random.below(4)),
        };
        let options = plain_descent();
        let before = layer(sizes);
        let after = divided(&before, members as u32).unwrap();
        let [before, after] = [before, after].map(|graph| {
            let module = training_module(&graph, &options).unwrap();
            module.graph("micro_batch").unwrap().clone()
        });
        let (mut states, inputs) = random_environment(&before, 9);
        let mut parts = states_of(&after, &states, members);
        let want = run(&before, &mut states, &inputs).unwrap();
        let got = run(&after, &mut parts, &inputs).unwrap();
        assert!(
            close(want["loss"].data[0], got["loss"].data[0]),
            "{sizes:?}"
        );
        // Weights, and the gradients on their accumulators.
        for (name, want) in states_of(&after, &states, members) {
            let pairs = parts[&name].data.iter().zip(&want.data);
            for (i, (a, b)) in pairs.enumerate() {
                assert!(close(*a, *b), "{name}[{i}] of {sizes:?}: {a}, expected {b}");
            }
        }
    }
}

#[test]
fn columns_then_rows_and_one_sum() {
    let before = r#"graph @f {
  %x = input "x"  : f32[3, 4]
  %w = parameter "w" {weight}  : f32[4, 6]  @forward layer 0
  %b = parameter "b" {weight}  : f32[6]  @forward layer 0
  %v = parameter "v" {weight}  : f32[6, 4]  @forward layer 0
  %y = matmul %x, %w  : f32[3, 6]  @forward layer 0
  %z = add %y, %b  : f32[3, 6]  @forward layer 0
  %a = relu %z  : f32[3, 6]  @forward layer 0
  %o = matmul %a, %v  : f32[3, 4]  @forward layer 0
  output "o" %o
}
"#;
    let after = divided(&parse_graph(before).unwrap(), 2).unwrap();
    let expected = r#"graph @f {
  %x = input "x"  : f32[3, 4]
  %w.0 = parameter "w.0" {weight}  : f32[4, 3]  @forward layer 0 member 0
  %w.1 = parameter "w.1" {weight}  : f32[4, 3]  @forward layer 0 member 1
  %member.0.y = matmul %x, %w.0  : f32[3, 3]  @forward layer 0 member 0
  %member.1.y = matmul %x, %w.1  : f32[3, 3]  @forward layer 0 member 1
  %b.0 = parameter "b.0" {weight}  : f32[3]  @forward layer 0 member 0
  %b.1 = parameter "b.1" {weight}  : f32[3]  @forward layer 0 member 1
  %member.0.z = add %member.0.y, %b.0  : f32[3, 3]  @forward layer 0 member 0
  %member.1.z = add %member.1.y, %b.1  : f32[3, 3]  @forward layer 0 member 1
  %member.0.a = relu %member.0.z  : f32[3, 3]  @forward layer 0 member 0
  %member.1.a = relu %member.1.z  : f32[3, 3]  @forward layer 0 member 1
  %v.0 = parameter "v.0" {weight}  : f32[3, 4]  @forward layer 0 member 0
  %v.1 = parameter "v.1" {weight}  : f32[3, 4]  @forward layer 0 member 1
  %member.0.o = matmul %member.0.a, %v.0  : f32[3, 4]  @forward layer 0 member 0
  %member.1.o = matmul %member.1.a, %v.1  : f32[3, 4]  @forward layer 0 member 1
  %o.sum = add %member.0.o, %member.1.o  : f32[3, 4]  @forward layer 0
  output "o" %o.sum
}
"#;
    let expected = parse_graph(expected).unwrap();
    assert_eq!(print_graph(&after), print_graph(&expected));
    // Nothing is divided by one, or outside of layers.
    let whole = parse_graph(before).unwrap();
    assert_eq!(
        print_graph(&divided(&whole, 1).unwrap()),
        print_graph(&whole)
    );
    let outside = parse_graph(&before.replace("  @forward layer 0", "")).unwrap();
    assert_eq!(divided(&outside, 2).unwrap().len(), outside.len());
}

#[test]
fn every_part_drops_by_numbers_of_its_own() {
    let mut graph = Graph::new("f");
    let mut b = Builder::new(&mut graph);
    let x = b.input("x", TensorType::f32([3, 4])).unwrap();
    let seed = b.input("seed", TensorType::new(DType::U32, [2])).unwrap();
    b.place.layer = Some(0);
    let w = weight(&mut b, "w", &[4, 6]);
    let v = weight(&mut b, "v", &[6, 4]);
    let drop = |key| Op::Dropout { p: Real(0.5), key };
    let x = b.op("first", drop(0), &[x, seed]).unwrap();
    let y = b.matmul("y", x, w, false, false).unwrap();
    let y = b.op("parts", drop(3), &[y, seed]).unwrap();
    let y = b.matmul("z", y, v, false, false).unwrap();
    b.output("z", y).unwrap();
    let after = divided(&graph, 3).unwrap();
    let keys = after.ops().filter_map(|op| match after.op(op) {
        Op::Dropout { key, .. } => Some(*key),
        _ => None,
    });
    let mut keys: Vec<u32> = keys.collect();
    keys.sort_unstable();
    assert_eq!(keys, [0, 3, 7, 11]);
}

#[test]
fn what_cannot_be_divided_is_refused() {
    let sizes = Sizes {
        batch: 1,
        seq: 3,
        heads: 2,
        head_size: 4,
        inner: 8,
    };
    let reason = |graph: &Graph, members: u32| match divided(graph, members) {
        Err(PassError::Unsupported { op, reason }) => format!("{op}: {reason}"),
        outcome => panic!("{:?}", outcome.map(|g| print_graph(&g))),
    };
    // Columns, heads, hidden columns.
    assert!(reason(&layer(sizes), 3).starts_with("c_attn: 3 × 8 cannot be divided over 3"));
    let heads = reason(&layer(sizes), 4);
    assert!(
        heads.starts_with("split: [1, 3, 2, 4] cannot be divided over 4"),
        "{heads}"
    );
    let inner = Sizes { inner: 7, ..sizes };
    assert!(reason(&layer(inner), 2).starts_with("c_fc: 7 cannot be divided over 2"));
    // A sum over columns that lie in parts, and a reader outside of the layer.
    let mut graph = Graph::new("f");
    let mut b = Builder::new(&mut graph);
    let x = b.input("x", TensorType::f32([2, 4])).unwrap();
    b.place.layer = Some(0);
    let w = weight(&mut b, "w", &[4, 4]);
    let y = b.matmul("y", x, w, false, false).unwrap();
    let mut reduced = graph.clone();
    let mut b = Builder::new(&mut reduced);
    b.place.layer = Some(0);
    let sum = b.reduce("sum", ReduceKind::Sum, 2, y).unwrap();
    b.output("sum", sum).unwrap();
    assert!(reason(&reduced, 2).starts_with("sum: it cannot work on parts"));
    let mut b = Builder::new(&mut graph);
    let twice = b.binary("twice", BinaryOp::Mul, y, x).unwrap();
    b.output("twice", twice).unwrap();
    assert!(reason(&graph, 2).starts_with("twice: its operands lie in different parts"));
}
