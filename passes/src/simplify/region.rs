//! A part of the graph as an e-graph.
//!
//! Results of ops outside, parameters and inputs are leaves; an op with several results is one class, its results are others.
//! Constants are read wherever they stand.

use egg::{Id, Language, Rewrite};
use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxHashSet;
use superstep_ir::graph::{Graph, Use, Value};
use superstep_ir::ids::{IpuId, OpId};
use superstep_ir::op::Op;

use super::analysis::{Classes, Meaning};
use super::language::{Head, Term, attributes};

/// Larger regions are cut in topological order.
const OPS_MAX: usize = 500;

/// An IPU, a layer, and a member of the group of IPUs over which it is divided.
type Whereabouts = (Option<IpuId>, Option<u32>, Option<u32>);

/// The ops of each layer on each IPU, and each member of a group, that rules may rewrite, in topological order.
pub(super) fn cut(graph: &Graph) -> Vec<Vec<OpId>> {
    let mut regions: IndexMap<Whereabouts, Vec<OpId>> = IndexMap::new();
    for op in graph.topological() {
        let node = graph.node(op);
        if !node.op.has_effect() && !is_source(&node.op) {
            let key = (node.place.ipu, node.place.layer, node.place.member);
            regions.entry(key).or_default().push(op);
        }
    }
    regions
        .values()
        .flat_map(|ops| ops.chunks(OPS_MAX).map(<[OpId]>::to_vec))
        .collect()
}

fn is_source(op: &Op) -> bool {
    matches!(
        op,
        Op::Constant { .. } | Op::Parameter { .. } | Op::Input { .. }
    )
}

/// An op and its term.
pub(super) struct Loaded {
    pub(super) op: OpId,
    pub(super) class: Id,
    /// As it was when loaded; see [`Region::term`].
    term: Term,
}

/// An e-graph and what it stands for.
pub(super) struct Region {
    pub(super) classes: Classes,
    /// Values from outside, by leaf.
    pub(super) leaves: IndexSet<Value>,
    /// Every op loaded, operands first.
    pub(super) ops: Vec<Loaded>,
    /// The class of every value of those ops and of every leaf.
    pub(super) values: IndexMap<Value, Id>,
    /// The values of constants; they belong to no region.
    pub(super) constants: FxHashSet<Value>,
    /// Values read outside.
    pub(super) roots: Vec<Value>,
}

impl Region {
    pub(super) fn load(graph: &Graph, ops: &[OpId]) -> Region {
        let inside: FxHashSet<OpId> = ops.iter().copied().collect();
        let mut region = Region {
            classes: Classes::new(Meaning::default()),
            leaves: IndexSet::new(),
            ops: Vec::new(),
            values: IndexMap::new(),
            constants: FxHashSet::default(),
            roots: Vec::new(),
        };
        for &op in ops {
            region.op(graph, op);
            for result in 0..graph.node(op).results().len() as u32 {
                let value = Value { op, result };
                let read_outside = |u: &Use| !inside.contains(&u.op);
                if graph.uses(value).iter().any(read_outside) {
                    region.roots.push(value);
                }
            }
        }
        region.classes.rebuild();
        region
    }

    fn op(&mut self, graph: &Graph, op: OpId) {
        let node = graph.node(op);
        let mut children = Vec::new();
        let head = match attributes(&node.op) {
            Some(attrs) => {
                let ids = attrs.into_iter().map(|a| self.classes.add(Term::attr(a)));
                children.extend(ids);
                Head::Op(node.op.name())
            }
            None => {
                let ops = &mut self.classes.analysis.ops;
                Head::Opaque(ops.insert_full(node.op.clone()).0 as u32)
            }
        };
        for &v in node.operands() {
            let child = self.value(graph, v);
            children.push(child);
        }
        let term = Term::new(head, &children);
        let class = self.classes.add(term.clone());
        self.ops.push(Loaded { op, class, term });
        if node.results().len() == 1 {
            self.values.insert(graph.value(op), class);
            return;
        }
        for result in 0..node.results().len() as u32 {
            let id = self.classes.add(Term::new(Head::Result(result), &[class]));
            self.values.insert(Value { op, result }, id);
        }
    }

    fn value(&mut self, graph: &Graph, value: Value) -> Id {
        if let Some(&id) = self.values.get(&value) {
            return id;
        }
        if matches!(graph.op(value.op), Op::Constant { .. }) {
            self.op(graph, value.op);
            self.constants.insert(value);
            return self.values[&value];
        }
        let leaf = self.leaves.insert_full(value).0 as u32;
        self.classes.analysis.leaves.push(graph.ty(value).clone());
        let id = self.classes.add(Term::new(Head::Leaf(leaf), &[]));
        self.values.insert(value, id);
        id
    }

    pub(super) fn saturate(
        self,
        rewrites: &[Rewrite<Term, Meaning>],
    ) -> (Region, Vec<(String, usize)>) {
        let (classes, fired) = super::saturate(self.classes, rewrites);
        (Region { classes, ..self }, fired)
    }

    pub(super) fn find(&self, value: Value) -> Id {
        self.classes.find(self.values[&value])
    }

    /// The term of an op, as the e-graph names its children now.
    pub(super) fn term(&self, loaded: &Loaded) -> Term {
        loaded.term.clone().map_children(|c| self.classes.find(c))
    }
}
