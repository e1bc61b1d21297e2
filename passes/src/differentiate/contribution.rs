//! Contributions to a gradient and how they add up.
//!
//! Some contributions are zero nearly everywhere: the gradient of a slice, of a few rows of a table. They are not filled up
//! with zeros when given, but when summed, where it often turns out that no zeros are needed: the three slices of a fused
//! query-key-value product join into one tensor, and rows of a table are added to a sum that exists anyway.

use superstep_ir::graph::{Graph, Place, Value};
use superstep_ir::op::{BinaryOp, Op};
use superstep_ir::types::{DType, Real, TensorType};

use super::DifferentiateError;

type Built = Result<Value, DifferentiateError>;

/// What one use of a value adds to its gradient.
pub(super) enum Contribution {
    /// A tensor of the value's type.
    Whole(Value),
    /// `value` at entries `start..` of `axis`, zero elsewhere.
    Part {
        axis: usize,
        start: usize,
        value: Value,
    },
    /// Row `i` of `updates` at row `ids[i]` of the table, or of a slice of it from entry `first` on, adding up where ids repeat. The op that adds them is made at
    /// `place` under `name`, which are those of the op that read the table.
    Rows {
        ids: Value,
        updates: Value,
        first: Option<usize>,
        name: String,
        place: Place,
    },
}

impl Contribution {
    pub(super) fn is_rows(&self) -> bool {
        matches!(self, Contribution::Rows { .. })
    }

    /// True for a product of two tensors that nobody has read yet.
    pub(super) fn is_product(&self, graph: &Graph) -> bool {
        let Contribution::Whole(value) = *self else {
            return false;
        };
        let node = graph.node(value.op);
        matches!(node.op, Op::Matmul { .. })
            && node.operands().len() == 2
            && graph.use_count(value.op) == 0
    }
}

/// Slices of one axis that do not overlap: `(start, length, value)`.
struct Joined {
    axis: usize,
    pieces: Vec<(usize, usize, Value)>,
}

impl Joined {
    fn takes(&self, axis: usize, start: usize, len: usize) -> bool {
        let apart = |&(s, l, _): &(usize, usize, Value)| s + l <= start || start + len <= s;
        self.axis == axis && self.pieces.iter().all(apart)
    }
}

/// Adds up the contributions to the gradient of one value.
pub(super) struct Sum<'g> {
    pub(super) graph: &'g mut Graph,
    /// Type of the value and of its gradient.
    pub(super) ty: TensorType,
    /// Prefix of the names of the ops emitted.
    pub(super) name: String,
    pub(super) place: Place,
}

