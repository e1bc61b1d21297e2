//! Shared by the whole-system tests: fixtures, and a compiled model fed with fixture tokens.
#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of this

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;
use superstep::frontend::model::{GraphOptions, gpt2_graph};
use superstep::frontend::vocabulary::TABLE;
use superstep::frontend::{Gpt2Config, VocabularySlices, Weights, load_weights};
use superstep::precision::PrecisionSettings;
use superstep_ir::graph::Module;
use superstep_ir::machine::Machine;
use superstep_ir::program::Program;
use superstep_passes::pass::PassContext;
use superstep_passes::plan::matmul::PlanStyle;
use superstep_passes::tensor_parallel::TensorParallel;
use superstep_passes::training::{Moments, Optimiser, TrainingOptions, matrices, training_module};
use superstep_passes::{CompileOptions, Compiled, Pass, compile};
use superstep_runtime::HostError;
use superstep_runtime::{Engine, EngineOptions, Host};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

pub fn json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).expect("fixture")).expect("fixture is JSON")
}

/// A golden case: model, weights, tokens `[steps][accumulation]` of one micro-batch each, and what is expected.
pub struct Golden {
    pub folder: PathBuf,
    pub config: Gpt2Config,
    pub weights: Weights,
    pub tokens: Vec<Vec<Vec<i32>>>,
    pub batch: usize,
    pub seq: usize,
    pub expected: Json,
    /// Slices in which the head works.
    pub vocabulary: VocabularySlices,
    /// IPUs over which layers are divided.
    pub members: u32,
}

impl Golden {
    pub fn load(name: &str) -> Golden {
        let folder = fixture(name);
        let config = Gpt2Config::load(&folder).expect("fixture config");
        let weights = load_weights(&folder, &config)
            .expect("fixture weights")
            .weights;
        let tokens = json(&folder.join("tokens.json"));
        let shape: Vec<usize> = serde_json::from_value(tokens["shape"].clone()).expect("shape");
        let mut ids = Vec::new();
        flatten(&tokens["ids"], &mut ids);
        let micro = shape[2] * shape[3];
        let tokens = ids
            .chunks(micro * shape[1])
            .map(|step| step.chunks(micro).map(<[i32]>::to_vec).collect())
            .collect();
        let expected = json(&folder.join("expected.json"));
        Golden {
            folder,
            vocabulary: VocabularySlices::whole(config.vocab_size),
            members: 1,
            config,
            weights,
            tokens,
            batch: shape[2],
            seq: shape[3],
            expected,
        }
    }

    /// The same with layers divided over groups of IPUs.
    pub fn divided(mut self, members: u32) -> Golden {
        self.members = members;
        self
    }

    /// The same with the head in slices, of equal shares for so many replicas.
    pub fn in_slices(mut self, count: usize, replicas: usize) -> Golden {
        self.vocabulary = VocabularySlices::new(self.config.vocab_size, count, replicas);
        self
    }

    /// The same with the first entries of the vocabulary only: other tokens take the places of the first.
    pub fn with_vocabulary(mut self, entries: usize) -> Golden {
        self.config.vocab_size = entries;
        self.vocabulary = VocabularySlices::whole(entries);
        let table = self.weights.get_mut(TABLE).expect("a table");
        table.shape[0] = entries;
        table.data.truncate(entries * table.shape[1]);
        for id in self.tokens.iter_mut().flatten().flatten() {
            *id %= entries as i32;
        }
        self
    }

    /// The same steps, every row a micro-batch of its own.
    pub fn by_rows(mut self) -> Golden {
        for step in &mut self.tokens {
            *step = step
                .iter()
                .flat_map(|rows| rows.chunks(self.seq))
                .map(<[i32]>::to_vec)
                .collect();
        }
        self.batch = 1;
        self
    }

    pub fn hyper(&self, section: &str) -> Hyper {
        let h = if section.is_empty() {
            &self.expected["hyper"]
        } else {
            &self.expected[section]["hyper"]
        };
        Hyper {
            steps: h["steps"].as_u64().expect("steps") as usize,
            accumulation: self.tokens[0].len() as u32,
            lr: h["lr"].as_f64().expect("lr"),
            warmup_ratio: h["warmup_ratio"].as_f64().expect("warmup"),
            weight_decay: h["weight_decay"].as_f64().expect("decay"),
            clip: h["clip"].as_f64(),
        }
    }

    /// Of `train`, or of another run that has settings of its own.
    pub fn section_hyper(&self, section: &str) -> Hyper {
        self.hyper(if section == "train" { "" } else { section })
    }

