//! The language of the e-graph: ops as terms whose attributes are terms too.
//!
//! `softmax {scale: 0.125, causal: true} %x` is the term `(softmax 0.125 true ?x)`: attributes first, then operands. So a rule
//! can bind an attribute as it binds an operand. Ops that no rule looks into are opaque: equal or not, and nothing more.

use std::fmt;

use egg::{FromOp, FromOpError, Id, Language};
use smallvec::SmallVec;
use superstep_ir::op::{BinaryOp, Op, ReduceKind, UnaryOp};
use superstep_ir::types::{Real, Shape, TensorType};

/// An attribute of an op.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Attr {
    Flag(bool),
    Number(Real),
    /// An axis, a position on it, or a number of entries or axes.
    Count(usize),
    Axes(SmallVec<[usize; 4]>),
    Shape(Shape),
    Type(TensorType),
}

/// What a term is, but for its children.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Head {
    Attr(Attr),
    /// An op by mnemonic; its attributes are its first children.
    Op(&'static str),
    /// An op that no rule looks into, by its position in [`Meaning::ops`](super::analysis::Meaning::ops).
    Opaque(u32),
    /// A value from outside, by its position in [`Meaning::leaves`](super::analysis::Meaning::leaves).
    Leaf(u32),
    /// A result of an op that has several.
    Result(u32),
}

/// A node of the e-graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Term {
    pub(super) head: Head,
    pub(super) children: SmallVec<[Id; 4]>,
}

impl Term {
    pub(super) fn new(head: Head, children: &[Id]) -> Term {
        Term {
            head,
            children: SmallVec::from_slice(children),
        }
    }

    pub(super) fn attr(attr: Attr) -> Term {
        Term::new(Head::Attr(attr), &[])
    }
}

impl Language for Term {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head.clone()
    }

    fn matches(&self, other: &Term) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.head {
            Head::Attr(Attr::Flag(flag)) => write!(f, "{flag}"),
            Head::Attr(Attr::Number(number)) => write!(f, "{number}"),
            Head::Attr(Attr::Count(count)) => write!(f, "{count}"),
            Head::Attr(attr) => write!(f, "{attr:?}"),
            Head::Op(name) => f.write_str(name),
            head => write!(f, "{head:?}"),
        }
    }
}

/// Parses what rules are written in: mnemonics, `true`, `2` (a count), `0.5` (a number).
impl FromOp for Term {
    type Error = FromOpError;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Term, FromOpError> {
        if let Some(name) = mnemonics().find(|&name| name == op) {
            return Ok(Term::new(Head::Op(name), &children));
        }
        let attr = match op {
            "true" => Some(Attr::Flag(true)),
            "false" => Some(Attr::Flag(false)),
            _ => {
                let count = op.parse().ok().map(Attr::Count);
                count.or_else(|| op.parse().ok().map(|n| Attr::Number(Real(n))))
            }
        };
        match attr {
            Some(attr) if children.is_empty() => Ok(Term::attr(attr)),
            _ => Err(FromOpError::new(op, children)),
        }
    }
}

/// Mnemonics of the ops that rules may look into, apart from the elementwise ones.
const STRUCTURED: [&str; 13] = [
    "constant",
    "matmul",
    "softmax",
    "softmax_grad",
    "causal_mask",
    "reduce_sum",
    "reduce_sum_squares",
    "reduce_max",
    "reshape",
    "transpose",
    "slice",
    "concat",
    "broadcast",
];

pub(super) fn mnemonics() -> impl Iterator<Item = &'static str> {
    let unary = UnaryOp::ALL.into_iter().map(UnaryOp::name);
    let binary = BinaryOp::ALL.into_iter().map(BinaryOp::name);
    STRUCTURED.into_iter().chain(unary).chain(binary)
}

/// The attributes of an op as its term lists them, or `None` for an op that is opaque.
pub(super) fn attributes(op: &Op) -> Option<SmallVec<[Attr; 3]>> {
    let attrs: &[Attr] = match op {
        Op::Constant { value, ty } => &[Attr::Number(*value), Attr::Type(ty.clone())],
        Op::Matmul {
            transpose_a,
            transpose_b,
            out: None,
        } => &[Attr::Flag(*transpose_a), Attr::Flag(*transpose_b)],
        Op::Unary(_) | Op::Binary(_) | Op::CausalMask => &[],
        Op::Softmax { scale, causal } => &[Attr::Number(*scale), Attr::Flag(*causal)],
        Op::SoftmaxGrad { scale } => &[Attr::Number(*scale)],
        Op::Reduce {
            leading, out: None, ..
        } => &[Attr::Count(*leading)],
        Op::Reshape { shape } | Op::Broadcast { shape } => &[Attr::Shape(shape.clone())],
        Op::Transpose { perm } => &[Attr::Axes(perm.clone())],
        Op::Slice { axis, start, len } => {
            &[Attr::Count(*axis), Attr::Count(*start), Attr::Count(*len)]
        }
        Op::Concat { axis } => &[Attr::Count(*axis)],
        _ => return None,
    };
    Some(attrs.iter().cloned().collect())
}

