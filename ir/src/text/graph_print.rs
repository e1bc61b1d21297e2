//! Graphs to text; what the columns are is told in the module above.

use super::columns::align;
use super::lexer::{is_word, quote};
use super::map_expr;
use super::names::{ValueNames, default_name};
use crate::graph::{Graph, Module, Place, Value};
use crate::ids::OpId;
use crate::op::Op;
use crate::types::Real;

/// Left columns longer than this do not push the type column of all other lines to the right.
const LEFT_COLUMN_MAX: usize = 96;
const TYPE_COLUMN_MAX: usize = 40;

/// The text of a module: its graphs, an empty line between them.
pub fn print_module(module: &Module) -> String {
    let graphs: Vec<String> = module.graphs.iter().map(print_graph).collect();
    graphs.join("\n")
}

/// The text of a graph, one op a line.
pub fn print_graph(graph: &Graph) -> String {
    let names = ValueNames::of(graph);
    let rows: Vec<Vec<String>> = graph
        .topological()
        .into_iter()
        .map(|op| row(graph, op, &names))
        .collect();
    let lines = align("  ", &rows, &[LEFT_COLUMN_MAX, TYPE_COLUMN_MAX]);
    format!("graph @{} {{\n{lines}}}\n", graph_name(&graph.name))
}

/// One op as its line in the text, for messages. `names` are those of `graph`.
pub fn print_op(graph: &Graph, op: OpId, names: &ValueNames) -> String {
    let mut row = row(graph, op, names);
    row.retain(|column| !column.is_empty());
    row.join("  ")
}

pub(super) fn graph_name(name: &str) -> String {
    if is_word(name) {
        name.to_string()
    } else {
        quote(name)
    }
}

/// The three columns of an op: what it is, its types, its name and place.
fn row(graph: &Graph, op: OpId, names: &ValueNames) -> Vec<String> {
    let node = graph.node(op);
    let value = |result: usize| {
        names.get(Value {
            op,
            result: result as u32,
        })
    };
    let results: Vec<String> = (0..node.results().len())
        .map(|i| format!("%{}", value(i)))
        .collect();
    let mut left = match results.as_slice() {
        [] => String::new(),
        some => format!("{} = ", some.join(", ")),
    };
    left.push_str(node.op.name());
    let operands: Vec<String> = node
        .operands()
        .iter()
        .map(|&v| format!("%{}", names.get(v)))
        .collect();
    for part in [subject(&node.op), operands.join(", "), attributes(&node.op)] {
        if !part.is_empty() {
            left.push(' ');
            left.push_str(&part);
        }
    }
    let types: Vec<String> = node.results().iter().map(ToString::to_string).collect();
    let types = match types.as_slice() {
        [] => String::new(),
        some => format!(": {}", some.join(", ")),
    };
    let mut tail = Vec::new();
    let first_value = if results.is_empty() { "" } else { value(0) };
    if node.name != default_name(&node.op, first_value) {
        tail.push(quote(&node.name));
    }
    if node.place != Place::default() {
        tail.push(place(&node.place));
    }
    vec![left, types, tail.join("  ")]
}

/// What stands between mnemonic and operands: the state, the stream, the value.
fn subject(op: &Op) -> String {
    match op {
        Op::Parameter { state, .. } | Op::Assign { state } => quote(state),
        Op::Input { stream, .. } | Op::Output { stream } => quote(stream),
        Op::Constant { value, .. } => real(*value),
        _ => String::new(),
    }
}

/// The attributes of an op in braces; what the type column tells is left out.
fn attributes(op: &Op) -> String {
    let mut list: Vec<String> = Vec::new();
    match op {
        Op::Parameter { kind, remote, .. } => {
            list.push(kind.name().into());
            list.extend(remote.then(|| "remote".into()));
        }
        Op::Matmul {
            transpose_a,
            transpose_b,
            out,
        } => {
            list.extend(transpose_a.then(|| "transpose_a".into()));
            list.extend(transpose_b.then(|| "transpose_b".into()));
            list.extend(out.map(|out| format!("out: {out}")));
        }
        Op::Map(expr) => list.push(map_expr::print(expr)),
        Op::Dropout { p, key } => {
            list.push(format!("p: {}", real(*p)));
            list.push(format!("key: {key}"));
        }
        Op::LayerNorm { epsilon } => list.push(format!("epsilon: {}", real(*epsilon))),
        Op::Softmax { scale, causal } => {
            list.extend(scaled(*scale));
            list.extend(causal.then(|| "causal".into()));
        }
        Op::SoftmaxGrad { scale } => list.extend(scaled(*scale)),
        Op::CrossEntropy { padding } => list.extend(counted("padding", *padding)),
        Op::CrossEntropyGrad { first, padding } => {
            list.extend(counted("first", *first));
            list.extend(counted("padding", *padding));
        }
        Op::Gather { first } | Op::ScatterAdd { first } => {
            list.extend(first.map(|first| format!("first: {first}")));
        }
        Op::Reduce { leading, out, .. } => {
            list.push(format!("leading: {leading}"));
            list.extend(out.map(|out| format!("out: {out}")));
        }
        Op::Transpose { perm } => list.push(format!("perm: {perm:?}")),
        Op::Slice { axis, start, len } => {
            list.push(format!("axis: {axis}, start: {start}, len: {len}"));
        }
        Op::Concat { axis } => list.push(format!("axis: {axis}")),
        Op::AllGather { replicas } => list.push(format!("replicas: {replicas}")),
        _ => {}
    }
    if list.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", list.join(", "))
    }
}

/// An attribute that is 0 where nothing is said.
pub(super) fn counted(key: &str, count: usize) -> Option<String> {
    (count > 0).then(|| format!("{key}: {count}"))
}

fn scaled(scale: Real) -> Option<String> {
    (scale != Real(1.0)).then(|| format!("scale: {}", real(scale)))
}

/// A number that parses back to the same bits; a NaN that is not the usual one shows them.
pub(super) fn real(value: Real) -> String {
    if value.0.is_nan() && value != Real(f64::NAN) {
        format!("bits \"{:016x}\"", value.0.to_bits())
    } else {
        value.to_string()
    }
}

fn place(place: &Place) -> String {
    let mut parts = Vec::new();
    parts.extend(place.ipu.map(|ipu| ipu.to_string()));
    parts.extend(place.stage.map(|stage| stage.to_string()));
    parts.push(place.phase.to_string());
    parts.extend(place.layer.map(|layer| format!("layer {layer}")));
    parts.extend(place.member.map(|member| format!("member {member}")));
    format!("@{}", parts.join(" "))
}