    pub fn forward(
        &self,
        labels: bool,
        logits: bool,
        loss_chunks: usize,
    ) -> superstep_ir::graph::Graph {
        let options = GraphOptions {
            batch: self.batch,
            seq: self.seq,
            labels,
            logits,
            dropout: false,
            loss_chunks,
            vocabulary: self.vocabulary,
        };
        gpt2_graph(&self.config, options).expect("fixture graph")
    }

    pub fn training_module(&self, hyper: &Hyper, loss_chunks: usize) -> Module {
        self.training_module_in(PrecisionSettings::default(), hyper, loss_chunks)
    }

    pub fn training_module_in(
        &self,
        precision: PrecisionSettings,
        hyper: &Hyper,
        loss_chunks: usize,
    ) -> Module {
        let mut forward = self.forward(true, false, loss_chunks);
        let pass = TensorParallel {
            members: self.members,
        };
        pass.run(&mut forward, &mut PassContext::new())
            .expect("divided graph");
        let decayed = matrices(&forward);
        precision
            .precision
            .apply(&mut forward, precision.master_weights)
            .expect("mixed graph");
        let options = TrainingOptions {
            optimiser: Optimiser::AdamW {
                moments: Moments {
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    bias_correction: true,
                },
                weight_decay: hyper.weight_decay,
            },
            gradient_accumulation_steps: hyper.accumulation,
            max_grad_norm: hyper.clip,
            decayed,
            numerics: precision.numerics(),
        };
        training_module(&forward, &options).expect("training module")
    }
}

pub struct Hyper {
    pub steps: usize,
    pub accumulation: u32,
    pub lr: f64,
    pub warmup_ratio: f64,
    pub weight_decay: f64,
    pub clip: Option<f64>,
}

impl Hyper {
    pub fn lr_at(&self, step: usize) -> f64 {
        let (n, w) = (
            self.steps as f64,
            (self.warmup_ratio * self.steps as f64).ceil(),
        );
        let k = step as f64;
        if k < w {
            self.lr * k / w
        } else {
            self.lr * (n - k) / (n - w)
        }
    }
}

fn flatten(v: &Json, out: &mut Vec<i32>) {
    match v {
        Json::Array(items) => items.iter().for_each(|i| flatten(i, out)),
        number => out.push(number.as_i64().expect("token id") as i32),
    }
}

/// A machine of `ipus` Mk2 chips with fewer tiles, so that small models still use many of them.
pub fn machine(ipus: u32, tiles: u32) -> Machine {
    Machine {
        ipus,
        tiles_per_ipu: tiles,
        ..Machine::mk2()
    }
}

pub fn compiled(
    module: Module,
    machine: &Machine,
    layers_per_ipu: &[u32],
    accumulation: u32,
) -> Compiled {
    compiled_in_style(
        PlanStyle::Auto,
        module,
        machine,
        layers_per_ipu,
        accumulation,
    )
}

/// Compiled with products executed in one style wherever they can be.
pub fn compiled_in_style(
    matmul_plan: PlanStyle,
    module: Module,
    machine: &Machine,
    layers_per_ipu: &[u32],
    accumulation: u32,
) -> Compiled {
    let options = CompileOptions {
        layers_per_ipu: Some(layers_per_ipu.to_vec()),
        gradient_accumulation_steps: accumulation,
        matmul_plan,
        ..CompileOptions::default()
    };
    compile(module, machine, &options, vec![]).unwrap_or_else(|e| panic!("{e}"))
}

/// An engine with weights written; other state starts at zero.
pub fn engine(program: Program, weights: &Weights, threads: usize) -> Engine {
    engine_with(
        program,
        weights,
        &EngineOptions {
            threads,
            ..EngineOptions::default()
        },
    )
}

pub fn engine_with(program: Program, weights: &Weights, options: &EngineOptions) -> Engine {
    let mut engine = Engine::load(Arc::new(program), options).expect("load");
    write_weights(&mut engine, weights);
    engine
}

/// Writes weights, the embedding table slice by slice where the program has it so.
pub fn write_weights(engine: &mut Engine, weights: &Weights) {
    for (name, tensor) in weights.iter() {
        let slices = slices(engine, name);
        let entries = tensor.shape[0];
        let table = slices.first().map(|slice| {
            let rows = slice.1 / tensor.shape[1];
            VocabularySlices::holding(entries, slices.len(), rows).expect("slices hold it all")
        });
        let parts = match table {
            Some(table) => table.cut(&tensor.data, tensor.shape[1]),
            None => vec![tensor.data.clone()],
        };
        for (part, i) in parts.iter().zip(0..) {
            let name = slices.get(i).map_or(name, |slice| &slice.0);
            engine.write_state(name, bytes(part)).expect(name);
        }
    }
}

