//! The reference interpreter against the golden data: GPT-2 from its Hugging Face folder, through differentiation and the
//! optimiser, in f64. The expected numbers come from a float64 run too, so they must agree to far more digits than any f32
//! program will; what is stored as f32 agrees to the rounding of that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use superstep::frontend::VocabularySlices;
use superstep::frontend::model::{GraphOptions, gpt2_graph};
use superstep::frontend::safetensors_in::SafetensorsFile;
use superstep::frontend::{Gpt2Config, load_weights};
use superstep_ir::graph::Module;
use superstep_ir::interpret::{self, Tensor};
use superstep_ir::op::StateKind;
use superstep_ir::types::{DType, TensorType};
use superstep_passes::manager::PassManager;
use superstep_passes::pipeline;
use superstep_passes::training::{Moments, Numerics, Optimiser, TrainingOptions, training_module};

type Tensors = BTreeMap<String, Tensor>;

const BATCH: usize = 2;
const SEQ: usize = 48;

fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/tiny").join(name)
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn numbers(list: &Json) -> Vec<f64> {
    let list = list.as_array().unwrap().iter();
    list.map(|x| x.as_f64().unwrap()).collect()
}

/// The reference model in training, and the data it trains on.
struct Training {
    module: Module,
    states: Tensors,
    tokens: Json,
    accumulation: usize,
}

impl Training {
    /// `hyper` is the object of `expected.json` that tells the settings.
    fn new(hyper: &Json) -> Training {
        let config = Gpt2Config::load(&fixture("")).unwrap();
        let graph_options = GraphOptions {
            batch: BATCH,
            seq: SEQ,
            labels: true,
            logits: true,
            dropout: false,
            loss_chunks: 1,
            vocabulary: VocabularySlices::whole(config.vocab_size),
        };
        let forward = gpt2_graph(&config, graph_options).unwrap();
        let number = |key: &str| hyper[key].as_f64().unwrap();
        let betas = numbers(&hyper["betas"]);
        let decayed = config.parameters().into_iter().filter(|p| p.decayed);
        let options = TrainingOptions {
            optimiser: Optimiser::AdamW {
                moments: Moments {
                    beta1: betas[0],
                    beta2: betas[1],
                    epsilon: number("eps"),
                    bias_correction: true,
                },
                weight_decay: number("weight_decay"),
            },
            gradient_accumulation_steps: number("accumulation") as u32,
            max_grad_norm: hyper["clip"].as_f64(),
            decayed: decayed.map(|p| p.name).collect(),
            numerics: Numerics::default(),
        };
        let module = training_module(&forward, &options).unwrap();
        let mut states = Tensors::new();
        for (name, tensor) in load_weights(&fixture(""), &config).unwrap().weights.iter() {
            let data = tensor.data.iter().map(|&x| f64::from(x)).collect();
            let ty = TensorType::f32(&tensor.shape[..]);
            states.insert(name.to_string(), Tensor::new(ty, data).unwrap());
        }
        for (_, name, kind, ty) in module.graphs.iter().flat_map(|g| g.parameters()) {
            if kind != StateKind::Weight {
                states.insert(name.to_string(), Tensor::filled(ty.clone(), 0.0));
            }
        }
        Training {
            module,
            states,
            tokens: json("tokens.json"),
            accumulation: options.gradient_accumulation_steps as usize,
        }
    }

    /// The same training after the standard passes.
    fn optimised(mut self) -> Training {
        let mut manager = PassManager::new(pipeline::standard());
        manager.run_module(&mut self.module).unwrap();
        self
    }

    fn micro_batch(&mut self, step: usize, index: usize) -> Tensors {
        let rows = self.tokens["ids"][step][index].as_array().unwrap();
        let (mut tokens, mut labels) = (Vec::new(), Vec::new());
        for row in rows {
            let row = numbers(row);
            labels.extend(row[1..].iter().copied().chain([-100.0]));
            tokens.extend(row);
        }
        let ty = TensorType::i32([BATCH, SEQ]);
        let inputs = [("tokens", tokens), ("labels", labels)];
        let inputs = inputs.map(|(name, data)| {
            let tensor = Tensor::new(ty.clone(), data).unwrap();
            (name.to_string(), tensor)
        });
        let graph = self.module.graph("micro_batch").unwrap();
        interpret::run(graph, &mut self.states, &inputs.into()).unwrap()
    }

    /// Runs the update; returns the norm of the gradient.
    fn update(&mut self, learning_rate: f64) -> f64 {
        let rate = Tensor::scalar(DType::F32, learning_rate);
        let inputs = Tensors::from([("learning_rate".to_string(), rate)]);
        let graph = self.module.graph("update").unwrap();
        let outputs = interpret::run(graph, &mut self.states, &inputs).unwrap();
        outputs["grad_norm"].data[0]
    }

