//! What a gradient rule sees of the walk: its forward op, a way to emit ops, and a way to give contributions.

use std::collections::BTreeSet;

use superstep_ir::graph::{Graph, Node, Place, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::{BinaryOp, Op, ReduceKind, UnaryOp};
use superstep_ir::types::{Real, Shape, TensorType};

use super::contribution::Contribution;
use super::{DifferentiateError, backward};

type Built = Result<Value, DifferentiateError>;

/// One forward op being differentiated.
pub(super) struct Step<'g> {
    graph: &'g mut Graph,
    id: OpId,
    /// A copy of the forward node, so that rules can read it while they emit.
    node: Node,
    place: Place,
    active: &'g BTreeSet<Value>,
    given: Vec<(Value, Contribution)>,
}

impl<'g> Step<'g> {
    pub(super) fn new(graph: &'g mut Graph, id: OpId, active: &'g BTreeSet<Value>) -> Step<'g> {
        let node = graph.node(id).clone();
        let place = backward(node.place);
        Step {
            graph,
            id,
            node,
            place,
            active,
            given: Vec::new(),
        }
    }

    pub(super) fn into_given(self) -> Vec<(Value, Contribution)> {
        self.given
    }

    pub(super) fn op(&self) -> &Op {
        &self.node.op
    }

    /// The place of the backward ops of this step.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn operand(&self, i: usize) -> Value {
        self.node.operands()[i]
    }

    pub(super) fn operand_count(&self) -> usize {
        self.node.operands().len()
    }

    pub(super) fn result(&self, i: u32) -> Value {
        Value {
            op: self.id,
            result: i,
        }
    }

    pub(super) fn ty(&self, value: Value) -> &TensorType {
        self.graph.ty(value)
    }

    /// The shape of an operand.
    pub(super) fn shape(&self, i: usize) -> Shape {
        self.ty(self.operand(i)).shape.clone()
    }

    /// True when the gradient of operand `i` is needed.
    pub(super) fn wants(&self, i: usize) -> bool {
        self.active.contains(&self.operand(i))
    }

    /// True when result 0 has readers and all of them satisfy `test`.
    pub(super) fn all_readers(&self, test: impl Fn(&Op) -> bool) -> bool {
        let uses = self.graph.uses(self.result(0));
        !uses.is_empty() && uses.iter().all(|u| test(self.graph.op(u.op)))
    }

    /// Gives operand `i` a contribution to its gradient.
    pub(super) fn give(&mut self, i: usize, g: Value) {
        self.give_as(i, Contribution::Whole(g));
    }

    pub(super) fn give_as(&mut self, i: usize, contribution: Contribution) {
        self.given.push((self.operand(i), contribution));
    }

    pub(super) fn fail<T>(&self, why: &'static str) -> Result<T, DifferentiateError> {
        Err(DifferentiateError::NotDifferentiable {
            op: self.node.op.name(),
            name: self.node.name.clone(),
            why,
        })
    }

    /// The name of a backward op of this step.
    pub(super) fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.node.name)
    }

    /// Emits any op and returns its first result.
    pub(super) fn emit(&mut self, what: &str, op: Op, operands: &[Value]) -> Built {
        let id = self
            .graph
            .insert(op, operands, self.name(what), self.place)?;
        Ok(self.graph.value(id))
    }

    pub(super) fn unary(&mut self, what: &str, op: UnaryOp, x: Value) -> Built {
        self.emit(what, Op::Unary(op), &[x])
    }

    pub(super) fn binary(&mut self, what: &str, op: BinaryOp, a: Value, b: Value) -> Built {
        self.emit(what, Op::Binary(op), &[a, b])
    }

    pub(super) fn mul(&mut self, what: &str, a: Value, b: Value) -> Built {
        self.binary(what, BinaryOp::Mul, a, b)
    }

    /// `x · factor`
    pub(super) fn scale(&mut self, what: &str, x: Value, factor: f64) -> Built {
        let ty = TensorType::new(self.ty(x).dtype, Shape::scalar());
        let value = Real(factor);
        let factor = self.emit(&format!("{what}.factor"), Op::Constant { value, ty }, &[])?;
        self.mul(what, x, factor)
    }

    /// Sums `g` over the leading axes that its operand of shape `shape` was broadcast along.
    pub(super) fn unbroadcast(&mut self, what: &str, g: Value, shape: &Shape) -> Built {
        let leading = self.ty(g).shape.rank() - shape.rank();
        if leading == 0 {
            return Ok(g);
        }
        let kind = ReduceKind::Sum;
        self.emit(
            &format!("{what}.sum"),
            Op::Reduce {
                kind,
                leading,
                out: None,
            },
            &[g],
        )
    }
}
