//! Names of values in the text: unique, readable, the same on every printing.

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::lexer::is_word_character;
use crate::graph::{Graph, Value};
use crate::ids::OpId;
use crate::op::Op;

/// Hands out identifiers derived from names, each at most once.
#[derive(Default)]
pub(super) struct Identifiers {
    taken: FxHashSet<String>,
    /// The last number put behind a name, so that a thousand equal names do not search a thousand times.
    numbered: FxHashMap<String, u32>,
}

impl Identifiers {
    /// `name` as identifiers, one a suffix, all with the same number behind the name if it is taken.
    pub(super) fn claim(&mut self, name: &str, suffixes: &[&str]) -> SmallVec<[String; 1]> {
        let base = identifier(name);
        let mut stem = base.clone();
        loop {
            let names: SmallVec<[String; 1]> =
                suffixes.iter().map(|s| format!("{stem}{s}")).collect();
            if !names.iter().any(|n| self.taken.contains(n)) {
                self.taken.extend(names.iter().cloned());
                return names;
            }
            let number = self.numbered.entry(base.clone()).or_insert(1);
            *number += 1;
            stem = format!("{base}_{number}");
        }
    }
}

/// `name` with everything that an identifier cannot hold replaced by `_`.
fn identifier(name: &str) -> String {
    name.chars()
        .map(|c| if is_word_character(c) { c } else { '_' })
        .collect()
}

/// The name of every value of a graph, as the text prints it behind `%`.
pub struct ValueNames {
    names: FxHashMap<OpId, SmallVec<[String; 1]>>,
}

impl ValueNames {
    /// Names all values, in canonical order.
    pub fn of(graph: &Graph) -> ValueNames {
        let mut identifiers = Identifiers::default();
        let mut names = FxHashMap::default();
        for op in graph.topological() {
            let node = graph.node(op);
            if node.results().is_empty() {
                continue;
            }
            let stem = match node.name.as_str() {
                "" => node.op.name(),
                name => name,
            };
            let suffixes: Vec<String> = (0..node.results().len())
                .map(|i| result_suffix(&node.op, i))
                .collect();
            let suffixes: Vec<&str> = suffixes.iter().map(String::as_str).collect();
            names.insert(op, identifiers.claim(stem, &suffixes));
        }
        ValueNames { names }
    }

    /// The name of a value, without `%`; `?` for what is no value of the graph.
    pub fn get(&self, value: Value) -> &str {
        self.names
            .get(&value.op)
            .and_then(|names| names.get(value.result as usize))
            .map_or("?", String::as_str)
    }
}

/// What follows the op's name in the name of its `result`-th value.
fn result_suffix(op: &Op, result: usize) -> String {
    match (op, result) {
        (_, 0) => String::new(),
        (Op::LayerNorm { .. }, 1) => ".mean".into(),
        (Op::LayerNorm { .. }, 2) => ".rstd".into(),
        (Op::LayerNormParamGrad, 1) => ".shift".into(),
        (Op::CrossEntropy { .. }, 1) => ".logsumexp".into(),
        _ => format!(".{result}"),
    }
}

/// The name an op has when the text gives none: that of its state or stream, else that of its first value.
pub(super) fn default_name(op: &Op, first_value: &str) -> String {
    match op {
        Op::Parameter { state, .. } => state.clone(),
        Op::Input { stream, .. } => stream.clone(),
        Op::Assign { state } => format!("{state}.assign"),
        Op::Output { stream } => format!("{stream}.output"),
        _ => first_value.to_string(),
    }
}
