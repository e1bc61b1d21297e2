//! Reverse-mode differentiation: appends to a graph the ops that compute gradients of one of its values.
//!
//! The forward ops are visited in reverse topological order. By then every use of an op's results has *given* its
//! contribution to their gradients; the op sums them and gives its own operands theirs, by the rule of its family (one file
//! each, as in the interpreter). Only values between the ones asked for and the loss get a gradient. The new ops are ordinary
//! ops in phase backward, at the place of the op they differentiate and named after it: `h.0.mlp.c_fc.grad_x`.

mod contribution;
mod elementwise;
mod loss;
mod matmul;
mod random;
mod reduce;
mod rows;
mod step;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use superstep_ir::graph::{Graph, Phase, Place, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::Op;
use superstep_ir::op::infer::TypeError;
use superstep_ir::types::TensorType;
use thiserror::Error;

use contribution::{Contribution, Sum};
use step::Step;

/// Why a graph has no gradient.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DifferentiateError {
    #[error("{op} \"{name}\" has no gradient: {why}")]
    NotDifferentiable {
        op: &'static str,
        name: String,
        why: &'static str,
    },
    #[error("the gradient of {loss} is seeded with {seed}")]
    SeedType { loss: TensorType, seed: TensorType },
    #[error("the gradient of \"{name}\", {ty}, is to be added to {base}")]
    BaseType {
        name: String,
        ty: TensorType,
        base: TensorType,
    },
    #[error(
        "{op} \"{name}\" is no source: its gradient must be whole before it goes on to its operands"
    )]
    NotASource { op: &'static str, name: String },
    #[error(transparent)]
    Type(#[from] TypeError),
}

/// Appends the gradient of `loss`, times `seed` (of the loss's type), for each value of `wrt`.
///
/// `None` for a value the loss does not depend on. Where several paths join, contributions are added in the order in which
/// the reverse walk meets them, so equal graphs give equal gradients.
///
/// # Errors
/// The seed is not of the loss's type, or an op on the way has no gradient.
pub fn differentiate(
    graph: &mut Graph,
    loss: Value,
    seed: Value,
    wrt: &[Value],
) -> Result<Vec<Option<Value>>, DifferentiateError> {
    let mut reverse = Reverse::new(graph, wrt.iter().copied());
    reverse.walk(loss, seed)?;
    wrt.iter().map(|&v| reverse.gradient(v)).collect()
}

/// How the gradient of a value joins its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// `((base + g₁) + g₂) + …`, each contribution as soon as there is one, with the running sum always the first operand. So no gradient
    /// of a whole weight has to exist beside its accumulator.
    Sum,
    /// `keep · base + take · (g₁ + g₂ + …)`, computed in f32 and rounded once to the type of the base: the mean over micro-batches so far,
    /// with the f32 scalars `k / (k + 1)` and `1 / (k + 1)` in micro-batch `k`. The rows of a table that is looked up join a sum that is
    /// there already, perhaps much later; what belongs to such a value is taken `share` times, `1 / micro-batches`, and needs no order.
    RunningMean {
        keep: Value,
        take: Value,
        share: Value,
    },
}

/// Like [`differentiate`], but every gradient joins a base: for `(w, accum)` the result is the new value of `accum`.
///
/// A base has the shape of its value; contributions are cast to its element type.
///
/// # Errors
/// As [`differentiate`]; or a value is not the result of a source (parameter, input, constant); or a base is of another shape.
pub fn differentiate_onto(
    graph: &mut Graph,
    loss: Value,
    seed: Value,
    wrt: &[(Value, Value)],
    joining: Joining,
) -> Result<Vec<Option<Value>>, DifferentiateError> {
    for &(value, base) in wrt {
        let node = graph.node(value.op);
        if !node.operands().is_empty() {
            return Err(DifferentiateError::NotASource {
                op: node.op.name(),
                name: node.name.clone(),
            });
        }
        if graph.ty(value).shape != graph.ty(base).shape {
            return Err(DifferentiateError::BaseType {
                name: node.name.clone(),
                ty: graph.ty(value).clone(),
                base: graph.ty(base).clone(),
            });
        }
    }
    let bases: BTreeMap<Value, Value> = wrt.iter().copied().collect();
    let mut reverse = Reverse::new(graph, bases.keys().copied());
    reverse.running = bases.clone();
    reverse.joining = joining;
    reverse.walk(loss, seed)?;
    for &(value, _) in wrt {
        reverse.join_waiting(value)?;
    }
    let changed = |(value, _): &(Value, Value)| {
        Some(reverse.running[value]).filter(|sum| *sum != bases[value])
    };
    Ok(wrt.iter().map(changed).collect())
}