    /// Compares losses and norms of the first `steps` steps, and the state after each step with `at`.
    fn follow(&mut self, expected: &Json, norms: &str, steps: usize, at: impl Fn(&Tensors, usize)) {
        let (losses, rates) = (numbers(&expected["loss"]), numbers(&expected["lr"]));
        let norms = numbers(&expected[norms]);
        for step in 0..steps {
            let total: f64 = (0..self.accumulation)
                .map(|i| self.micro_batch(step, i)["loss"].data[0])
                .sum();
            let loss = total / self.accumulation as f64;
            let norm = self.update(rates[step]);
            close(&format!("loss of step {step}"), loss, losses[step]);
            close(&format!("norm of step {step}"), norm, norms[step]);
            at(&self.states, step + 1);
        }
    }
}

fn close(what: &str, got: f64, want: f64) {
    assert!(
        (got - want).abs() <= 1e-10 * want.abs(),
        "{what} is {got}, expected {want}"
    );
}

/// Compares states with a file by relative L2 per tensor. `state` is the name in the module of a name in the file.
fn compare(states: &Tensors, file: &str, state: impl Fn(&str) -> String) {
    let mut file = SafetensorsFile::open(&fixture(file)).unwrap();
    let names = file.names();
    assert!(!names.is_empty());
    for name in names {
        let want = file.read_f32(&name).unwrap();
        let got = &states[&state(&name.replace("transformer.", ""))].data;
        assert_eq!(got.len(), want.len(), "{name}");
        let square = |x: f64| x * x;
        let pairs = got.iter().zip(&want);
        let error: f64 = pairs.map(|(g, &w)| square(g - f64::from(w))).sum();
        let size: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
        // The gradient of the key bias is zero but for rounding, which makes a third of this tensor noise.
        let slack = if name.ends_with("c_attn.bias") {
            1e-14
        } else {
            0.0
        };
        assert!(
            error.sqrt() <= 1e-7 * size.sqrt() + slack,
            "{name}: off by {}",
            (error / size).sqrt()
        );
    }
}

fn weights_and_moments(states: &Tensors, step: usize) {
    let label = match step {
        2 | 10 => format!("step{step}"),
        50 => "final".to_string(),
        _ => return,
    };
    compare(
        states,
        &format!("weights_{label}.safetensors"),
        str::to_string,
    );
    compare(states, &format!("adam_{label}.safetensors"), str::to_string);
}

#[test]
fn logits_loss_and_gradients_of_the_first_step() {
    let expected = json("expected.json");
    for optimised in [false, true] {
        let mut training = Training::new(&expected["hyper"]);
        if optimised {
            training = training.optimised();
        }
        let losses = numbers(&expected["train"]["micro_loss_step0"]);
        for (i, &want) in losses.iter().enumerate() {
            let outputs = training.micro_batch(0, i);
            close("loss", outputs["loss"].data[0], want);
            if i > 0 {
                continue;
            }
            let mut forward = SafetensorsFile::open(&fixture("forward.safetensors")).unwrap();
            let logits = forward.read_f32("logits").unwrap();
            for (got, &want) in outputs["logits"].data.iter().zip(&logits) {
                assert!((got - f64::from(want)).abs() < 1e-6);
            }
            // The accumulators hold a quarter of this micro-batch's gradient.
            let scale = |(name, t): (&String, &Tensor)| {
                let data = t.data.iter().map(|x| x * 4.0).collect();
                let ty = t.ty.clone();
                (name.clone(), Tensor { ty, data })
            };
            let scaled = training.states.iter().map(scale).collect();
            compare(&scaled, "grads_micro0.safetensors", |n| {
                format!("accum.{n}")
            });
        }
        compare(&training.states, "grads_step0.safetensors", |n| {
            format!("accum.{n}")
        });
    }
}

#[test]
fn fifty_steps() {
    let expected = json("expected.json");
    let mut training = Training::new(&expected["hyper"]).optimised();
    training.follow(&expected["train"], "grad_norm", 50, weights_and_moments);
}

#[test]
fn ten_steps_without_passes() {
    let expected = json("expected.json");
    let mut training = Training::new(&expected["hyper"]);
    training.follow(&expected["train"], "grad_norm", 10, weights_and_moments);
}

#[test]
fn ten_clipped_steps() {
    let expected = &json("expected.json")["train_clipped"];
    let mut training = Training::new(&expected["hyper"]).optimised();
    training.follow(expected, "grad_norm_before_clip", 10, |_, _| {});
}