/// Names and elements of the states that are the slices of a state; none where it is one.
fn slices(engine: &Engine, name: &str) -> Vec<(String, usize)> {
    let program = engine.program();
    let slice = |i: usize| {
        let name = format!("{name}.{i}");
        let state = program.states.iter().find(|state| state.name == name)?;
        let parts = if state.sharded { program.replicas } else { 1 };
        let part = program.variable(state.variable).ty.shape.elements();
        Some((name, part * parts as usize))
    };
    (0..).map_while(slice).collect()
}

pub fn bytes(data: &[f32]) -> &[u8] {
    bytemuck::cast_slice(data)
}

/// A state, its slices joined; their padding is zero.
pub fn state(engine: &Engine, name: &str, elements: usize) -> Vec<f32> {
    let read = |name: &str, elements: usize| {
        let mut data = vec![0f32; elements];
        engine
            .read_state(name, bytemuck::cast_slice_mut(&mut data))
            .expect(name);
        data
    };
    let slices = slices(engine, name);
    if slices.is_empty() {
        return read(name, elements);
    }
    let parts = slices.iter().map(|(name, elements)| read(name, *elements));
    let mut all = parts.collect::<Vec<_>>().concat();
    let padding = all.split_off(elements);
    assert!(
        padding.iter().all(|x| x.to_bits() == 0),
        "{name} is padded with zeroes"
    );
    all
}

/// Feeds micro-batches in order, every stream at its own pace, and keeps what comes out.
#[derive(Default)]
pub struct Feed {
    pub micro_batches: Vec<Vec<i32>>,
    /// How many micro-batches a stream has had.
    fed: BTreeMap<String, usize>,
    pub seq: usize,
    pub learning_rate: f32,
    pub loss_scale: f32,
    /// Seeds are functions of it and of how many were asked for.
    pub step: u32,
    /// All of them round with the same seeds; 0 counts as 1.
    pub replicas: u32,
    pub taken: BTreeMap<String, Vec<Vec<f32>>>,
}

impl Feed {
    pub fn new(seq: usize) -> Feed {
        Feed {
            seq,
            loss_scale: 1.0,
            ..Feed::default()
        }
    }
}

impl Host for Feed {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        let fed = self.fed.entry(stream.to_string()).or_default();
        let next = *fed;
        *fed += 1;
        match stream {
            "tokens" => into.copy_from_slice(bytemuck::cast_slice(&self.micro_batches[next])),
            "labels" => {
                let labels = labels(&self.micro_batches[next], self.seq);
                into.copy_from_slice(bytemuck::cast_slice(&labels));
            }
            "seed" | "rounding_seed" => {
                let asked = match stream {
                    "rounding_seed" => next as u32 / self.replicas.max(1),
                    _ => next as u32,
                };
                let seed = [asked, 7 + self.step];
                into.copy_from_slice(bytemuck::cast_slice(&seed));
            }
            "learning_rate" => into.copy_from_slice(&self.learning_rate.to_le_bytes()),
            "loss_scale" => into.copy_from_slice(&self.loss_scale.to_le_bytes()),
            other => panic!("unexpected stream {other}"),
        }
        Ok(())
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        let values: Vec<f32> = from
            .chunks(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        self.taken
            .entry(stream.to_string())
            .or_default()
            .push(values);
        Ok(())
    }
}

/// The next token at every position; −100 at the last of each row.
pub fn labels(tokens: &[i32], seq: usize) -> Vec<i32> {
    tokens
        .chunks(seq)
        .flat_map(|row| row[1..].iter().copied().chain([-100]))
        .collect()
}

/// `|a − e| / |e|`.
pub fn relative_l2(a: &[f32], e: &[f32]) -> f64 {
    assert_eq!(a.len(), e.len());
    let sum = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(f).sum::<f64>().sqrt();
    let difference = sum(&|i| (f64::from(a[i]) - f64::from(e[i])).powi(2));
    difference / (sum(&|i| f64::from(e[i]).powi(2)) + 1e-300)
}

/// Tensors of a safetensors fixture, names without `transformer.`.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let file = std::fs::read(path).expect("fixture");
    let parsed = safetensors::SafeTensors::deserialize(&file).expect("fixture is safetensors");
    parsed
        .iter()
        .map(|(name, view)| {
            let data = view
                .data()
                .chunks(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            (name.replacen("transformer.", "", 1), data)
        })
        .collect()
}

/// The parts of a tensor that float32 can be judged by: the key third of `attn.c_attn.bias` has gradient zero in exact arithmetic.
pub fn judged(name: &str, data: &[f32]) -> Vec<f32> {
    if !name.ends_with("attn.c_attn.bias") {
        return data.to_vec();
    }
    let third = data.len() / 3;
    data[..third]
        .iter()
        .chain(&data[2 * third..])
        .copied()
        .collect()
}
