//! Training modules run by the interpreter, against loops written out by hand and against finite differences.

mod form;
mod gpt;
mod perceptron;

use std::collections::BTreeMap;

use superstep_ir::graph::Module;
use superstep_ir::interpret::{self, Tensor};
use superstep_ir::op::{Op, StateKind};
use superstep_ir::types::DType;

use super::*;

type Tensors = BTreeMap<String, Tensor>;

/// Adds every state of a module that starts at zero.
fn zero_states(module: &Module, states: &mut Tensors) {
    for graph in &module.graphs {
        for (_, state, kind, ty) in graph.parameters() {
            if kind != StateKind::Weight {
                let zeros = Tensor::filled(ty.clone(), 0.0);
                states.entry(state.to_string()).or_insert(zeros);
            }
        }
    }
}

/// One step: every micro-batch, then the update. Returns the losses and the norm of the gradient.
fn train_step(
    module: &Module,
    states: &mut Tensors,
    batches: &[Tensors],
    learning_rate: f64,
) -> (Vec<f64>, f64) {
    let (micro_batch, update) = (&module.graphs[0], &module.graphs[1]);
    let losses = batches
        .iter()
        .map(|batch| interpret::run(micro_batch, states, batch).unwrap()["loss"].data[0])
        .collect();
    let rate = Tensor::scalar(DType::F32, learning_rate);
    let inputs = Tensors::from([("learning_rate".to_string(), rate)]);
    let outputs = interpret::run(update, states, &inputs).unwrap();
    (losses, outputs["grad_norm"].data[0])
}

fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * (1.0 + w.abs()),
            "{what}[{i}] is {g}, expected {w}"
        );
    }
}

/// The optimisers once more, on flat slices, as their papers write them.
struct ByHand {
    optimiser: Optimiser,
    max_grad_norm: Option<f64>,
    step: i32,
    /// First and second moments, or momentum and nothing, by weight.
    first: BTreeMap<String, Vec<f64>>,
    second: BTreeMap<String, Vec<f64>>,
}

impl ByHand {
    fn new(optimiser: Optimiser, max_grad_norm: Option<f64>) -> ByHand {
        ByHand {
            optimiser,
            max_grad_norm,
            step: 0,
            first: BTreeMap::new(),
            second: BTreeMap::new(),
        }
    }

    /// Moves `weights` by `gradients`; returns the norm before clipping.
    fn step(
        &mut self,
        weights: &mut BTreeMap<String, Vec<f64>>,
        gradients: &BTreeMap<String, Vec<f64>>,
        decayed: &BTreeSet<String>,
        lr: f64,
    ) -> f64 {
        let squares = gradients.values().flatten().map(|g| g * g);
        let norm = squares.sum::<f64>().sqrt();
        let clip = self
            .max_grad_norm
            .map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.step += 1;
        for (name, p) in weights {
            let Some(gradient) = gradients.get(name) else {
                continue;
            };
            let zeros = || vec![0.0; p.len()];
            let m = self.first.entry(name.clone()).or_insert_with(zeros);
            let v = self.second.entry(name.clone()).or_insert_with(zeros);
            let decays = if decayed.contains(name) { 1.0 } else { 0.0 };
            for i in 0..p.len() {
                let g = gradient[i] * clip;
                match self.optimiser {
                    Optimiser::AdamW {
                        moments,
                        weight_decay,
                    } => {
                        p[i] -= lr * decays * weight_decay * p[i];
                        p[i] -= lr * adam(&moments, self.step, &mut m[i], &mut v[i], g);
                    }
                    Optimiser::Adam {
                        moments,
                        weight_decay,
                    } => {
                        let g = g + decays * weight_decay * p[i];
                        p[i] -= lr * adam(&moments, self.step, &mut m[i], &mut v[i], g);
                    }
                    Optimiser::Sgd {
                        momentum,
                        weight_decay,
                    } => {
                        m[i] = momentum * m[i] + g + decays * weight_decay * p[i];
                        p[i] -= lr * m[i];
                    }
                }
            }
        }
        norm
    }
}

fn adam(moments: &Moments, t: i32, m: &mut f64, v: &mut f64, g: f64) -> f64 {
    let Moments {
        beta1,
        beta2,
        epsilon,
        ..
    } = *moments;
    *m = beta1 * *m + (1.0 - beta1) * g;
    *v = beta2 * *v + (1.0 - beta2) * g * g;
    (*m / (1.0 - beta1.powi(t))) / ((*v / (1.0 - beta2.powi(t))).sqrt() + epsilon)
}

fn moments() -> Moments {
    Moments {
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-6,
        bias_correction: true,
    }
}

fn adamw(weight_decay: f64) -> Optimiser {
    Optimiser::AdamW {
        moments: moments(),
        weight_decay,
    }
}
