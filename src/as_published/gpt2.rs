//! The ops of a pipeline beat of GPT-2, IPU by IPU.

use indexmap::IndexMap;
use std::collections::HashMap;

use superstep_ir::machine::link_cost::{Transfer, inter_ipu_cycles};
use superstep_ir::op::{BinaryOp, UnaryOp};
use superstep_ir::types::DType;
use superstep_passes::plan::matmul::{MatmulProblem, Operand};

use super::kernels::Kernels;
use super::{Beat, Execution, Part, Rearrangement, Variant};

use BinaryOp::{Add, Div, Mul, Sub};

/// Cycles by kind of work.
type Parts = IndexMap<&'static str, u64>;

const PRODUCTS: &str = "products of layers";
const ATTENTION: &str = "products of attention";
const REARRANGE: &str = "rearranging heads and operands";
const SOFTMAX: &str = "softmax and its gradient";
pub const MASKS: &str = "scale and masks of scores";
pub const GELU: &str = "gelu";
const DROPOUT: &str = "dropout";
const NORM: &str = "layer norm";
const BIAS: &str = "biases and residuals";
const ACCUMULATE: &str = "gradients into accumulators";
const OUTLINE: &str = "copies into shared layer code";
const HEAD: &str = "products of the head";
const LOSS: &str = "loss over the vocabulary";
const EMBED: &str = "embedding";
const STASH: &str = "stash and restore";

/// Cycles of products that were planned before, for one machine and one share of memory.
pub type Plans = HashMap<MatmulProblem, u64>;

/// Estimates the beat; `plans` are kept from estimate to estimate.
pub fn estimate(execution: &Execution, plans: &mut Plans) -> Beat {
    let machine = execution.machine;
    let mut model = Model::new(execution, plans);
    let forward = model.forward();
    let backward = model.backward();
    let outer = model.embedding_and_head();
    let mut ipus: Vec<Parts> = Vec::new();
    for (ipu, &layers) in execution.layers_per_ipu.iter().enumerate() {
        let mut parts = Parts::new();
        let passes = if execution.recompute { 2 } else { 1 };
        add(&mut parts, &forward, passes * u64::from(layers));
        add(&mut parts, &backward, u64::from(layers));
        if ipu == 0 {
            add(&mut parts, &outer, 1);
        }
        ipus.push(parts);
    }
    let ipu_cycles: Vec<u64> = ipus.iter().map(|parts| parts.values().sum()).collect();
    let busiest = (0..ipus.len()).max_by_key(|&i| (ipu_cycles[i], usize::MAX - i));
    let busiest = busiest.unwrap_or(0);
    let exchange_cycles = model.between_ipus();
    let cycles = ipu_cycles.get(busiest).copied().unwrap_or(0) + exchange_cycles;
    let parts = ipus.get(busiest).cloned().unwrap_or_default();
    let mut parts: Vec<Part> = parts
        .into_iter()
        .map(|(name, cycles)| Part { name, cycles })
        .collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.cycles));
    Beat {
        variant: execution.variant,
        meaning: execution.variant.meaning(),
        cycles,
        seconds: machine.seconds(cycles),
        busiest_ipu: busiest as u32,
        ipu_cycles,
        exchange_cycles,
        parts,
    }
}

fn add(sum: &mut Parts, parts: &Parts, times: u64) {
    for (&name, &cycles) in parts {
        *sum.entry(name).or_default() += times * cycles;
    }
}

struct Model<'a> {
    run: &'a Execution<'a>,
    kernels: Kernels<'a>,
    plans: &'a mut Plans,
    /// Tokens of a micro-batch.
    rows: usize,
    width: usize,
    inner: usize,
    /// Elements of all attention scores.
    scores: usize,
}

