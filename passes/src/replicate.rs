//! Replication of the update: gradients are averaged over the replicas, and of large weights each replica updates a part.
//!
//! Precondition: `update` reads gradients from accumulators and works on weights, gradients and optimiser state element by element, or reduces
//! a gradient to a scalar that goes into a concatenation (the global norm).
//! Postcondition: accumulators are reduced over the replicas before anything reads them. A weight of at least `sharded` elements is updated in
//! parts of equally many rows, the last filled up with zeroes: reduce-scatter of the gradient, the replica's own part of the weight, optimiser state of that part
//! only, all-gather of the new weight. All replicas end with the same weights.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Place, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{BinaryOp, Op, ReduceKind, StateKind};
use superstep_ir::types::{Real, Shape, TensorType};

/// How an update is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    pub replicas: u32,
    /// Least elements of a weight whose optimiser state is shared out; `None`: every replica has all of it.
    pub sharded: Option<usize>,
}

/// The update of one replica among several, from the update of one alone.
///
/// # Errors
/// An op does not type, which is a bug.
pub fn replicate(update: &Graph, replication: Replication) -> Result<Graph, TypeError> {
    let mut pass = Replicate {
        old: update,
        new: Graph::new(update.name.clone()),
        values: FxHashMap::default(),
        shards: shards(update, replication),
        replication,
    };
    for op in update.topological() {
        pass.op(op)?;
    }
    Ok(pass.new)
}

/// Shapes of the weights that are updated in parts, by the names of all state that belongs to them.
fn shards(update: &Graph, replication: Replication) -> BTreeMap<String, Shape> {
    let Some(least) = replication.sharded else {
        return BTreeMap::new();
    };
    // Parts are whole rows: anything else could not be moved in one piece.
    let replicas = replication.replicas as usize;
    let large = |shape: &Shape| {
        let rows = shape.dims().first();
        shape.elements() >= least && rows.is_some_and(|&rows| rows >= replicas)
    };
    let weights: BTreeMap<String, Shape> = update
        .parameters()
        .filter(|(_, _, kind, ty)| *kind == StateKind::Weight && large(&ty.shape))
        .map(|(_, state, _, ty)| (state.to_string(), ty.shape.clone()))
        .collect();
    let all = update.parameters().filter_map(|(_, state, _, ty)| {
        let owner = weights.keys().find(|weight| {
            state == weight.as_str()
                || state
                    .strip_suffix(weight.as_str())
                    .is_some_and(|p| p.ends_with('.') && !p.trim_end_matches('.').contains('.'))
        })?;
        (ty.shape == weights[owner]).then(|| (state.to_string(), ty.shape.clone()))
    });
    all.collect()
}

/// A value of the old graph in the new one.
#[derive(Clone, Debug)]
enum Mapped {
    /// The same on every replica.
    Whole(Value),
    /// The replica's part of a tensor of this shape.
    Part(Value, Shape),
    /// A scalar, through views, that is to be summed over the replicas.
    Partial(Value),
}

struct Replicate<'g> {
    old: &'g Graph,
    new: Graph,
    values: FxHashMap<Value, Mapped>,
    shards: BTreeMap<String, Shape>,
    replication: Replication,
}

