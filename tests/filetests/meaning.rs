//! What a graph means: its outputs and new states on random inputs and states, by the reference interpreter.

use std::collections::BTreeMap;

use superstep_ir::graph::Graph;
use superstep_ir::interpret::{Tensor, run};
use superstep_ir::op::{Op, StateKind};
use superstep_ir::types::{DType, TensorType};

type Tensors = BTreeMap<String, Tensor>;

/// Passes may reorder arithmetic in f64, not more.
const TOLERANCE: f64 = 1e-9;

/// Runs two graphs on the same random values, several times.
pub(crate) fn compare(before: &Graph, after: &Graph) -> Result<(), String> {
    for seed in 0..3 {
        let (states, inputs) = environment(before, seed);
        let outcome = |graph: &Graph| -> Result<(Tensors, Tensors), String> {
            let mut states = states.clone();
            let outputs = run(graph, &mut states, &inputs).map_err(|e| e.to_string())?;
            Ok((outputs, states))
        };
        let old = outcome(before).map_err(|e| format!("before: {e}"))?;
        let new = outcome(after).map_err(|e| format!("after: {e}"))?;
        equal("output", &old.0, &new.0)?;
        equal("state", &old.1, &new.1)?;
    }
    Ok(())
}

fn equal(what: &str, old: &Tensors, new: &Tensors) -> Result<(), String> {
    if !old.keys().eq(new.keys()) {
        let (old, new): (Vec<_>, Vec<_>) = (old.keys().collect(), new.keys().collect());
        return Err(format!("{what}s were {old:?}, are {new:?}"));
    }
    for ((name, x), y) in old.iter().zip(new.values()) {
        let is_close = |(a, b): (&f64, &f64)| {
            let scale = 1.0 + a.abs().max(b.abs());
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * scale
        };
        if x.ty != y.ty || !x.data.iter().zip(&y.data).all(is_close) {
            return Err(format!("{what} {name:?} was {x:?}, is {y:?}"));
        }
    }
    Ok(())
}

/// A small deterministic source of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Floats in `low..1`; integers in `0..3`, so that tables of a test need three entries.
    fn tensor(&mut self, ty: &TensorType, low: f64) -> Tensor {
        let data = (0..ty.shape.elements())
            .map(|_| match ty.dtype {
                DType::F32 | DType::F16 => {
                    let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
                    low + (1.0 - low) * unit
                }
                _ => (self.next() % 3) as f64,
            })
            .collect();
        Tensor {
            ty: ty.clone(),
            data,
        }
    }
}

/// Values of every state and stream that the graph reads. Moments and counters are positive, as they are in life.
fn environment(graph: &Graph, seed: u64) -> (Tensors, Tensors) {
    let mut random = Random(seed);
    let (mut states, mut inputs) = (Tensors::new(), Tensors::new());
    for op in graph.ops() {
        match graph.op(op) {
            Op::Parameter {
                state, kind, ty, ..
            } => {
                let low = match kind {
                    StateKind::OptimiserState | StateKind::Counter => 0.1,
                    StateKind::Weight | StateKind::Accumulator | StateKind::Cache => -1.0,
                };
                states.insert(state.clone(), random.tensor(ty, low));
            }
            Op::Input { stream, ty } => {
                inputs.insert(stream.clone(), random.tensor(ty, -1.0));
            }
            _ => {}
        }
    }
    (states, inputs)
}