/// Number of attributes in terms of a mnemonic.
pub(super) fn attribute_count(name: &str) -> usize {
    match name {
        "slice" => 3,
        "constant" | "matmul" | "softmax" => 2,
        "softmax_grad" | "reduce_sum" | "reduce_sum_squares" | "reduce_max" | "reshape"
        | "broadcast" | "transpose" | "concat" => 1,
        _ => 0,
    }
}

/// The op of a term, from its mnemonic and attributes; the inverse of [`attributes`].
pub(super) fn op_of(name: &str, attrs: &[&Attr]) -> Option<Op> {
    let reduce = |kind, leading: &usize| Op::Reduce {
        kind,
        leading: *leading,
        out: None,
    };
    Some(match (name, attrs) {
        ("constant", [Attr::Number(value), Attr::Type(ty)]) => Op::Constant {
            value: *value,
            ty: ty.clone(),
        },
        ("matmul", [Attr::Flag(a), Attr::Flag(b)]) => Op::Matmul {
            transpose_a: *a,
            transpose_b: *b,
            out: None,
        },
        ("softmax", [Attr::Number(scale), Attr::Flag(causal)]) => Op::Softmax {
            scale: *scale,
            causal: *causal,
        },
        ("softmax_grad", [Attr::Number(scale)]) => Op::SoftmaxGrad { scale: *scale },
        ("causal_mask", []) => Op::CausalMask,
        ("reduce_sum", [Attr::Count(n)]) => reduce(ReduceKind::Sum, n),
        ("reduce_sum_squares", [Attr::Count(n)]) => reduce(ReduceKind::SumSquares, n),
        ("reduce_max", [Attr::Count(n)]) => reduce(ReduceKind::Max, n),
        ("reshape", [Attr::Shape(shape)]) => Op::Reshape {
            shape: shape.clone(),
        },
        ("broadcast", [Attr::Shape(shape)]) => Op::Broadcast {
            shape: shape.clone(),
        },
        ("transpose", [Attr::Axes(perm)]) => Op::Transpose { perm: perm.clone() },
        ("slice", [Attr::Count(axis), Attr::Count(start), Attr::Count(len)]) => Op::Slice {
            axis: *axis,
            start: *start,
            len: *len,
        },
        ("concat", [Attr::Count(axis)]) => Op::Concat { axis: *axis },
        (name, []) => {
            let unary = UnaryOp::ALL.into_iter().find(|u| u.name() == name);
            let binary = BinaryOp::ALL.into_iter().find(|b| b.name() == name);
            unary.map(Op::Unary).or(binary.map(Op::Binary))?
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_round_trip_through_their_attributes() {
        let shape = Shape::new(&[2, 3]);
        let ops = [
            Op::Constant {
                value: Real(0.5),
                ty: TensorType::f32([3]),
            },
            Op::Matmul {
                transpose_a: true,
                transpose_b: false,
                out: None,
            },
            Op::Softmax {
                scale: Real(2.0),
                causal: true,
            },
            Op::SoftmaxGrad { scale: Real(3.0) },
            Op::CausalMask,
            Op::Reduce {
                kind: ReduceKind::SumSquares,
                leading: 1,
                out: None,
            },
            Op::Reshape {
                shape: shape.clone(),
            },
            Op::Broadcast { shape },
            Op::Transpose {
                perm: SmallVec::from_slice(&[1, 0]),
            },
            Op::Slice {
                axis: 1,
                start: 2,
                len: 3,
            },
            Op::Concat { axis: 1 },
            Op::Unary(UnaryOp::Tanh),
            Op::Binary(BinaryOp::GeluErfGrad),
        ];
        for op in ops {
            let attrs = attributes(&op).unwrap();
            assert_eq!(attrs.len(), attribute_count(op.name()));
            let attrs: Vec<&Attr> = attrs.iter().collect();
            assert_eq!(op_of(op.name(), &attrs), Some(op.clone()));
            assert!(mnemonics().any(|name| name == op.name()));
        }
        assert_eq!(attributes(&Op::Gather { first: None }), None);
    }
}
