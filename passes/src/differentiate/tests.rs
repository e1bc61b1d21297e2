//! Every gradient rule against finite differences of the interpreter.
//!
//! A case builds some value from parameters; its elements, weighted with random numbers, are summed to a loss. In f64 central
//! differences are good to about 1e-9, so a wrong rule cannot hide.

mod cases;
mod form;
mod random_graphs;

use std::collections::BTreeMap;

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::interpret::{self, Tensor};
use superstep_ir::op::infer::TypeError;
use superstep_ir::op::{ReduceKind, StateKind};
use superstep_ir::types::{DType, Shape, TensorType};

use super::*;

/// Step of the differences.
const STEP: f64 = 1e-5;

/// Numbers in [low, high), the same for the same seed.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(2).wrapping_add(1))
    }

    pub(crate) fn next(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        low + (high - low) * (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn tensor(&mut self, ty: TensorType, low: f64, high: f64) -> Tensor {
        let data = (0..ty.shape.elements())
            .map(|_| self.next(low, high))
            .collect();
        Tensor { ty, data }
    }
}

/// Shapes of the parameters, the range of their values, and what is made of them.
struct Case<'a> {
    shapes: &'a [&'a [usize]],
    range: (f64, f64),
    /// Integer inputs by stream name.
    ids: &'a [(&'a str, &'a [i32])],
    /// Step of the differences, and how far a gradient may be from them.
    step: f64,
    tolerance: f64,
}

fn case<'a>(shapes: &'a [&'a [usize]]) -> Case<'a> {
    Case {
        shapes,
        range: (-1.5, 1.5),
        ids: &[],
        step: STEP,
        tolerance: 2e-7,
    }
}

impl<'a> Case<'a> {
    fn within(self, low: f64, high: f64) -> Case<'a> {
        Case {
            range: (low, high),
            ..self
        }
    }

    fn with_ids(self, ids: &'a [(&'a str, &'a [i32])]) -> Case<'a> {
        Case { ids, ..self }
    }

    /// Values on the way are halves: differences over many of them, compared to a few of their units.
    fn through_halves(self) -> Case<'a> {
        Case {
            step: 0.0625,
            tolerance: 0.04,
            ..self
        }
    }

    /// Compares the gradients of all parameters with finite differences.
    fn check(
        &self,
        build: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Value, TypeError>,
    ) -> Graph {
        let mut graph = Graph::new("case");
        let mut b = Builder::new(&mut graph);
        let name = |i: usize| format!("p{i}");
        let types: Vec<TensorType> = self.shapes.iter().map(|s| TensorType::f32(*s)).collect();
        let parameters: Vec<Value> = types
            .iter()
            .enumerate()
            .map(|(i, ty)| {
                b.parameter(&name(i), StateKind::Weight, ty.clone())
                    .unwrap()
            })
            .collect();
        let y = build(&mut b, &parameters).unwrap();
        let loss = weighted_sum(&mut b, y);
        b.output("loss", loss).unwrap();
        let forward = b.graph.clone();
        let seed = b
            .constant("seed", 0.7, TensorType::f32(Shape::scalar()))
            .unwrap();
        let gradients = differentiate(&mut graph, loss, seed, &parameters).unwrap();
        let mut b = Builder::new(&mut graph);
        for (i, g) in gradients.iter().enumerate() {
            b.output(&name(i), g.expect("the loss depends on every parameter"))
                .unwrap();
        }

        let mut numbers = Numbers::new(self.shapes.len() as u64);
        let (low, high) = self.range;
        let mut states: BTreeMap<String, Tensor> = types
            .iter()
            .enumerate()
            .map(|(i, ty)| (name(i), numbers.tensor(ty.clone(), low, high)))
            .collect();
        let inputs = self.inputs(&forward, &mut numbers);
        let outputs = interpret::run(&graph, &mut states, &inputs).unwrap();
        for i in 0..types.len() {
            let want = differences(self.step, &forward, &mut states, &inputs, &name(i));
            for (e, (got, want)) in outputs[&name(i)].data.iter().zip(want).enumerate() {
                let want = 0.7 * want;
                assert!(
                    (got - want).abs() <= self.tolerance * (1.0 + want.abs()),
                    "parameter {i}, element {e}: {got} but finite differences say {want}"
                );
            }
        }
        graph
    }

    fn inputs(&self, graph: &Graph, numbers: &mut Numbers) -> BTreeMap<String, Tensor> {
        let mut inputs = BTreeMap::new();
        for op in graph.ops() {
            if let Op::Input { stream, ty } = graph.op(op) {
                let tensor = match self.ids.iter().find(|(name, _)| name == stream) {
                    Some((_, ids)) => {
                        let data = ids.iter().map(|&i| f64::from(i)).collect();
                        Tensor::new(ty.clone(), data).unwrap()
                    }
                    None => numbers.tensor(ty.clone(), 0.5, 2.0),
                };
                inputs.insert(stream.clone(), tensor);
            }
        }
        inputs
    }
}

/// `Σ y ⊙ r` with an input `r`, so that no two elements of `y` have the same gradient.
fn weighted_sum(b: &mut Builder<'_>, y: Value) -> Value {
    let ty = b.graph.ty(y).clone();
    let rank = ty.shape.rank();
    let weights = b.input("weights", ty).unwrap();
    let product = b.mul("weighted", y, weights).unwrap();
    b.reduce("loss", ReduceKind::Sum, rank, product).unwrap()
}

/// Central differences of output `loss` for every element of a state.
pub(crate) fn slopes(
    forward: &Graph,
    states: &mut BTreeMap<String, Tensor>,
    inputs: &BTreeMap<String, Tensor>,
    state: &str,
) -> Vec<f64> {
    differences(STEP, forward, states, inputs, state)
}

fn differences(
    step: f64,
    forward: &Graph,
    states: &mut BTreeMap<String, Tensor>,
    inputs: &BTreeMap<String, Tensor>,
    state: &str,
) -> Vec<f64> {
    (0..states[state].data.len())
        .map(|e| {
            let before = states[state].data[e];
            let mut at = |x: f64| {
                states.get_mut(state).unwrap().data[e] = x;
                interpret::run(forward, states, inputs).unwrap()["loss"].data[0]
            };
            let slope = (at(before + step) - at(before - step)) / (2.0 * step);
            at(before);
            slope
        })
        .collect()
}

fn i32s(n: usize) -> TensorType {
    TensorType::new(DType::I32, [n])
}
