//! Keep weights and activations in half precision.
//!
//! Does     stores weights and caches as f16 (with [`MixedPrecision::master_weights`], reads weights from f32 through a cast) and runs every op on
//!          f16 that the table [`policy`] says may; a cast stands wherever the types meet. Row statistics stay f32, and so does everything from the
//!          rows' losses on.
//! Needs    a forward graph in f32, before differentiation: a gradient has the type of its value.
//! Leaves   streams in the types they had, and a graph that means the same up to the rounding of f16.
//! Example  `add(matmul(%x, %w), %bias)` in f32 becomes the same ops on f16; `output "logits"` reads a cast back to f32.

use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Place, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{Op, StateKind};
use superstep_ir::types::{DType, TensorType};

use crate::pass::{Pass, PassContext, PassError};

#[derive(Clone, Copy, Debug, Default)]
pub struct MixedPrecision {
    /// Weights are kept in f32 and rounded to f16 where they are read.
    pub master_weights: bool,
}

impl Pass for MixedPrecision {
    fn name(&self) -> &'static str {
        "mixed_precision"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        if !cx.may_rewrite(&graph.name) {
            return Ok(());
        }
        let mut retype = Retype {
            from: graph,
            out: Graph::new(graph.name.clone()),
            values: FxHashMap::default(),
            casts: FxHashMap::default(),
            master_weights: self.master_weights,
        };
        for op in graph.topological() {
            retype.op(op)?;
        }
        cx.count("casts", retype.casts.len());
        *graph = retype.out;
        Ok(())
    }
}

/// In which types an op takes its float operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// f16, whatever they were: where memory and cycles go, and where f32 inside the op is enough.
    Half,
    /// As they are, if they agree; f16 if one of them is.
    Follow,
    /// f32: sums over many terms, and what leaves the graph.
    Single,
    /// As they are: the op says itself what it takes.
    Own,
}

/// What may run on f16. Every op computes in f32 and rounds what it stores, so the question is only what the stored values can bear.
fn policy(op: &Op) -> Policy {
    match op {
        Op::Matmul { .. }
        | Op::Gather { .. }
        | Op::LayerNorm { .. }
        | Op::Softmax { .. }
        | Op::CausalMask
        | Op::MaskBeyond
        | Op::Dropout { .. } => Policy::Half,
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Map(_)
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Broadcast { .. }
        // Into what the cache is kept in.
        | Op::WriteRows => Policy::Follow,
        // f16 logits give f32 losses and statistics.
        Op::CrossEntropy { .. } => Policy::Half,
        Op::Reduce { .. } | Op::Output { .. } => Policy::Single,
        Op::Constant { .. }
        | Op::Parameter { .. }
        | Op::Input { .. }
        | Op::Assign { .. }
        | Op::Cast { .. } => Policy::Own,
        // Gradients are made after this pass, from the types that it chose.
        Op::LayerNormGrad
        | Op::LayerNormParamGrad
        | Op::SoftmaxGrad { .. }
        | Op::CrossEntropyGrad { .. }
        | Op::ScatterAdd { .. } => Policy::Own,
        // Replicas meet in the update only.
        Op::AllReduce | Op::ReduceScatter | Op::Shard | Op::AllGather { .. } => Policy::Own,
    }
}

/// A graph and its copy in other types.
struct Retype<'g> {
    from: &'g Graph,
    out: Graph,
    /// The value of the copy for each value that is there already.
    values: FxHashMap<Value, Value>,
    /// Casts made so far, by what they read.
    casts: FxHashMap<(Value, DType), Value>,
    master_weights: bool,
}

impl Retype<'_> {
    fn op(&mut self, id: OpId) -> Result<(), TypeError> {
        let node = self.from.node(id);
        let (op, name, place) = (&node.op, node.name.as_str(), node.place);
        if let Op::Parameter {
            state,
            kind: kind @ (StateKind::Weight | StateKind::Cache),
            ty,
            ..
        } = op
        {
            return self.state(id, (state, *kind, ty), name, place);
        }
        let operands: Vec<Value> = node.operands().iter().map(|v| self.values[v]).collect();
        let operands = match self.wanted(op, &operands) {
            Some(dtype) => operands
                .into_iter()
                .map(|v| self.cast(v, dtype))
                .collect::<Result<Vec<_>, _>>()?,
            None => operands,
        };
        let new = self.out.insert(op.clone(), &operands, name, place)?;
        self.put(id, new);
        Ok(())
    }

    fn put(&mut self, old: OpId, new: OpId) {
        for result in 0..self.out.node(new).results().len() as u32 {
            self.values
                .insert(Value { op: old, result }, Value { op: new, result });
        }
    }

    fn state(
        &mut self,
        id: OpId,
        (state, kind, ty): (&str, StateKind, &TensorType),
        name: &str,
        place: Place,
    ) -> Result<(), TypeError> {
        let is_master = self.master_weights && kind == StateKind::Weight;
        let stored = match is_master || !ty.dtype.is_float() {
            true => ty.clone(),
            false => TensorType::new(DType::F16, ty.shape.clone()),
        };
        let parameter = Op::Parameter {
            state: state.to_string(),
            kind,
            ty: stored,
            remote: false,
        };
        let new = self.out.insert(parameter, &[], name, place)?;
        self.put(id, new);
        Ok(())
    }

    /// The float type that an op takes its operands in, `None` for as they are.
    fn wanted(&self, op: &Op, operands: &[Value]) -> Option<DType> {
        match policy(op) {
            Policy::Half => Some(DType::F16),
            Policy::Single => Some(DType::F32),
            Policy::Own => None,
            Policy::Follow => {
                let computed = |v: &&Value| !matches!(self.out.op(v.op), Op::Constant { .. });
                let mut types = operands
                    .iter()
                    .filter(computed)
                    .map(|&v| self.out.ty(v).dtype);
                let first = types.next()?;
                Some(
                    match first == DType::F16 || types.any(|t| t == DType::F16) {
                        true => DType::F16,
                        false => first,
                    },
                )
            }
        }
    }

    /// A float value in another float type: a constant of that type, or a cast.
    fn cast(&mut self, value: Value, to: DType) -> Result<Value, TypeError> {
        let ty = self.out.ty(value);
        if ty.dtype == to || !ty.dtype.is_float() {
            return Ok(value);
        }
        if let Some(&known) = self.casts.get(&(value, to)) {
            return Ok(known);
        }
        let node = self.out.node(value.op);
        let (name, place) = (node.name.clone(), node.place);
        let new = match &node.op {
            Op::Constant { value, ty } => {
                let op = Op::Constant {
                    value: *value,
                    ty: TensorType::new(to, ty.shape.clone()),
                };
                self.out.insert(op, &[], name, place)?
            }
            _ => {
                let name = format!("{name}.{to}");
                self.out.insert(Op::Cast { to }, &[value], name, place)?
            }
        };
        let new = self.out.value(new);
        self.casts.insert((value, to), new);
        Ok(new)
    }
}

#[cfg(test)]
mod tests;