impl Sum<'_> {
    /// The sum of at least one contribution.
    pub(super) fn of(mut self, contributions: Vec<Contribution>) -> Built {
        let (dense, rows) = self.dense(contributions)?;
        let mut sum = None;
        for value in dense {
            sum = Some(match sum {
                None => value,
                Some(sum) => self.add(sum, value)?,
            });
        }
        let dtype = self.ty.dtype;
        let mut sum = match sum {
            Some(sum) => sum,
            None => self.zeros(self.ty.clone())?,
        };
        for update in rows {
            sum = self.scatter(sum, update, dtype)?;
        }
        Ok(sum)
    }

    /// `base` with the contributions added to it one by one, in its element type.
    pub(super) fn onto(mut self, base: Value, contributions: Vec<Contribution>) -> Built {
        let dtype = self.graph.ty(base).dtype;
        let (dense, rows) = self.dense(contributions)?;
        let mut sum = base;
        for value in dense {
            let value = self.cast(value, dtype)?;
            sum = self.add(sum, value)?;
        }
        for update in rows {
            sum = self.scatter(sum, update, dtype)?;
        }
        Ok(sum)
    }

    /// `keep · base + take · gradient`, or `base + take · gradient`: the factors are f32 scalars, the arithmetic f32, the sum of the type of
    /// `base`.
    pub(super) fn scaled_onto(
        &mut self,
        base: Value,
        keep: Option<Value>,
        gradient: Value,
        take: Value,
    ) -> Built {
        let dtype = self.graph.ty(base).dtype;
        let mut kept = self.cast(base, DType::F32)?;
        if let Some(keep) = keep {
            kept = self.emit("kept", Op::Binary(BinaryOp::Mul), &[kept, keep])?;
        }
        let taken = self.scaled(gradient, take)?;
        let sum = self.add(kept, taken)?;
        self.cast(sum, dtype)
    }

    /// `base` with the rows of a table, times `share`, added to it.
    pub(super) fn rows_onto(mut self, base: Value, rows: Contribution, share: Value) -> Built {
        let dtype = self.graph.ty(base).dtype;
        let Contribution::Rows {
            ids,
            updates,
            first,
            name,
            place,
        } = rows
        else {
            unreachable!("dense contributions are added, not scattered");
        };
        self.place = place;
        let updates = self.scaled(updates, share)?;
        let updates = self.cast(updates, dtype)?;
        let rows = Contribution::Rows {
            ids,
            updates,
            first,
            name,
            place,
        };
        self.scatter(base, rows, dtype)
    }

    /// `base + share · product`, with the share taken of the product's second operand: so the product can be made in the base's own place.
    pub(super) fn product_onto(
        mut self,
        base: Value,
        product: Contribution,
        share: Value,
    ) -> Built {
        let Contribution::Whole(product) = product else {
            unreachable!("a product is a whole tensor");
        };
        let node = self.graph.node(product.op).clone();
        let &[a, b] = node.operands() else {
            unreachable!("a product has two operands");
        };
        let (dtype, operand) = (self.graph.ty(base).dtype, self.graph.ty(b).dtype);
        let b = self.scaled(b, share)?;
        let b = self.cast(b, operand)?;
        let scaled = self.graph.insert(node.op, &[a, b], node.name, node.place)?;
        self.graph.erase(product.op);
        let scaled = self.cast(self.graph.value(scaled), dtype)?;
        self.add(base, scaled)
    }

    fn scaled(&mut self, value: Value, factor: Value) -> Built {
        let wide = self.cast(value, DType::F32)?;
        self.emit("taken", Op::Binary(BinaryOp::Mul), &[wide, factor])
    }

    /// Whole tensors in the order given, slices joined into as few as possible, and what is sparse.
    fn dense(
        &mut self,
        contributions: Vec<Contribution>,
    ) -> Result<(Vec<Value>, Vec<Contribution>), DifferentiateError> {
        let (mut dense, mut joined, mut rows) = (Vec::new(), Vec::<Joined>::new(), Vec::new());
        for contribution in contributions {
            match contribution {
                Contribution::Whole(value) => dense.push(value),
                Contribution::Part { axis, start, value } => {
                    let len = self.graph.ty(value).shape[axis];
                    let piece = (start, len, value);
                    match joined.iter_mut().find(|j| j.takes(axis, start, len)) {
                        Some(j) => j.pieces.push(piece),
                        None => joined.push(Joined {
                            axis,
                            pieces: vec![piece],
                        }),
                    }
                }
                Contribution::Rows { .. } => rows.push(contribution),
            }
        }
        for j in joined {
            dense.push(self.join(j)?);
        }
        Ok((dense, rows))
    }

    /// The pieces side by side, with zeros in the gaps.
    fn join(&mut self, mut joined: Joined) -> Built {
        joined.pieces.sort_unstable();
        let axis = joined.axis;
        let (mut parts, mut end) = (Vec::new(), 0);
        let total = self.ty.shape[axis];
        for (start, len, value) in joined.pieces {
            self.gap(&mut parts, axis, start - end)?;
            parts.push(value);
            end = start + len;
        }
        self.gap(&mut parts, axis, total - end)?;
        match parts[..] {
            [only] => Ok(only),
            _ => self.emit("join", Op::Concat { axis }, &parts),
        }
    }

    fn gap(
        &mut self,
        parts: &mut Vec<Value>,
        axis: usize,
        len: usize,
    ) -> Result<(), DifferentiateError> {
        if len > 0 {
            let mut ty = self.ty.clone();
            ty.shape.0[axis] = len;
            parts.push(self.zeros(ty)?);
        }
        Ok(())
    }

    fn add(&mut self, a: Value, b: Value) -> Built {
        self.emit("add", Op::Binary(BinaryOp::Add), &[a, b])
    }

    fn scatter(&mut self, base: Value, rows: Contribution, dtype: DType) -> Built {
        let Contribution::Rows {
            ids,
            updates,
            first,
            name,
            place,
        } = rows
        else {
            unreachable!("dense contributions are added, not scattered");
        };
        let updates = self.cast(updates, dtype)?;
        let op = Op::ScatterAdd { first };
        let id = self.graph.insert(op, &[base, ids, updates], name, place)?;
        Ok(self.graph.value(id))
    }

    fn zeros(&mut self, ty: TensorType) -> Built {
        let value = Real(0.0);
        self.emit("zeros", Op::Constant { value, ty }, &[])
    }

    fn cast(&mut self, value: Value, to: DType) -> Built {
        if self.graph.ty(value).dtype == to {
            return Ok(value);
        }
        self.emit("cast", Op::Cast { to }, &[value])
    }

    fn emit(&mut self, what: &str, op: Op, operands: &[Value]) -> Built {
        let name = format!("{}.{what}", self.name);
        let id = self.graph.insert(op, operands, name, self.place)?;
        Ok(self.graph.value(id))
    }
}
