//! Why a product is executed as it is: the plans that were in the running, what each would cost, and what decided.
//!
//! Explanations come from the planner's own search over the problem that an executable records; nothing is compiled again.

pub mod shapes;
pub mod steps;
pub mod terminal;

use serde::Serialize;
use superstep_ir::machine::Machine;
use superstep_passes::plan::matmul::search::{Filter, search, search_among};
use superstep_passes::plan::matmul::{
    Front, MatmulPlan, MatmulProblem, PlanCost, PlanStyle, PlannedProduct,
};

/// A product, its plan and the alternatives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProductExplanation {
    /// The op's name, if it is an op of a program.
    pub op: Option<String>,
    pub machine: String,
    pub problem: MatmulProblem,
    /// Bytes on a tile that operands and partials may take.
    pub budget_bytes: u64,
    /// Predicted cycles of the plan.
    pub cycles: u64,
    pub compute_cycles: u64,
    pub exchange_cycles: u64,
    pub sync_cycles: u64,
    pub tiles: usize,
    /// Bytes on a tile while it runs: received operands, partials, and its part of the result.
    pub tile_bytes: u64,
    /// Cycles of the arithmetic alone, at the peak of the matrix unit on all tiles: no plan is faster.
    pub bound_cycles: u64,
    pub plan: MatmulPlan,
    /// The best plan of each kind within the budget, or the smallest of its kind.
    pub candidates: Vec<Candidate>,
    /// Plans that none beats in both memory and cycles, smallest first.
    pub pareto: Vec<MatmulPlan>,
    /// What decided, in words.
    pub reasons: Vec<String>,
}

/// The best plan of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    pub kind: &'static str,
    pub fits: bool,
    pub plan: MatmulPlan,
}

/// The kinds of plans that are told apart.
const KINDS: [(&str, PlanStyle, &Filter); 7] = [
    ("gather, whole blocks", PlanStyle::Gather, &|p| {
        p.serial_m * p.serial_k == 1
    }),
    ("gather, in slices", PlanStyle::Gather, &|p| {
        p.serial_m * p.serial_k > 1
    }),
    ("gather, k not split", PlanStyle::Gather, &|p| p.k == 1),
    ("gather, k split", PlanStyle::Gather, &|p| p.k > 1),
    ("shift a", PlanStyle::Shift, &|p| {
        p.ring.is_some_and(|r| r.a && !r.b)
    }),
    ("shift b", PlanStyle::Shift, &|p| {
        p.ring.is_some_and(|r| r.b && !r.a)
    }),
    ("shift a and b", PlanStyle::Shift, &|p| {
        p.ring.is_some_and(|r| r.a && r.b)
    }),
];

/// Explains a product by itself: the best plan of a style within a budget.
pub fn lone_product(
    machine: &Machine,
    problem: &MatmulProblem,
    budget: u64,
    style: PlanStyle,
) -> ProductExplanation {
    let front = search(machine, problem, style);
    let plan = front.best_within(budget);
    explanation(machine, None, problem, plan, budget, &front)
}

/// Explains how a product of a program is executed.
pub fn planned_product(machine: &Machine, planned: &PlannedProduct) -> ProductExplanation {
    let front = search(machine, &planned.problem, PlanStyle::Auto);
    let op = Some(planned.op.clone());
    explanation(
        machine,
        op,
        &planned.problem,
        planned.plan,
        planned.budget,
        &front,
    )
}

fn explanation(
    machine: &Machine,
    op: Option<String>,
    problem: &MatmulProblem,
    plan: MatmulPlan,
    budget: u64,
    front: &Front,
) -> ProductExplanation {
    let candidates = candidates(machine, problem, budget);
    let cost = plan.cost;
    ProductExplanation {
        op,
        machine: machine.name.clone(),
        problem: problem.clone(),
        budget_bytes: budget,
        cycles: cost.cycles(),
        compute_cycles: cost.compute(),
        exchange_cycles: cost.exchange(),
        sync_cycles: cost.sync,
        tiles: plan.tiles(),
        tile_bytes: cost.temporary_bytes + cost.result_bytes,
        bound_cycles: problem.arithmetic_cycles(machine, machine.tiles_per_ipu.into()),
        plan,
        reasons: reasons(&plan, budget, &candidates),
        candidates,
        pareto: front.plans().to_vec(),
    }
}

fn candidates(machine: &Machine, problem: &MatmulProblem, budget: u64) -> Vec<Candidate> {
    KINDS
        .iter()
        .filter_map(|&(kind, style, filter)| {
            let front = search_among(machine, problem, style, filter);
            if front.is_empty() {
                return None;
            }
            let plan = front.best_within(budget);
            // A shift is asked for where none is possible: what came back is of another kind.
            filter(&plan).then_some(Candidate {
                kind,
                fits: plan.cost.working_bytes() <= budget,
                plan,
            })
        })
        .collect()
}

/// What the cycles of a plan are spent on, by name.
pub fn parts(cost: &PlanCost) -> [(&'static str, u64); 7] {
    [
        ("multiply", cost.multiply),
        ("turn", cost.turn),
        ("sums", cost.reduce),
        ("operands", cost.operands),
        ("shifts", cost.shifts),
        ("partials", cost.partials),
        ("sync", cost.sync),
    ]
}

/// For every kind that lost, by how much and to what.
fn reasons(chosen: &MatmulPlan, budget: u64, candidates: &[Candidate]) -> Vec<String> {
    let cycles = chosen.cost.cycles();
    let mut reasons = Vec::new();
    for Candidate { kind, fits, plan } in candidates {
        if plan == chosen {
            continue;
        }
        if !fits {
            let needs = plan.cost.working_bytes();
            reasons.push(format!(
                "{kind}: needs {needs} bytes on a tile at the least, {budget} are free"
            ));
            continue;
        }
        let other = plan.cost.cycles();
        if other <= cycles {
            continue;
        }
        let more = 100.0 * (other as f64 / cycles as f64 - 1.0);
        let differences = parts(&plan.cost).into_iter().zip(parts(&chosen.cost));
        let worst = differences
            .map(|((name, theirs), (_, ours))| (theirs as i64 - ours as i64, name))
            .max();
        if let Some((difference, name)) = worst {
            reasons.push(format!(
                "{kind}: {more:.1} % slower, most of it {name} (+{difference} cycles)"
            ));
        }
    }
    reasons
}