/// The state of one reverse walk.
struct Reverse<'g> {
    graph: &'g mut Graph,
    /// Values that depend on a value asked for; only they get gradients.
    active: BTreeSet<Value>,
    /// Contributions given and not yet summed.
    pending: BTreeMap<Value, Vec<Contribution>>,
    /// Gradients summed already.
    summed: BTreeMap<Value, Value>,
    /// The sums of [`differentiate_onto`] so far.
    running: BTreeMap<Value, Value>,
    joining: Joining,
}

impl<'g> Reverse<'g> {
    fn new(graph: &'g mut Graph, wrt: impl Iterator<Item = Value>) -> Reverse<'g> {
        let mut active: BTreeSet<Value> = wrt.collect();
        for op in graph.topological() {
            let node = graph.node(op);
            if node.operands().iter().any(|v| active.contains(v)) {
                active.extend((0..node.results().len() as u32).map(|result| Value { op, result }));
            }
        }
        Reverse {
            graph,
            active,
            pending: BTreeMap::new(),
            summed: BTreeMap::new(),
            running: BTreeMap::new(),
            joining: Joining::Sum,
        }
    }

    fn walk(&mut self, loss: Value, seed: Value) -> Result<(), DifferentiateError> {
        let (loss_type, seed_type) = (self.graph.ty(loss), self.graph.ty(seed));
        if loss_type != seed_type {
            return Err(DifferentiateError::SeedType {
                loss: loss_type.clone(),
                seed: seed_type.clone(),
            });
        }
        let order = self.graph.topological();
        self.give(loss, Contribution::Whole(seed))?;
        for op in order.into_iter().rev() {
            let node = self.graph.node(op);
            if node.operands().iter().any(|v| self.active.contains(v)) {
                self.visit(op)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, op: OpId) -> Result<(), DifferentiateError> {
        let results = self.graph.node(op).results().len() as u32;
        let gradients = (0..results)
            .map(|result| self.gradient(Value { op, result }))
            .collect::<Result<Vec<_>, _>>()?;
        if gradients.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut step = Step::new(self.graph, op, &self.active);
        apply(&mut step, &gradients)?;
        for (value, contribution) in step.into_given() {
            self.give(value, contribution)?;
        }
        Ok(())
    }

    /// Notes one contribution to the gradient of `value`, or adds it to the running sum.
    fn give(&mut self, value: Value, contribution: Contribution) -> Result<(), DifferentiateError> {
        if !self.active.contains(&value) {
            return Ok(());
        }
        match (self.running.get(&value), self.joining) {
            (Some(&base), Joining::Sum) => {
                let sum = self
                    .sum(value, "accumulate")
                    .onto(base, vec![contribution])?;
                self.running.insert(value, sum);
            }
            (Some(_), Joining::RunningMean { share, .. }) if contribution.is_rows() => {
                self.join_waiting(value)?;
                let base = self.running[&value];
                let sum = self
                    .sum(value, "accumulate")
                    .rows_onto(base, contribution, share)?;
                self.running.insert(value, sum);
            }
            (Some(&base), Joining::RunningMean { share, .. })
                if self.adds_straight(value, &contribution) =>
            {
                let sum = self
                    .sum(value, "accumulate")
                    .product_onto(base, contribution, share)?;
                self.running.insert(value, sum);
            }
            _ => self.pending.entry(value).or_default().push(contribution),
        }
        Ok(())
    }

    /// True for a product that is a gradient of a slice of a table: whoever slices a table means to have no gradient of all of it beside
    /// its accumulator, and what belongs to a table needs no order.
    fn adds_straight(&self, value: Value, contribution: &Contribution) -> bool {
        let is_slice = |op: OpId| matches!(self.graph.op(op), Op::Gather { first: Some(_) });
        contribution.is_product(self.graph) && self.graph.uses(value).iter().any(|u| is_slice(u.op))
    }

    /// Joins the contributions that wait for each other with the base of a running mean.
    fn join_waiting(&mut self, value: Value) -> Result<(), DifferentiateError> {
        let Joining::RunningMean { keep, take, share } = self.joining else {
            return Ok(());
        };
        let Some(contributions) = self.pending.remove(&value) else {
            return Ok(());
        };
        let is_lookup = |op: OpId| matches!(self.graph.op(op), Op::Gather { .. });
        let looked_up = self.graph.uses(value).iter().any(|u| is_lookup(u.op));
        let base = self.running[&value];
        let gradient = self.sum(value, "grad").of(contributions)?;
        let mut sum = self.sum(value, "accumulate");
        let joined = match looked_up {
            true => sum.scaled_onto(base, None, gradient, share)?,
            false => sum.scaled_onto(base, Some(keep), gradient, take)?,
        };
        self.running.insert(value, joined);
        Ok(())
    }

    /// The sum of all contributions to `value` so far; asked for when there will be no more.
    fn gradient(&mut self, value: Value) -> Result<Option<Value>, DifferentiateError> {
        if let Some(contributions) = self.pending.remove(&value) {
            let sum = self.sum(value, "grad").of(contributions)?;
            self.summed.insert(value, sum);
        }
        Ok(self.summed.get(&value).copied())
    }

    fn sum(&mut self, value: Value, what: &str) -> Sum<'_> {
        let node = self.graph.node(value.op);
        let (name, place) = (format!("{}.{what}", node.name), backward(node.place));
        Sum {
            ty: self.graph.ty(value).clone(),
            graph: self.graph,
            name,
            place,
        }
    }
}

/// The place of a backward op: where its forward op is.
fn backward(place: Place) -> Place {
    Place {
        phase: Phase::Backward,
        ..place
    }
}

/// The gradient rule of one op. `gradients` has one entry a result, at least one of them `Some`.
fn apply(step: &mut Step<'_>, gradients: &[Option<Value>]) -> Result<(), DifferentiateError> {
    let op = step.op().clone();
    // Of the ops with several results, only the first one is differentiable.
    if gradients.iter().skip(1).any(Option::is_some) {
        return step.fail("only its first result is differentiable");
    }
    let Some(g) = gradients[0] else {
        return Ok(());
    };
    match op {
        // Sources have no operands and sinks no results: the walk does not come here with them.
        Op::Constant { .. }
        | Op::Parameter { .. }
        | Op::Input { .. }
        | Op::Assign { .. }
        | Op::Output { .. } => Ok(()),

        Op::Matmul {
            transpose_a,
            transpose_b,
            ..
        } => matmul::matmul(step, g, transpose_a, transpose_b),

        Op::Unary(op) => elementwise::unary(step, g, op),
        Op::Binary(op) => elementwise::binary(step, g, op),
        Op::Map(_) => step.fail("expressions are fused after differentiation"),
        Op::Cast { .. } => elementwise::cast(step, g),
        Op::Dropout { .. } => random::dropout(step, g),

        Op::LayerNorm { .. } => rows::layer_norm(step, g),
        Op::CausalMask => rows::causal_mask(step, g),
        Op::Softmax { scale, .. } => rows::softmax(step, g, scale),
        Op::CrossEntropy { padding } => loss::cross_entropy(step, g, padding),
        Op::MaskBeyond | Op::WriteRows => {
            step.fail("caches are for inference, which has no gradients")
        }
        Op::LayerNormGrad
        | Op::LayerNormParamGrad
        | Op::SoftmaxGrad { .. }
        | Op::CrossEntropyGrad { .. } => step.fail("second derivatives are not supported"),
        Op::AllReduce | Op::ReduceScatter | Op::Shard | Op::AllGather { .. } => {
            step.fail("replicas meet in the update only")
        }

        Op::Gather { first } => tables::gather(step, g, first),
        Op::ScatterAdd { first } => tables::scatter_add(step, g, first),

        Op::Reduce { kind, .. } => reduce::reduce(step, g, kind),

        Op::Reshape { .. } => views::reshape(step, g),
        Op::Transpose { perm } => views::transpose(step, g, &perm),
        Op::Slice { axis, start, .. } => views::slice(step, g, axis, start),
        Op::Concat { axis } => views::concat(step, g, axis),
        Op::Broadcast { .. } => views::broadcast(step, g),
    }
}