impl Replicate<'_> {
    fn op(&mut self, id: OpId) -> Result<(), TypeError> {
        let node = self.old.node(id);
        match &node.op {
            Op::Parameter {
                state,
                kind,
                ty,
                remote,
            } => self.parameter(id, (state, *kind, ty), *remote),
            Op::Assign { state } => self.assign(id, state),
            Op::Concat { axis } => self.concat(id, *axis),
            _ => self.copy(id),
        }
    }

    fn insert(&mut self, op: Op, operands: &[Value], name: String, place: Place) -> Built {
        let id = self.new.insert(op, operands, name, place)?;
        Ok(self.new.value(id))
    }

    fn set(&mut self, old: OpId, mapped: Mapped) {
        self.values.insert(self.old.value(old), mapped);
    }

    fn parameter(
        &mut self,
        id: OpId,
        (state, kind, ty): (&str, StateKind, &TensorType),
        remote: bool,
    ) -> Result<(), TypeError> {
        let node = self.old.node(id);
        let (name, place) = (node.name.clone(), node.place);
        let shape = self.shards.get(state).cloned();
        // Optimiser state of a part is all there is of it on this replica.
        let ty = match (&shape, kind) {
            (Some(_), StateKind::OptimiserState) => TensorType::new(ty.dtype, self.part(&ty.shape)),
            _ => ty.clone(),
        };
        let parameter = Op::Parameter {
            state: state.into(),
            kind,
            ty: ty.clone(),
            remote,
        };
        let value = self.insert(parameter, &[], name.clone(), place)?;
        let mapped = match (shape, kind) {
            (Some(shape), StateKind::OptimiserState) => Mapped::Part(value, shape),
            (Some(shape), StateKind::Accumulator) => {
                let rows = self.rows(value, &shape, &name, place)?;
                let sum = format!("{name}.reduce_scatter");
                let sum = self.insert(Op::ReduceScatter, &[rows], sum, place)?;
                Mapped::Part(self.mean(sum, &name, place)?, shape)
            }
            (Some(shape), StateKind::Weight) => {
                let rows = self.rows(value, &shape, &name, place)?;
                let own = self.insert(Op::Shard, &[rows], format!("{name}.shard"), place)?;
                Mapped::Part(own, shape)
            }
            (None, StateKind::Accumulator) => {
                let sum = format!("{name}.all_reduce");
                let sum = self.insert(Op::AllReduce, &[value], sum, place)?;
                Mapped::Whole(self.mean(sum, &name, place)?)
            }
            _ => Mapped::Whole(value),
        };
        self.set(id, mapped);
        Ok(())
    }

    /// One row a replica; rows of zeroes fill up what does not come out even.
    fn rows(&mut self, value: Value, shape: &Shape, name: &str, place: Place) -> Built {
        let replicas = self.replication.replicas as usize;
        let padded = self.padded(shape);
        let value = match padded[0] - shape[0] {
            0 => value,
            rows => self.pad(value, shape, rows, name, place)?,
        };
        let shape = Shape::new(&[replicas, padded.elements() / replicas]);
        self.insert(
            Op::Reshape { shape },
            &[value],
            format!("{name}.rows"),
            place,
        )
    }

    /// `shape` with as many rows as can be dealt out evenly.
    fn padded(&self, shape: &Shape) -> Shape {
        let mut padded = shape.clone();
        padded.0[0] = shape[0].next_multiple_of(self.replication.replicas as usize);
        padded
    }

    fn pad(&mut self, value: Value, shape: &Shape, rows: usize, name: &str, place: Place) -> Built {
        let mut zeroes = shape.clone();
        zeroes.0[0] = rows;
        let zeroes = Op::Constant {
            value: Real(0.0),
            ty: TensorType::new(self.new.ty(value).dtype, zeroes),
        };
        let zeroes = self.insert(zeroes, &[], format!("{name}.padding"), place)?;
        let both = [value, zeroes];
        let name = format!("{name}.padded");
        self.insert(Op::Concat { axis: 0 }, &both, name, place)
    }

    fn part(&self, shape: &Shape) -> Shape {
        let padded = self.padded(shape).elements();
        Shape::new(&[padded / self.replication.replicas as usize])
    }

    /// The mean over the replicas, from the sum.
    fn mean(&mut self, sum: Value, name: &str, place: Place) -> Built {
        let ty = TensorType::new(self.new.ty(sum).dtype, Shape::scalar());
        let value = Real(1.0 / f64::from(self.replication.replicas));
        let factor = self.insert(
            Op::Constant { value, ty },
            &[],
            format!("{name}.share"),
            place,
        )?;
        let times = Op::Binary(BinaryOp::Mul);
        self.insert(times, &[sum, factor], format!("{name}.mean"), place)
    }

    /// A sharded weight is gathered again before it is assigned.
    fn assign(&mut self, id: OpId, state: &str) -> Result<(), TypeError> {
        let node = self.old.node(id);
        let (name, place) = (node.name.clone(), node.place);
        let value = match self.values[&node.operands()[0]].clone() {
            Mapped::Whole(value) => value,
            Mapped::Partial(value) => self.sum(value, &name, place)?,
            Mapped::Part(part, shape) => {
                if self.is_kept_in_parts(state) {
                    part
                } else {
                    let replicas = self.replication.replicas as usize;
                    let gather = Op::AllGather { replicas };
                    let rows =
                        self.insert(gather, &[part], format!("{state}.all_gather"), place)?;
                    let padded = self.padded(&shape);
                    let is_padded = padded != shape;
                    let whole = Op::Reshape { shape: padded };
                    let whole = self.insert(whole, &[rows], format!("{state}.whole"), place)?;
                    if is_padded {
                        let rows = Op::Slice {
                            axis: 0,
                            start: 0,
                            len: shape[0],
                        };
                        self.insert(rows, &[whole], format!("{state}.rows"), place)?
                    } else {
                        whole
                    }
                }
            }
        };
        let assign = Op::Assign {
            state: state.into(),
        };
        self.new.insert(assign, &[value], name, place)?;
        Ok(())
    }

    fn is_kept_in_parts(&self, state: &str) -> bool {
        let mut parameters = self.old.parameters();
        let is_optimiser = |(_, s, kind, _): (OpId, &str, StateKind, &TensorType)| {
            s == state && kind == StateKind::OptimiserState
        };
        self.shards.contains_key(state) && parameters.any(is_optimiser)
    }

    /// Entries that are partial sums of the replica's part are summed over the replicas together, as one scalar.
    fn concat(&mut self, id: OpId, axis: usize) -> Result<(), TypeError> {
        let node = self.old.node(id);
        let (name, place) = (node.name.clone(), node.place);
        let (mut whole, mut partial) = (Vec::new(), Vec::new());
        for v in node.operands() {
            match self.values[v].clone() {
                Mapped::Whole(value) => whole.push(value),
                Mapped::Partial(value) => partial.push(value),
                Mapped::Part(..) => return self.copy(id),
            }
        }
        if partial.is_empty() {
            return self.copy(id);
        }
        let parts = format!("{name}.parts");
        let all = self.insert(Op::Concat { axis }, &partial, parts.clone(), place)?;
        let sum = Op::Reduce {
            kind: ReduceKind::Sum,
            leading: 1,
            out: None,
        };
        let sum = self.insert(sum, &[all], format!("{parts}.sum"), place)?;
        let sum = self.sum(sum, &parts, place)?;
        let one = Op::Reshape {
            shape: Shape::new(&[1]),
        };
        whole.push(self.insert(one, &[sum], format!("{parts}.entry"), place)?);
        let all = self.insert(Op::Concat { axis }, &whole, name, place)?;
        // Fewer entries than before: whoever reduces them does not mind, and nobody else reads them.
        self.set(id, Mapped::Whole(all));
        Ok(())
    }

    fn sum(&mut self, partial: Value, name: &str, place: Place) -> Built {
        self.insert(
            Op::AllReduce,
            &[partial],
            format!("{name}.all_reduce"),
            place,
        )
    }

    /// The same op on what its operands have become.
    fn copy(&mut self, id: OpId) -> Result<(), TypeError> {
        let node = self.old.node(id);
        let (name, place) = (node.name.clone(), node.place);
        let part = node.operands().iter().find_map(|v| match &self.values[v] {
            Mapped::Part(_, shape) => Some(shape.clone()),
            _ => None,
        });
        let reduces = matches!(node.op, Op::Reduce { .. });
        let is_view = node.op.is_view();
        let mut partial = false;
        let mut operands = Vec::with_capacity(node.operands().len());
        for v in node.operands() {
            operands.push(match self.values[v].clone() {
                Mapped::Whole(value) => match &part {
                    Some(shape) if self.new.ty(value).shape == *shape => {
                        let rows = self.rows(value, shape, &name, place)?;
                        self.insert(Op::Shard, &[rows], format!("{name}.shard"), place)?
                    }
                    _ => value,
                },
                Mapped::Part(value, _) => value,
                Mapped::Partial(value) if is_view => {
                    partial = true;
                    value
                }
                Mapped::Partial(value) => self.sum(value, &name, place)?,
            });
        }
        let op = match (&node.op, &part) {
            (Op::Reduce { kind, out, .. }, Some(_)) => Op::Reduce {
                kind: *kind,
                leading: 1,
                out: *out,
            },
            (Op::Broadcast { shape }, Some(whole)) if shape == whole => Op::Broadcast {
                shape: self.part(whole),
            },
            (op, _) => (*op).clone(),
        };
        let copy = self.new.insert(op, &operands, name, place)?;
        for result in 0..node.results().len() as u32 {
            let value = Value { op: copy, result };
            let mapped = match &part {
                Some(_) if reduces => Mapped::Partial(value),
                Some(shape) => Mapped::Part(value, shape.clone()),
                None if partial => Mapped::Partial(value),
                None => Mapped::Whole(value),
            };
            self.values.insert(Value { op: id, result }, mapped);
        }
        Ok(())
    }
}

