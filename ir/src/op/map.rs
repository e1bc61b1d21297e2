//! Elementwise expressions: several elementwise ops that one vertex evaluates in one sweep.

use serde::{Deserialize, Serialize};

use super::{BinaryOp, UnaryOp};
use crate::types::{DType, Real};

/// A node of a [`MapExpr`]; indices refer to earlier nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MapNode {
    /// Element of operand `i`.
    Operand(u32),
    Constant(Real),
    Unary(UnaryOp, u32),
    Binary(BinaryOp, u32, u32),
}

/// An expression over `operands` elementwise operands in topological order, with one or more outputs (node indices).
/// Operands are widened to f32, every node is computed in f32, as a vertex that keeps it in a register would, and what is stored is
/// rounded to its element type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MapExpr {
    pub operands: u32,
    pub nodes: Vec<MapNode>,
    pub outputs: Vec<u32>,
    /// Element types of the results of an [`Op::Map`](super::Op::Map), one an output, operands of any float type; none: all operands
    /// have one type and the results have it too. A codelet goes by its variables alone and ignores this.
    pub types: Vec<DType>,
}

impl MapExpr {
    /// The expression of one unary op.
    pub fn unary(op: UnaryOp) -> MapExpr {
        MapExpr {
            operands: 1,
            nodes: vec![MapNode::Operand(0), MapNode::Unary(op, 0)],
            outputs: vec![1],
            types: vec![],
        }
    }

    /// The expression of one binary op.
    pub fn binary(op: BinaryOp) -> MapExpr {
        MapExpr {
            operands: 2,
            nodes: vec![
                MapNode::Operand(0),
                MapNode::Operand(1),
                MapNode::Binary(op, 0, 1),
            ],
            outputs: vec![2],
            types: vec![],
        }
    }

    /// True when every index refers to an earlier node or an existing operand and there is at least one output, with types for all outputs or for none.
    pub fn is_well_formed(&self) -> bool {
        let earlier = |i: usize, a: u32| (a as usize) < i;
        self.nodes.iter().enumerate().all(|(i, n)| match *n {
            MapNode::Operand(o) => o < self.operands,
            MapNode::Constant(_) => true,
            MapNode::Unary(_, a) => earlier(i, a),
            MapNode::Binary(_, a, b) => earlier(i, a) && earlier(i, b),
        }) && !self.outputs.is_empty()
            && (self.types.is_empty() || self.types.len() == self.outputs.len())
            && self
                .outputs
                .iter()
                .all(|&o| (o as usize) < self.nodes.len())
    }
}
