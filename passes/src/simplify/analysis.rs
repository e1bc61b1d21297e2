//! What the e-graph knows of each class: the types of its results, or the attribute it is.

use egg::{Analysis, DidMerge, EGraph, Id};
use indexmap::IndexSet;
use smallvec::SmallVec;
use superstep_ir::op::Op;
use superstep_ir::op::infer::infer;
use superstep_ir::types::TensorType;

use super::language::{Attr, Head, Term, attribute_count, op_of};

/// The knowledge about one class. Rules never join classes of different facts: a rewrite whose result has another type than
/// what it replaces is not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Attr(Attr),
    Results(SmallVec<[TensorType; 1]>),
    IllTyped,
}

impl Fact {
    pub(super) fn attr(&self) -> Option<&Attr> {
        match self {
            Fact::Attr(attr) => Some(attr),
            _ => None,
        }
    }

    /// The type of a value: of the only result of a term.
    pub(super) fn ty(&self) -> Option<&TensorType> {
        match self {
            Fact::Results(types) if types.len() == 1 => types.first(),
            _ => None,
        }
    }
}

/// Tables that terms refer to by position.
#[derive(Clone, Debug, Default)]
pub(super) struct Meaning {
    /// Ops that no rule looks into.
    pub(super) ops: IndexSet<Op>,
    /// Types of the values from outside.
    pub(super) leaves: Vec<TensorType>,
}

pub(super) type Classes = EGraph<Term, Meaning>;

impl Meaning {
    /// The op of a head, given the facts of its children, and how many of those are attributes.
    pub(super) fn op(&self, head: &Head, children: &[&Fact]) -> Option<(Op, usize)> {
        match head {
            Head::Op(name) => {
                let count = attribute_count(name);
                let attrs: Option<Vec<&Attr>> =
                    children.get(..count)?.iter().map(|f| f.attr()).collect();
                Some((op_of(name, &attrs?)?, count))
            }
            Head::Opaque(op) => Some((self.ops.get_index(*op as usize)?.clone(), 0)),
            _ => None,
        }
    }

    /// The fact about a term with such a head and such children.
    pub(super) fn fact(&self, head: &Head, children: &[&Fact]) -> Fact {
        let types = match head {
            Head::Attr(attr) => return Fact::Attr(attr.clone()),
            Head::Leaf(leaf) => self.leaves.get(*leaf as usize).map(|ty| vec![ty.clone()]),
            Head::Result(i) => match children {
                [Fact::Results(types)] => types.get(*i as usize).map(|ty| vec![ty.clone()]),
                _ => None,
            },
            Head::Op(_) | Head::Opaque(_) => self.op(head, children).and_then(|(op, attrs)| {
                let operands: Option<Vec<&TensorType>> =
                    children[attrs..].iter().map(|f| f.ty()).collect();
                infer(&op, &operands?).ok()
            }),
        };
        types.map_or(Fact::IllTyped, |types| {
            Fact::Results(SmallVec::from_vec(types))
        })
    }
}

impl Analysis<Term> for Meaning {
    type Data = Fact;

    fn make(classes: &mut Classes, term: &Term, _id: Id) -> Fact {
        let children: Vec<&Fact> = term.children.iter().map(|&c| &classes[c].data).collect();
        classes.analysis.fact(&term.head, &children)
    }

    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        debug_assert_eq!(*a, b, "classes of different facts are joined");
        DidMerge(false, false)
    }
}