type Built = Result<Value, TypeError>;

#[cfg(test)]
mod tests {
    use superstep_ir::graph::build::Builder;
    use superstep_ir::interpret::{Tensor, run, run_replicas};

    use super::*;
    use crate::testing::random_environment;
    use crate::training::{Moments, Optimiser, TrainingOptions, training_module};

    fn update(rows: usize) -> Graph {
        let mut forward = Graph::new("forward");
        let mut b = Builder::new(&mut forward);
        let x = b.input("x", TensorType::f32([3, rows])).unwrap();
        let w = b
            .parameter("w", StateKind::Weight, TensorType::f32([rows, 4]))
            .unwrap();
        let bias = b
            .parameter("b", StateKind::Weight, TensorType::f32([4]))
            .unwrap();
        let y = b.matmul("y", x, w, false, false).unwrap();
        let y = b.add("z", y, bias).unwrap();
        let loss = b.reduce("loss", ReduceKind::Sum, 2, y).unwrap();
        b.output("loss", loss).unwrap();
        let options = TrainingOptions {
            optimiser: Optimiser::AdamW {
                moments: Moments {
                    beta1: 0.9,
                    beta2: 0.99,
                    epsilon: 1e-3,
                    bias_correction: true,
                },
                weight_decay: 0.1,
            },
            gradient_accumulation_steps: 1,
            numerics: Default::default(),
            max_grad_norm: Some(0.5),
            decayed: ["w".to_string()].into(),
        };
        let module = training_module(&forward, &options).unwrap();
        module.graph("update").unwrap().clone()
    }

