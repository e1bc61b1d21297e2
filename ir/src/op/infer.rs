//! Result types of an op from its operand types; every rule of typing is here.

use thiserror::Error;

use super::Op;
use crate::types::{DType, Shape, TensorType};

/// Why operands do not fit an op.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{op}: {what}")]
pub struct TypeError {
    pub op: &'static str,
    pub what: String,
}

/// Result types of `op` on `operands`; ops with an effect have none.
pub fn infer(op: &Op, operands: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
    Infer { op, operands }.run()
}

/// The broadcast of two shapes as [`Op::Binary`] allows it, or `None`.
pub fn broadcast<'a>(a: &'a Shape, b: &'a Shape) -> Option<&'a Shape> {
    if a.rank() >= b.rank() && a.dims().ends_with(b.dims()) {
        Some(a)
    } else if b.dims().ends_with(a.dims()) {
        Some(b)
    } else {
        None
    }
}

struct Infer<'a> {
    op: &'a Op,
    operands: &'a [&'a TensorType],
}

type Types = Result<Vec<TensorType>, TypeError>;

impl Infer<'_> {
    fn fail<T>(&self, what: String) -> Result<T, TypeError> {
        Err(TypeError {
            op: self.op.name(),
            what,
        })
    }

    fn need(&self, holds: bool, what: impl FnOnce() -> String) -> Result<(), TypeError> {
        if holds { Ok(()) } else { self.fail(what()) }
    }

    fn count(&self, n: usize) -> Result<(), TypeError> {
        self.need(self.operands.len() == n, || {
            format!("takes {n} operands, got {}", self.operands.len())
        })
    }

    fn float(&self, i: usize) -> Result<&TensorType, TypeError> {
        let t = self.operands[i];
        self.need(t.dtype.is_float(), || {
            format!("operand {i} is {t}, not a float tensor")
        })?;
        Ok(t)
    }

    fn has(&self, i: usize, ty: &TensorType) -> Result<(), TypeError> {
        self.need(self.operands[i] == ty, || {
            format!("operand {i} is {}, expected {ty}", self.operands[i])
        })
    }

    fn run(&self) -> Types {
        match self.op {
            Op::Constant { ty, .. } | Op::Parameter { ty, .. } | Op::Input { ty, .. } => {
                self.count(0)?;
                Ok(vec![ty.clone()])
            }
            Op::Assign { .. } | Op::Output { .. } => {
                self.count(1)?;
                Ok(vec![])
            }
            Op::Matmul {
                transpose_a,
                transpose_b,
                out,
            } => self.matmul(*transpose_a, *transpose_b, *out),
            Op::Unary(_) => {
                self.count(1)?;
                Ok(vec![self.float(0)?.clone()])
            }
            Op::Binary(_) => {
                self.count(2)?;
                Ok(vec![self.elementwise(true)?])
            }
            Op::Map(expr) => {
                self.count(expr.operands as usize)?;
                self.need(expr.is_well_formed(), || "malformed expression".into())?;
                self.need(expr.operands > 0, || {
                    "an expression needs an operand".into()
                })?;
                let ty = self.elementwise(expr.types.is_empty())?;
                if expr.types.is_empty() {
                    return Ok(vec![ty; expr.outputs.len()]);
                }
                let typed = |&dtype: &DType| {
                    self.need(dtype.is_float(), || {
                        format!("{dtype} is no type of an expression")
                    })?;
                    Ok(TensorType::new(dtype, ty.shape.clone()))
                };
                expr.types.iter().map(typed).collect()
            }
            Op::Cast { to } => {
                self.count(1)?;
                Ok(vec![TensorType::new(*to, self.operands[0].shape.clone())])
            }
            Op::Dropout { p, .. } => {
                self.count(2)?;
                self.need((0.0..1.0).contains(&p.0), || {
                    format!("probability {p} is not in [0, 1)")
                })?;
                self.has(1, &TensorType::new(DType::U32, [2]))?;
                Ok(vec![self.float(0)?.clone()])
            }
            Op::LayerNorm { .. } | Op::LayerNormGrad | Op::LayerNormParamGrad => self.layer_norm(),
            Op::CausalMask => {
                self.count(1)?;
                let x = self.float(0)?;
                self.need(x.shape.rank() >= 2, || {
                    format!("needs rows and columns, got {x}")
                })?;
                Ok(vec![x.clone()])
            }
            Op::MaskBeyond => {
                self.count(2)?;
                let x = self.float(0)?;
                self.need(x.shape.rank() >= 2, || {
                    format!("needs rows and columns, got {x}")
                })?;
                self.has(1, &TensorType::i32([x.shape[0]]))?;
                Ok(vec![x.clone()])
            }
            Op::Softmax { causal, .. } => {
                self.count(1)?;
                let x = self.float(0)?;
                let least = if *causal { 2 } else { 1 };
                self.need(x.shape.rank() >= least, || {
                    format!("needs rank {least} or more, got {x}")
                })?;
                Ok(vec![x.clone()])
            }
            Op::SoftmaxGrad { .. } => {
                self.count(2)?;
                let p = self.float(0)?;
                self.has(1, p)?;
                Ok(vec![p.clone()])
            }
            Op::CrossEntropy { padding } => self.cross_entropy(*padding),
            Op::CrossEntropyGrad { padding, .. } => self.cross_entropy_grad(*padding),
            Op::Gather { .. } | Op::ScatterAdd { .. } => self.table(),
            Op::WriteRows => self.write_rows(),
            Op::Reduce { leading, out, .. } => self.reduce(*leading, *out),
            Op::AllReduce | Op::ReduceScatter | Op::Shard | Op::AllGather { .. } => {
                self.collective()
            }
            Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Broadcast { .. } => self.view(),
        }
    }

    fn matmul(&self, transpose_a: bool, transpose_b: bool, out: Option<DType>) -> Types {
        self.need(matches!(self.operands.len(), 2 | 3), || {
            format!("takes 2 or 3 operands, got {}", self.operands.len())
        })?;
        let (a, b) = (self.float(0)?, self.float(1)?);
        let rank = a.shape.rank();
        self.need(matches!(rank, 2 | 3) && b.shape.rank() == rank, || {
            format!("cannot multiply {a} with {b}")
        })?;
        self.need(a.dtype == b.dtype, || {
            format!("operand types differ: {a} and {b}")
        })?;
        let groups = &a.shape.dims()[..rank - 2];
        self.need(groups == &b.shape.dims()[..rank - 2], || {
            format!("batches differ: {a} and {b}")
        })?;
        let rows_columns = |s: &Shape, swap: bool| {
            let (r, c) = (s[rank - 2], s[rank - 1]);
            if swap { (c, r) } else { (r, c) }
        };
        let (m, k) = rows_columns(&a.shape, transpose_a);
        let (k2, n) = rows_columns(&b.shape, transpose_b);
        self.need(k == k2, || format!("contracts {k} with {k2}"))?;
        let mut dims = groups.to_vec();
        dims.extend([m, n]);
        let result = TensorType::new(self.result_dtype(a, out)?, &dims[..]);
        if self.operands.len() == 3 {
            self.has(2, &result)?;
        }
        Ok(vec![result])
    }

    /// The element type of a result that is `out` where that is stated, else that of operand `x`.
    fn result_dtype(&self, x: &TensorType, out: Option<DType>) -> Result<DType, TypeError> {
        let dtype = out.unwrap_or(x.dtype);
        self.need(dtype.is_float(), || format!("the result cannot be {dtype}"))?;
        Ok(dtype)
    }

    /// The widest operand; with `alike` they must all have its element type.
    fn elementwise(&self, alike: bool) -> Result<TensorType, TypeError> {
        let mut widest = self.float(0)?;
        for i in 1..self.operands.len() {
            let t = self.float(i)?;
            self.need(!alike || t.dtype == widest.dtype, || {
                format!("operand types differ: {widest} and {t}")
            })?;
            let Some(shape) = broadcast(&widest.shape, &t.shape) else {
                return self.fail(format!("cannot broadcast {widest} with {t}"));
            };
            if *shape != widest.shape {
                widest = t;
            }
        }
        Ok(widest.clone())
    }

    fn layer_norm(&self) -> Types {
        let x_at = usize::from(!matches!(self.op, Op::LayerNorm { .. }));
        self.count(match self.op {
            Op::LayerNorm { .. } => 3,
            Op::LayerNormGrad => 5,
            _ => 4,
        })?;
        let x = self.float(x_at)?;
        self.need(x.shape.rank() >= 1, || "needs rows".into())?;
        let row = |i: usize| {
            let shape = Shape::new(&[x.shape.last()]);
            let t = self.float(i)?;
            self.need(t.shape == shape, || {
                format!("operand {i} is {t}, expected extents {shape}")
            })
        };
        let stats = TensorType::new(DType::F32, &x.shape.dims()[..x.shape.rank() - 1]);
        match self.op {
            Op::LayerNorm { .. } => {
                row(1)?;
                row(2)?;
                Ok(vec![x.clone(), stats.clone(), stats])
            }
            Op::LayerNormGrad => {
                self.has(0, x)?;
                row(2)?;
                self.has(3, &stats)?;
                self.has(4, &stats)?;
                Ok(vec![x.clone()])
            }
            _ => {
                self.has(0, x)?;
                self.has(2, &stats)?;
                self.has(3, &stats)?;
                let row = TensorType::new(x.dtype, [x.shape.last()]);
                Ok(vec![row.clone(), row])
            }
        }
    }

    fn cross_entropy(&self, padding: usize) -> Types {
        let slices = self.operands.len().saturating_sub(1);
        self.need(slices > 0, || {
            format!(
                "takes logits and labels, got {} operands",
                self.operands.len()
            )
        })?;
        let mut columns = 0;
        for i in 0..slices {
            columns += self.logits(i)?.shape[1];
        }
        self.padded(padding, columns)?;
        let rows = self.operands[0].shape[0];
        for i in 1..slices {
            let slice = self.operands[i];
            self.need(slice.shape[0] == rows, || {
                format!("operand {i} is {slice}, expected {rows} rows")
            })?;
        }
        self.has(slices, &TensorType::i32([rows]))?;
        let per_row = TensorType::f32([rows]);
        Ok(vec![per_row.clone(), per_row])
    }

    fn cross_entropy_grad(&self, padding: usize) -> Types {
        self.count(4)?;
        let logits = self.logits(0)?;
        self.padded(padding, logits.shape[1])?;
        let rows = logits.shape[0];
        self.has(1, &TensorType::i32([rows]))?;
        let per_row = TensorType::f32([rows]);
        self.has(2, &per_row)?;
        self.has(3, &per_row)?;
        Ok(vec![logits.clone()])
    }

    fn logits(&self, i: usize) -> Result<&TensorType, TypeError> {
        let logits = self.float(i)?;
        self.need(logits.shape.rank() == 2, || {
            format!("logits are {logits}, expected [rows, classes]")
        })?;
        Ok(logits)
    }

    fn padded(&self, padding: usize, columns: usize) -> Result<(), TypeError> {
        self.need(padding <= columns, || {
            format!("{padding} columns of padding, but only {columns} columns")
        })
    }

    fn table(&self) -> Types {
        let scatter = matches!(self.op, Op::ScatterAdd { .. });
        self.count(if scatter { 3 } else { 2 })?;
        let table = self.float(0)?;
        let ids = self.operands[1];
        self.need(table.shape.rank() == 2, || {
            format!("table is {table}, expected [entries, width]")
        })?;
        self.need(ids.dtype == DType::I32 && ids.shape.rank() == 1, || {
            format!("ids are {ids}, expected i32[n]")
        })?;
        let rows = TensorType::new(table.dtype, [ids.shape[0], table.shape[1]]);
        if scatter {
            let updates = self.float(2)?;
            self.need(updates.shape == rows.shape, || {
                format!("updates are {updates}, expected extents {}", rows.shape)
            })?;
            Ok(vec![table.clone()])
        } else {
            Ok(vec![rows])
        }
    }

    fn write_rows(&self) -> Types {
        self.count(3)?;
        let (base, rows) = (self.float(0)?, self.float(2)?);
        let (&[n, s, d], &[n2, r, d2]) = (base.shape.dims(), rows.shape.dims()) else {
            return self.fail(format!("writes {rows} into {base}, expected matrices"));
        };
        self.need(
            (n, d) == (n2, d2) && r <= s && base.dtype == rows.dtype,
            || format!("cannot write {rows} into {base}"),
        )?;
        self.has(1, &TensorType::i32([n]))?;
        Ok(vec![base.clone()])
    }

    fn reduce(&self, leading: usize, out: Option<DType>) -> Types {
        self.count(1)?;
        let x = self.float(0)?;
        self.need(leading <= x.shape.rank(), || {
            format!("cannot reduce {leading} axes of {x}")
        })?;
        let dtype = self.result_dtype(x, out)?;
        Ok(vec![TensorType::new(dtype, &x.shape.dims()[leading..])])
    }

    fn collective(&self) -> Types {
        self.count(1)?;
        let x = self.float(0)?;
        let mut shape = x.shape.clone();
        match self.op {
            Op::AllReduce => {}
            Op::AllGather { replicas } => {
                self.need(*replicas > 0, || "gathers from no replica".into())?;
                shape.0.insert(0, *replicas);
            }
            _ => {
                self.need(shape.rank() > 0, || {
                    format!("{x} has no entry for each replica")
                })?;
                shape.0.remove(0);
            }
        }
        Ok(vec![TensorType::new(x.dtype, shape)])
    }

    fn view(&self) -> Types {
        if let Op::Concat { axis } = self.op {
            return self.concat(*axis);
        }
        self.count(1)?;
        let x = self.operands[0];
        let shape = match self.op {
            Op::Reshape { shape } => {
                self.need(shape.elements() == x.shape.elements(), || {
                    format!("{x} does not reshape to {shape}")
                })?;
                shape.clone()
            }
            Op::Transpose { perm } => {
                let mut sorted = perm.clone();
                sorted.sort_unstable();
                let is_permutation = sorted.iter().copied().eq(0..x.shape.rank());
                self.need(is_permutation, || {
                    format!("{perm:?} is no permutation of the axes of {x}")
                })?;
                Shape(perm.iter().map(|&p| x.shape[p]).collect())
            }
            Op::Slice { axis, start, len } => {
                let fits = *axis < x.shape.rank()
                    && start.checked_add(*len).is_some_and(|e| e <= x.shape[*axis]);
                self.need(fits && *len > 0, || {
                    format!("{start}+{len} on axis {axis} is outside {x}")
                })?;
                let mut shape = x.shape.clone();
                shape.0[*axis] = *len;
                shape
            }
            Op::Broadcast { shape } => {
                self.need(shape.dims().ends_with(x.shape.dims()), || {
                    format!("{x} does not broadcast to {shape}")
                })?;
                shape.clone()
            }
            _ => x.shape.clone(),
        };
        Ok(vec![TensorType::new(x.dtype, shape)])
    }

    fn concat(&self, axis: usize) -> Types {
        self.need(!self.operands.is_empty(), || {
            "takes at least one operand".into()
        })?;
        let mut result = self.operands[0].clone();
        self.need(axis < result.shape.rank(), || {
            format!("no axis {axis} in {result}")
        })?;
        for t in &self.operands[1..] {
            let mut same = (*t).clone();
            self.need(same.shape.rank() == result.shape.rank(), || {
                format!("ranks differ: {result} and {t}")
            })?;
            same.shape.0[axis] = result.shape[axis];
            self.need(same == result, || {
                format!("cannot join {result} and {t} on axis {axis}")
            })?;
            result.shape.0[axis] += t.shape[axis];
        }
        Ok(vec![result])
    }
}