impl<'a> Model<'a> {
    fn new(run: &'a Execution<'a>, plans: &'a mut Plans) -> Model<'a> {
        let rows = run.batch_size * run.block_size;
        let bytes = f64::from(run.machine.tile_memory);
        Model {
            run,
            kernels: Kernels {
                machine: run.machine,
                budget: (bytes * run.matmul_proportion) as u64,
                rearrangement: run.rearrangement,
            },
            plans,
            rows,
            width: run.config.n_embd,
            inner: run.config.n_inner,
            scores: rows * run.block_size * run.config.n_head,
        }
    }

    fn product(&mut self, problem: MatmulProblem) -> u64 {
        if let Some(&known) = self.plans.get(&problem) {
            return known;
        }
        let cycles = self.kernels.product(&problem);
        self.plans.insert(problem, cycles);
        cycles
    }

    fn plain([m, k, n]: [usize; 3]) -> MatmulProblem {
        MatmulProblem::plain([m, k, n], DType::F16, DType::F16)
    }

    /// The four weights of a layer, `[in, out]`.
    fn weights(&self) -> [[usize; 2]; 4] {
        let (d, inner) = (self.width, self.inner);
        [[d, 3 * d], [d, d], [d, inner], [inner, d]]
    }

    /// `groups` products of attention, one a head.
    fn of_heads(&mut self, [m, k, n]: [usize; 3], turned: [bool; 2]) -> u64 {
        self.product(MatmulProblem {
            groups: self.run.config.n_head * self.run.batch_size,
            transpose_a: turned[0],
            transpose_b: turned[1],
            ..Self::plain([m, k, n])
        })
    }

    fn forward(&mut self) -> Parts {
        let mut parts = Parts::new();
        let mut put = |name, cycles| *parts.entry(name).or_default() += cycles;
        let (rows, d, inner, scores) = (self.rows, self.width, self.inner, self.scores);
        let (block, head) = (self.run.block_size, self.run.config.head_size());
        let x = rows * d;
        for [k, n] in self.weights() {
            let product = MatmulProblem {
                b: Operand::RestsHere,
                ..Self::plain([rows, k, n])
            };
            put(PRODUCTS, self.product(product));
            put(BIAS, self.kernels.vector(Add, rows, n));
            put(REARRANGE, self.kernels.rearrange(rows * k));
            put(OUTLINE, self.kernels.copy(k * n));
        }
        // Scores by the turned keys, and what they weigh.
        put(
            ATTENTION,
            self.of_heads([block, head, block], [false, true]),
        );
        put(
            ATTENTION,
            self.of_heads([block, block, head], [false, false]),
        );
        let k = &self.kernels;
        put(REARRANGE, 3 * k.rearrange(x) + k.rearrange(scores));
        put(MASKS, self.masks());
        put(SOFTMAX, k.softmax(scores));
        put(DROPOUT, k.dropout(scores) + 2 * k.dropout(x));
        put(NORM, 2 * k.layer_norm(x));
        put(BIAS, 2 * k.binary(Add, x));
        put(GELU, self.gelu(rows * inner));
        parts
    }

    fn masks(&self) -> u64 {
        let (k, scores) = (&self.kernels, self.scores);
        match self.run.variant {
            Variant::Transformers => {
                k.scalar(Div, scores) + k.select(scores) + k.brought(Add, scores)
            }
            Variant::Examples => {
                k.scalar(Mul, scores) + k.brought(Mul, scores) + k.brought(Add, scores)
            }
        }
    }

    /// 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
    fn gelu(&self, n: usize) -> u64 {
        let k = &self.kernels;
        match self.run.variant {
            Variant::Examples => k.gelu(n),
            Variant::Transformers => {
                let scalars = 4 * k.scalar(Mul, n);
                k.pow(n) + scalars + 2 * k.binary(Mul, n) + k.unary(UnaryOp::Tanh, n)
            }
        }
    }

    /// The gradient op by op: of the square of x a power again, which is selected against zero (PopART's gradient of a power).
    fn gelu_grad(&self, n: usize) -> u64 {
        let k = &self.kernels;
        match self.run.variant {
            Variant::Examples => k.gelu_grad(n),
            Variant::Transformers => {
                let power = k.pow(n) + 2 * k.binary(Mul, n) + k.select(n);
                let tanh = k.unary(UnaryOp::Square, n) + 2 * k.binary(Sub, n);
                power + tanh + 4 * k.scalar(Mul, n) + 4 * k.binary(Mul, n) + 3 * k.binary(Add, n)
            }
        }
    }

    fn backward(&mut self) -> Parts {
        let mut parts = Parts::new();
        let mut put = |name, cycles| *parts.entry(name).or_default() += cycles;
        let (rows, d, inner, scores) = (self.rows, self.width, self.inner, self.scores);
        let (block, head) = (self.run.block_size, self.run.config.head_size());
        let x = rows * d;
        for [k, n] in self.weights() {
            let to_input = MatmulProblem {
                transpose_b: true,
                ..Self::plain([rows, n, k])
            };
            let to_weight = MatmulProblem {
                transpose_a: true,
                ..Self::plain([k, rows, n])
            };
            put(PRODUCTS, self.product(to_input) + self.product(to_weight));
            let kernels = &self.kernels;
            // The gradient as an operand of both, and what was kept.
            let operands = 2 * kernels.rearrange(rows * n) + kernels.rearrange(rows * k);
            put(REARRANGE, operands);
            put(BIAS, kernels.column_sums(rows, n));
            put(ACCUMULATE, kernels.scaled_add(k * n));
            // The weight, and the accumulator in and out.
            put(OUTLINE, 3 * kernels.copy(k * n));
        }
        // To probabilities, values, queries and keys.
        for (extents, turned) in [
            ([block, head, block], [false, true]),
            ([block, block, head], [true, false]),
            ([block, block, head], [false, false]),
            ([block, block, head], [true, false]),
        ] {
            put(ATTENTION, self.of_heads(extents, turned));
        }
        let k = &self.kernels;
        put(REARRANGE, 7 * k.rearrange(x) + 3 * k.rearrange(scores));
        put(SOFTMAX, k.softmax_grad(scores));
        put(MASKS, self.mask_grads());
        put(DROPOUT, k.dropout(scores) + 2 * k.dropout(x));
        put(NORM, 2 * k.layer_norm_grad(rows, d));
        put(BIAS, 2 * k.binary(Add, x));
        put(GELU, self.gelu_grad(rows * inner));
        let slot = k.copy(x) + k.machine.sync_cycles;
        put(STASH, 2 * slot);
        parts
    }

    fn mask_grads(&self) -> u64 {
        let (k, scores) = (&self.kernels, self.scores);
        match self.run.variant {
            Variant::Transformers => k.select(scores) + k.scalar(Div, scores),
            Variant::Examples => k.brought(Mul, scores) + k.scalar(Mul, scores),
        }
    }

    fn embedding_and_head(&mut self) -> Parts {
        let mut parts = Parts::new();
        let mut put = |name, cycles| *parts.entry(name).or_default() += cycles;
        let (rows, d) = (self.rows, self.width);
        let slices = self.run.head_slices.max(1);
        let columns = self.run.config.vocab_size.div_ceil(slices);
        let logits = rows * columns * slices;
        let forward = MatmulProblem {
            transpose_b: true,
            ..Self::plain([rows, d, columns])
        };
        let to_input = Self::plain([rows, columns, d]);
        let to_weight = MatmulProblem {
            transpose_a: true,
            ..Self::plain([columns, rows, d])
        };
        let all = self.product(forward) + self.product(to_input) + self.product(to_weight);
        put(HEAD, slices as u64 * all);
        let k = &self.kernels;
        put(HEAD, 2 * k.rearrange(logits) + 2 * k.copy(logits));
        put(ACCUMULATE, k.scaled_add(columns * slices * d));
        // Padding masked, log-softmax, one-hot times log-probabilities; and the gradients of each.
        let one_hot = k.scalar(Mul, logits);
        let log_softmax = k.softmax(logits);
        put(
            LOSS,
            2 * k.vector(Mul, rows, columns * slices) + log_softmax,
        );
        put(LOSS, one_hot + k.binary(Mul, logits) + k.row_sums(logits));
        put(LOSS, one_hot + k.scalar(Mul, logits));
        put(LOSS, log_softmax + k.row_sums(logits));
        put(LOSS, k.binary(Mul, logits) + k.binary(Sub, logits));
        put(LOSS, k.vector(Mul, rows, columns * slices));
        put(EMBED, self.look_ups());
        parts
    }

    /// Rows looked up in the table, and gradients added to rows of it (mk2.md §3.9), slice by slice: every tile has a part of the rows and
    /// is asked for all.
    fn look_ups(&self) -> u64 {
        let machine = self.kernels.machine;
        let (rows, d) = (self.rows as u64, self.width as u64);
        let workers = u64::from(machine.workers);
        let tiles = u64::from(machine.tiles_per_ipu);
        let parts = (d / 2).min(tiles);
        let width = d.div_ceil(parts);
        let groups = (tiles / parts).max(1);
        let each = rows.div_ceil(groups).div_ceil(workers);
        let look_up = workers * (30 + each * (19 + 2 * width.div_ceil(2)));
        let update =
            workers * (33 + rows.div_ceil(groups) * (12 + 3 * (width / 2).saturating_sub(1)));
        let exchange = machine.sync_cycles + 4 * rows.div_ceil(groups) / 4;
        self.run.head_slices.max(1) as u64 * (look_up + update + 2 * exchange)
    }

    /// Activations to the next IPU and gradients back, all at once.
    fn between_ipus(&self) -> u64 {
        let machine = self.run.machine;
        let ipus = self.run.layers_per_ipu.len() as u32;
        if ipus < 2 {
            return 0;
        }
        let bytes = (2 * self.rows * self.width) as u64;
        let hops = (0..ipus).flat_map(|ipu| {
            let next = (ipu + 1) % ipus;
            [(ipu, next), (next, ipu)].map(|(from, to)| Transfer { from, to, bytes })
        });
        machine.global_sync_cycles + inter_ipu_cycles(machine, hops)
    }
}

impl Execution<'_> {
    /// The same with operands rearranged at PopLibs' measured rate.
    pub fn with_measured_rearrangement(&self) -> Self {
        Execution {
            rearrangement: Rearrangement::Regression,
            ..self.clone()
        }
    }
}
