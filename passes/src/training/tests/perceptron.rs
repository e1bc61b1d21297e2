//! A perceptron with one hidden layer: forward, backward and optimiser written out as loops.

use superstep_ir::graph::Graph;
use superstep_ir::graph::build::Builder;
use superstep_ir::op::{ReduceKind, UnaryOp};
use superstep_ir::types::{DType, TensorType};

use super::*;
use crate::differentiate::tests::Numbers;

const ROWS: usize = 5;
const INPUTS: usize = 3;
const HIDDEN: usize = 7;
const CLASSES: usize = 4;

/// Mean over the rows of cross_entropy(tanh(x·w1 + b1)·w2 + b2, labels).
pub(super) fn graph() -> Graph {
    let mut graph = Graph::new("forward");
    let mut b = Builder::new(&mut graph);
    let weight = |b: &mut Builder<'_>, name: &str, dims: &[usize]| {
        b.parameter(name, StateKind::Weight, TensorType::f32(dims))
            .unwrap()
    };
    let x = b.input("x", TensorType::f32([ROWS, INPUTS])).unwrap();
    let labels = b
        .input("labels", TensorType::new(DType::I32, [ROWS]))
        .unwrap();
    let w1 = weight(&mut b, "w1", &[INPUTS, HIDDEN]);
    let b1 = weight(&mut b, "b1", &[HIDDEN]);
    let w2 = weight(&mut b, "w2", &[HIDDEN, CLASSES]);
    let b2 = weight(&mut b, "b2", &[CLASSES]);
    let wide = b.matmul("wide", x, w1, false, false).unwrap();
    let wide = b.add("wide.bias", wide, b1).unwrap();
    let hidden = b.unary("hidden", UnaryOp::Tanh, wide).unwrap();
    let logits = b.matmul("logits", hidden, w2, false, false).unwrap();
    let logits = b.add("logits.bias", logits, b2).unwrap();
    let losses = b
        .op("losses", Op::CrossEntropy { padding: 0 }, &[logits, labels])
        .unwrap();
    let sum = b.reduce("sum", ReduceKind::Sum, 1, losses).unwrap();
    let loss = b.scale("loss", sum, 1.0 / ROWS as f64).unwrap();
    b.output("loss", loss).unwrap();
    graph
}

type Weights = BTreeMap<String, Vec<f64>>;

/// Loss and gradients, element by element.
fn by_hand(w: &Weights, x: &[f64], labels: &[f64]) -> (f64, Weights) {
    let mut grads: Weights = w
        .iter()
        .map(|(n, w)| (n.clone(), vec![0.0; w.len()]))
        .collect();
    let mut loss = 0.0;
    for r in 0..ROWS {
        let x = &x[r * INPUTS..][..INPUTS];
        let hidden: Vec<f64> = (0..HIDDEN)
            .map(|h| {
                let dot: f64 = (0..INPUTS).map(|i| x[i] * w["w1"][i * HIDDEN + h]).sum();
                (dot + w["b1"][h]).tanh()
            })
            .collect();
        let powers: Vec<f64> = (0..CLASSES)
            .map(|c| {
                let dot: f64 = (0..HIDDEN)
                    .map(|h| hidden[h] * w["w2"][h * CLASSES + c])
                    .sum();
                (dot + w["b2"][c]).exp()
            })
            .collect();
        let total: f64 = powers.iter().sum();
        let label = labels[r] as usize;
        loss -= (powers[label] / total).ln() / ROWS as f64;
        let mut to_hidden = [0.0; HIDDEN];
        for c in 0..CLASSES {
            let wrong = if c == label { 1.0 } else { 0.0 };
            let g = (powers[c] / total - wrong) / ROWS as f64;
            grads.get_mut("b2").unwrap()[c] += g;
            for h in 0..HIDDEN {
                grads.get_mut("w2").unwrap()[h * CLASSES + c] += hidden[h] * g;
                to_hidden[h] += w["w2"][h * CLASSES + c] * g;
            }
        }
        for h in 0..HIDDEN {
            let g = to_hidden[h] * (1.0 - hidden[h] * hidden[h]);
            grads.get_mut("b1").unwrap()[h] += g;
            for (i, x) in x.iter().enumerate() {
                grads.get_mut("w1").unwrap()[i * HIDDEN + h] += x * g;
            }
        }
    }
    (loss, grads)
}

