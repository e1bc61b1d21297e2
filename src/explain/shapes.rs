//! The products of GPT-2 as a table: what the planner chooses for each, against gathering with PopLibs' default settings.

use serde::Serialize;
use superstep_ir::machine::Machine;
use superstep_ir::types::DType;
use superstep_passes::plan::matmul::search::{search, search_among};
use superstep_passes::plan::matmul::{Inner, MatmulPlan, MatmulProblem, Operand, PlanStyle};

use crate::frontend::Gpt2Config;

/// Share of tile memory for one product: PopLibs' default.
pub const DEFAULT_PROPORTION: f64 = 0.6;

/// One product of a layer, planned three ways under one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shape {
    pub name: String,
    pub problem: MatmulProblem,
    pub bound_cycles: u64,
    /// The planner's choice.
    pub plan: MatmulPlan,
    /// Gathering as PopLibs does by default: f32 partials, columns innermost, operands turned by the vertices or not at all.
    pub poplibs: MatmulPlan,
    /// The same with the element type of partials that the planner was given.
    pub gather: MatmulPlan,
}

impl Shape {
    /// How many times as fast as gathering with default settings.
    pub fn speedup(&self) -> f64 {
        self.poplibs.cost.cycles() as f64 / self.plan.cost.cycles() as f64
    }

    /// How many times as fast as gathering with default settings but equal partials.
    pub fn speedup_with_equal_partials(&self) -> f64 {
        self.gather.cost.cycles() as f64 / self.plan.cost.cycles() as f64
    }
}

/// The products of a decoder layer with their gradients, those of attention, and the output head, for `rows` tokens in one sample.
pub fn gpt2_shapes(
    machine: &Machine,
    config: &Gpt2Config,
    rows: usize,
    [input, partials]: [DType; 2],
) -> Vec<Shape> {
    let width = config.n_embd;
    let inner = config.n_inner;
    let linear = [
        ("attn.c_attn", width, 3 * width),
        ("attn.c_proj", width, width),
        ("mlp.c_fc", width, inner),
        ("mlp.c_proj", inner, width),
    ];
    let plain = |dims: [usize; 3]| MatmulProblem::plain(dims, input, partials);
    let mut problems: Vec<(String, MatmulProblem)> = Vec::new();
    for (name, k, n) in linear {
        let forward = MatmulProblem {
            b: Operand::RestsHere,
            ..plain([rows, k, n])
        };
        let grad_x = MatmulProblem {
            transpose_b: true,
            ..plain([rows, n, k])
        };
        let grad_w = MatmulProblem {
            transpose_a: true,
            ..plain([k, rows, n])
        };
        problems.push((name.to_string(), forward));
        problems.push((format!("{name}.grad_x"), grad_x));
        problems.push((format!("{name}.grad_w"), grad_w));
    }
    let (heads, head) = (config.n_head, width / config.n_head);
    let scores = MatmulProblem {
        groups: heads,
        transpose_b: true,
        ..plain([rows, head, rows])
    };
    let context = MatmulProblem {
        groups: heads,
        ..plain([rows, rows, head])
    };
    problems.push(("attn.scores".into(), scores));
    problems.push(("attn.context".into(), context));
    let lm_head = MatmulProblem {
        transpose_b: true,
        b: Operand::RestsHere,
        ..plain([rows, width, config.vocab_size])
    };
    problems.push(("lm_head".into(), lm_head));
    let planned = problems.into_iter();
    planned
        .map(|(name, problem)| shape(machine, name, problem))
        .collect()
}

fn shape(machine: &Machine, name: String, problem: MatmulProblem) -> Shape {
    let budget = (f64::from(machine.tile_memory) * DEFAULT_PROPORTION) as u64;
    let by_default = |p: &MatmulPlan| p.inner == Inner::N && !p.turn_a && !p.turn_b;
    let gathered = |problem: &MatmulProblem| {
        search_among(machine, problem, PlanStyle::Gather, &by_default).best_within(budget)
    };
    let f32_partials = MatmulProblem {
        partials: DType::F32,
        ..problem.clone()
    };
    Shape {
        bound_cycles: problem.arithmetic_cycles(machine, machine.tiles_per_ipu.into()),
        plan: search(machine, &problem, PlanStyle::Auto).best_within(budget),
        poplibs: gathered(&f32_partials),
        gather: gathered(&problem),
        name,
        problem,
    }
}

/// Geometric mean of what `of` says of each shape.
pub fn geometric_mean(shapes: &[Shape], of: impl Fn(&Shape) -> f64) -> f64 {
    let logs: f64 = shapes.iter().map(|s| of(s).ln()).sum();
    (logs / shapes.len().max(1) as f64).exp()
}
