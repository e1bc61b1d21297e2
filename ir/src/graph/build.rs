//! A builder with one method an op and scoped names, for front ends, passes and tests.

use smallvec::SmallVec;

use super::{Graph, Place, Value};
use crate::op::infer::TypeError;
use crate::op::{BinaryOp, Op, ReduceKind, StateKind, UnaryOp};
use crate::types::{Real, Shape, TensorType};

/// Inserts ops at one place; names are prefixed with the current scope.
pub struct Builder<'g> {
    pub graph: &'g mut Graph,
    pub place: Place,
    scope: String,
}

type Built = Result<Value, TypeError>;

impl<'g> Builder<'g> {
    pub fn new(graph: &'g mut Graph) -> Builder<'g> {
        Builder {
            graph,
            place: Place::default(),
            scope: String::new(),
        }
    }

    /// Everything built from here on is named `scope.…`; an empty scope means bare names.
    pub fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    fn full_name(&self, name: &str) -> String {
        if self.scope.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.scope)
        }
    }

    /// Inserts any op and returns its first result.
    pub fn op(&mut self, name: &str, op: Op, operands: &[Value]) -> Built {
        let name = self.full_name(name);
        let id = self.graph.insert(op, operands, name, self.place)?;
        Ok(self.graph.value(id))
    }

    /// Inserts an op with several results.
    pub fn results(
        &mut self,
        name: &str,
        op: Op,
        operands: &[Value],
    ) -> Result<SmallVec<[Value; 4]>, TypeError> {
        let v = self.op(name, op, operands)?;
        let n = self.graph.node(v.op).results().len() as u32;
        Ok((0..n).map(|result| Value { op: v.op, result }).collect())
    }

    /// State is named by itself, outside the scope.
    pub fn parameter(&mut self, state: &str, kind: StateKind, ty: TensorType) -> Built {
        let op = Op::Parameter {
            state: state.into(),
            kind,
            ty,
            remote: false,
        };
        let id = self.graph.insert(op, &[], state, self.place)?;
        Ok(self.graph.value(id))
    }

    pub fn assign(&mut self, state: &str, value: Value) -> Result<(), TypeError> {
        self.graph.insert(
            Op::Assign {
                state: state.into(),
            },
            &[value],
            format!("{state}.assign"),
            self.place,
        )?;
        Ok(())
    }

    pub fn input(&mut self, stream: &str, ty: TensorType) -> Built {
        let id = self.graph.insert(
            Op::Input {
                stream: stream.into(),
                ty,
            },
            &[],
            stream,
            self.place,
        )?;
        Ok(self.graph.value(id))
    }

    pub fn output(&mut self, stream: &str, value: Value) -> Result<(), TypeError> {
        self.graph.insert(
            Op::Output {
                stream: stream.into(),
            },
            &[value],
            format!("{stream}.output"),
            self.place,
        )?;
        Ok(())
    }

    pub fn constant(&mut self, name: &str, value: f64, ty: TensorType) -> Built {
        self.op(
            name,
            Op::Constant {
                value: Real(value),
                ty,
            },
            &[],
        )
    }

    pub fn matmul(
        &mut self,
        name: &str,
        a: Value,
        b: Value,
        transpose_a: bool,
        transpose_b: bool,
    ) -> Built {
        self.op(
            name,
            Op::Matmul {
                transpose_a,
                transpose_b,
                out: None,
            },
            &[a, b],
        )
    }

    pub fn unary(&mut self, name: &str, op: UnaryOp, x: Value) -> Built {
        self.op(name, Op::Unary(op), &[x])
    }

    pub fn binary(&mut self, name: &str, op: BinaryOp, a: Value, b: Value) -> Built {
        self.op(name, Op::Binary(op), &[a, b])
    }

    pub fn add(&mut self, name: &str, a: Value, b: Value) -> Built {
        self.binary(name, BinaryOp::Add, a, b)
    }

    pub fn mul(&mut self, name: &str, a: Value, b: Value) -> Built {
        self.binary(name, BinaryOp::Mul, a, b)
    }

    /// `x · factor` with a scalar constant of the same element type.
    pub fn scale(&mut self, name: &str, x: Value, factor: f64) -> Built {
        let ty = TensorType::new(self.graph.ty(x).dtype, Shape::scalar());
        let c = self.constant(&format!("{name}.factor"), factor, ty)?;
        self.mul(name, x, c)
    }

    pub fn reduce(&mut self, name: &str, kind: ReduceKind, leading: usize, x: Value) -> Built {
        let op = Op::Reduce {
            kind,
            leading,
            out: None,
        };
        self.op(name, op, &[x])
    }

    pub fn reshape(&mut self, name: &str, x: Value, shape: impl Into<Shape>) -> Built {
        self.op(
            name,
            Op::Reshape {
                shape: shape.into(),
            },
            &[x],
        )
    }

    pub fn transpose(&mut self, name: &str, x: Value, perm: &[usize]) -> Built {
        self.op(
            name,
            Op::Transpose {
                perm: SmallVec::from_slice(perm),
            },
            &[x],
        )
    }

    pub fn slice(&mut self, name: &str, x: Value, axis: usize, start: usize, len: usize) -> Built {
        self.op(name, Op::Slice { axis, start, len }, &[x])
    }

    pub fn concat(&mut self, name: &str, xs: &[Value], axis: usize) -> Built {
        self.op(name, Op::Concat { axis }, xs)
    }
}
