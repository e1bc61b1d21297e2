//! Tests of meaning: a pass is right when the interpreter computes the same before and after it, on random inputs.

use std::collections::BTreeMap;

use superstep_ir::graph::{Graph, Value};
use superstep_ir::ids::OpId;
use superstep_ir::interpret::{Tensor, run};
use superstep_ir::op::{Op, StateKind};
use superstep_ir::types::{DType, TensorType};

use crate::pass::{Pass, PassContext};
use crate::training::{Optimiser, TrainingOptions};

/// Training whose update is the gradient times the rate and nothing else.
pub(crate) fn plain_descent() -> TrainingOptions {
    TrainingOptions {
        optimiser: Optimiser::Sgd {
            momentum: 0.0,
            weight_decay: 0.0,
        },
        gradient_accumulation_steps: 1,
        max_grad_norm: None,
        decayed: Default::default(),
        numerics: Default::default(),
    }
}

/// A small deterministic source of numbers (splitmix64): tests need variety, not quality.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In `low..high`.
    pub(crate) fn real(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn tensor(&mut self, ty: &TensorType, low: f64, high: f64) -> Tensor {
        let data = (0..ty.shape.elements())
            .map(|_| match ty.dtype {
                DType::F32 | DType::F16 => self.real(low, high),
                _ => self.below(3) as f64,
            })
            .collect();
        Tensor {
            ty: ty.clone(),
            data,
        }
    }
}

/// Values for every state and stream that `graph` reads. Ids are in `0..3`; optimiser state is not negative.
pub(crate) fn random_environment(
    graph: &Graph,
    seed: u64,
) -> (BTreeMap<String, Tensor>, BTreeMap<String, Tensor>) {
    let mut random = Random::new(seed);
    let (mut states, mut inputs) = (BTreeMap::new(), BTreeMap::new());
    for op in graph.ops() {
        match graph.op(op) {
            Op::Parameter {
                state, kind, ty, ..
            } => {
                let low = match kind {
                    StateKind::OptimiserState | StateKind::Counter => 0.1,
                    _ => -1.0,
                };
                states.insert(state.clone(), random.tensor(ty, low, 1.0));
            }
            Op::Input { stream, ty } => {
                inputs.insert(stream.clone(), random.tensor(ty, -1.0, 1.0));
            }
            _ => {}
        }
    }
    (states, inputs)
}

/// Runs `pass` on a copy of `graph`, asserts that it means the same, and returns it.
pub(crate) fn check(pass: &dyn Pass, graph: &Graph) -> Graph {
    let mut after = graph.clone();
    pass.run(&mut after, &mut PassContext::new()).unwrap();
    assert_same_meaning(graph, &after);
    after
}

pub(crate) fn assert_same_meaning(before: &Graph, after: &Graph) {
    for seed in 0..2 {
        let (states, inputs) = random_environment(before, seed);
        let (mut states_before, mut states_after) = (states.clone(), states);
        let outputs_before = run(before, &mut states_before, &inputs).unwrap();
        let outputs_after = run(after, &mut states_after, &inputs).unwrap();
        assert_close(&outputs_before, &outputs_after);
        assert_close(&states_before, &states_after);
    }
}

fn assert_close(before: &BTreeMap<String, Tensor>, after: &BTreeMap<String, Tensor>) {
    assert!(before.keys().eq(after.keys()));
    for (name, old) in before {
        let new = &after[name];
        assert_eq!(old.ty, new.ty, "type of {name}");
        for (i, (x, y)) in old.data.iter().zip(&new.data).enumerate() {
            assert!(close(*x, *y), "{name}[{i}]: {x} before, {y} after");
        }
    }
}

/// Equal to f64 rounding of a long computation; NaN equals NaN.
pub(crate) fn close(x: f64, y: f64) -> bool {
    x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-9 * (1.0 + x.abs().max(y.abs()))
}

/// The ops with a mnemonic, in canonical order.
pub(crate) fn ops_named(graph: &Graph, mnemonic: &str) -> Vec<OpId> {
    let mut ops = graph.topological();
    ops.retain(|&op| graph.op(op).name() == mnemonic);
    ops
}

/// The value of an output stream.
pub(crate) fn output(graph: &Graph, stream: &str) -> Value {
    let sink = graph
        .ops()
        .find(|&op| matches!(graph.op(op), Op::Output { stream: s } if s == stream))
        .unwrap();
    graph.node(sink).operands()[0]
}