    /// States of one replica of two, from the states of one alone; both have half of `w`'s moments when those are shared out.
    fn states_of(
        alone: &BTreeMap<String, Tensor>,
        replicated: &Graph,
        replica: usize,
    ) -> BTreeMap<String, Tensor> {
        let mut states = alone.clone();
        for (_, state, _, ty) in replicated.parameters() {
            let whole = &alone[state];
            let n = ty.shape.elements();
            if n < whole.data.len() {
                let rest = &whole.data[replica * n..];
                let mut data = rest[..n.min(rest.len())].to_vec();
                data.resize(n, 0.0);
                states.insert(state.into(), Tensor::new(ty.clone(), data).unwrap());
            }
        }
        states
    }

    #[test]
    fn replicas_update_as_one_with_the_mean_of_their_gradients() {
        // Of seven rows one replica has four, the other three and one of zeroes.
        for (rows, sharded) in [(6, None), (6, Some(8)), (7, Some(8))] {
            let update = update(rows);
            let replication = Replication {
                replicas: 2,
                sharded,
            };
            let replicated = replicate(&update, replication).unwrap();
            superstep_ir::verify::verify_graph(&replicated).unwrap();
            let (alone, inputs) = random_environment(&update, 5);
            let mut replicas: Vec<_> = (0..2).map(|r| states_of(&alone, &replicated, r)).collect();
            // Gradients that average to those of one alone.
            for (replica, by) in [(0, 0.75), (1, 1.25)] {
                for name in ["accum.w", "accum.b"] {
                    let gradient = replicas[replica].get_mut(name).unwrap();
                    gradient.data.iter_mut().for_each(|x| *x *= by);
                }
            }
            let mut expected = alone.clone();
            let outputs = run(&update, &mut expected, &inputs).unwrap();
            let got = run_replicas(&replicated, &mut replicas, &[inputs.clone(), inputs]).unwrap();
            for (replica, states) in replicas.iter().enumerate() {
                let norm = got[replica]["grad_norm"].data[0];
                assert!((norm - outputs["grad_norm"].data[0]).abs() < 1e-12);
                for (name, want) in &states_of(&expected, &replicated, replica) {
                    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
                    let found = &states[name];
                    assert_eq!(found.ty, want.ty, "{name}");
                    assert!(
                        found.data.iter().zip(&want.data).all(near),
                        "{name} {sharded:?}"
                    );
                }
            }
        }
    }
}