fn check(optimiser: Optimiser, max_grad_norm: Option<f64>, accumulation: u32) {
    let forward = graph();
    let options = TrainingOptions {
        optimiser,
        gradient_accumulation_steps: accumulation,
        max_grad_norm,
        decayed: matrices(&forward),
        numerics: Numerics::default(),
    };
    assert_eq!(options.decayed, ["w1", "w2"].map(String::from).into());
    let module = training_module(&forward, &options).unwrap();
    let mut numbers = Numbers::new(3);
    let mut states: Tensors = forward
        .parameters()
        .map(|(_, name, _, ty)| (name.to_string(), numbers.tensor(ty.clone(), -1.0, 1.0)))
        .collect();
    let mut weights: Weights = states
        .iter()
        .map(|(n, t)| (n.clone(), t.data.clone()))
        .collect();
    zero_states(&module, &mut states);
    let mut loop_by_hand = ByHand::new(optimiser, max_grad_norm);

    for step in 0..4 {
        let lr = 0.1 * f64::from(step);
        let batches: Vec<Tensors> = (0..accumulation)
            .map(|_| {
                let x = numbers.tensor(TensorType::f32([ROWS, INPUTS]), -2.0, 2.0);
                let mut labels = numbers.tensor(TensorType::i32([ROWS]), 0.0, CLASSES as f64);
                labels.data.iter_mut().for_each(|l| *l = l.floor());
                Tensors::from([("x".to_string(), x), ("labels".to_string(), labels)])
            })
            .collect();
        let mut sums: Weights = BTreeMap::new();
        let mut want_losses = Vec::new();
        for batch in &batches {
            let (loss, grads) = by_hand(&weights, &batch["x"].data, &batch["labels"].data);
            want_losses.push(loss);
            for (name, g) in grads {
                let sum = sums.entry(name).or_insert_with(|| vec![0.0; g.len()]);
                let parts = sum.iter_mut().zip(g);
                parts.for_each(|(s, g)| *s += g / f64::from(accumulation));
            }
        }
        let want_norm = loop_by_hand.step(&mut weights, &sums, &options.decayed, lr);

        let (losses, norm) = train_step(&module, &mut states, &batches, lr);
        close("loss", &losses, &want_losses, 1e-12);
        close("norm", &[norm], &[want_norm], 1e-12);
        for (name, want) in &weights {
            close(name, &states[name].data, want, 1e-11);
            let accum = &states[&accumulator(name)].data;
            assert!(accum.iter().all(|&a| a == 0.0), "{name} is not reset");
        }
        assert_eq!(states["step"].data, [f64::from(step + 1)]);
    }
    for (name, want) in &loop_by_hand.first {
        if let Some(m) = states.get(&format!("exp_avg.{name}")) {
            close(name, &m.data, want, 1e-12);
            let v = &states[&format!("exp_avg_sq.{name}")].data;
            close(name, v, &loop_by_hand.second[name], 1e-12);
        }
    }
}

#[test]
fn adamw_with_and_without_clipping() {
    check(adamw(0.1), None, 1);
    check(adamw(0.1), Some(0.05), 3);
    check(adamw(0.0), Some(1e3), 2);
}

#[test]
fn adam_adds_the_decay_to_the_gradient() {
    let optimiser = Optimiser::Adam {
        moments: moments(),
        weight_decay: 0.1,
    };
    check(optimiser, Some(0.5), 2);
    let without_memory = Moments {
        beta1: 0.0,
        beta2: 0.0,
        epsilon: 1e-2,
        bias_correction: true,
    };
    let optimiser = Optimiser::Adam {
        moments: without_memory,
        weight_decay: 0.0,
    };
    check(optimiser, None, 1);
}

#[test]
fn sgd_with_and_without_momentum() {
    for momentum in [0.0, 0.8] {
        let optimiser = Optimiser::Sgd {
            momentum,
            weight_decay: 0.05,
        };
        check(optimiser, Some(0.3), 2);
    }
}
