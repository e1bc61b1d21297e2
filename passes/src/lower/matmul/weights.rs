//! Where weights rest: chosen for all products that read them together, forward, backward and update.
//!
//! The forward product's plan decides the resting cuts (each tile holds a share of what its column of tiles gathers). Those cuts also
//! decide what the gradient products cost: the gradient of the input may be made where the weight lies, and the gradient of
//! the weight is added where its accumulator lies, which is as the weight does. So the fastest few forward plans are priced with all three.

use superstep_ir::ids::{IpuId, VarId};
use superstep_ir::machine::Machine;
use superstep_ir::op::Op;
use superstep_ir::types::TensorType;
use superstep_ir::units::{Bytes, Cycles};

use super::super::Lowering;
use super::Extents;
use crate::plan::Layout;
use crate::plan::matmul::cost::cost;
use crate::plan::matmul::search::{part_counts, ring_fits};
use crate::plan::matmul::{
    GRAIN_N, Inner, MatmulPlan, MatmulProblem, Operand as Side, Outcome, PlanStyle,
};

/// A forward product, and the memory that it and the gradients of its input and its weight may use.
pub(in crate::lower) type JointProblem = (MatmulProblem, [Bytes; 3]);

/// Forward plans that are priced with their gradients: those within half as much again of the fastest.
const CONSIDERED: usize = 24;

/// The plan of the product that decided a weight's resting cuts.
#[derive(Clone)]
pub(in crate::lower) struct Resting {
    problem: MatmulProblem,
    plan: MatmulPlan,
}

impl Lowering<'_> {
    /// Resting layout of a weight, from the plans of the products that read it.
    pub(in crate::lower) fn weight_layout(
        &mut self,
        ipu: IpuId,
        a: &TensorType,
        op: &Op,
        weight: &TensorType,
        transpose_b: bool,
        reader: &str,
    ) -> (Layout, Option<Resting>) {
        let Op::Matmul { transpose_a, .. } = *op else {
            return (self.spread(ipu, &weight.shape), None);
        };
        let extents = Extents {
            groups: None,
            m: a.shape[usize::from(transpose_a)],
            k: a.shape[usize::from(!transpose_a)],
            n: weight.shape[usize::from(!transpose_b)],
        };
        let mut problem = self.problem(&extents, a.dtype, weight.dtype, transpose_a, transpose_b);
        problem.b = Side::RestsHere;
        let budgets = ["", ".grad_x", ".grad_w"].map(|g| self.budgets.of(&format!("{reader}{g}")));
        let plan = if self.module.graph("update").is_some() {
            self.joint_plan(&problem, budgets)
        } else {
            self.plan(&problem, budgets[0])
        };
        let grid = self.resting_grid(ipu, &plan, problem.grain_k());
        let layout = grid.b_at_rest(transpose_b);
        (layout, Some(Resting { problem, plan }))
    }

    /// Resting layout of a cache: where the product that reads it wants it.
    pub(in crate::lower) fn cache_layout(
        &mut self,
        ipu: IpuId,
        a: &TensorType,
        op: &Op,
        cache: &TensorType,
        reader: &str,
    ) -> (Layout, Option<Resting>) {
        let (
            &Op::Matmul {
                transpose_a,
                transpose_b,
                ..
            },
            &[groups, ..],
        ) = (op, cache.shape.dims())
        else {
            return (self.spread(ipu, &cache.shape), None);
        };
        let extents = Extents {
            groups: Some(groups),
            m: a.shape[1 + usize::from(transpose_a)],
            k: a.shape[1 + usize::from(!transpose_a)],
            n: cache.shape[1 + usize::from(!transpose_b)],
        };
        let mut problem = self.problem(&extents, a.dtype, cache.dtype, transpose_a, transpose_b);
        problem.b = Side::RestsHere;
        let plan = self.plan(&problem, self.budgets.of(reader));
        let grid = self.plan_grid(ipu, &plan, problem.grain_k(), true);
        let layout = match plan.m {
            // Each tile holds exactly what it multiplies with.
            1 => grid.b(transpose_b),
            _ => grid.b_at_rest(transpose_b),
        };
        (layout, Some(Resting { problem, plan }))
    }

    /// The forward plan with the fewest cycles for the product and both gradients.
    fn joint_plan(&mut self, problem: &MatmulProblem, budgets: [Bytes; 3]) -> MatmulPlan {
        let key = (problem.clone(), budgets);
        if let Some(&known) = self.joint.get(&key) {
            return known;
        }
        let best = self.plan(problem, budgets[0]);
        let front = self.plans.front(problem);
        let limit = best.cost.cycles() + best.cost.cycles() / 2;
        let fits =
            |p: &&MatmulPlan| p.cost.working_bytes() <= budgets[0] && p.cost.cycles() <= limit;
        let mut plans: Vec<MatmulPlan> = front.plans().iter().filter(fits).copied().collect();
        plans.reverse();
        plans.truncate(CONSIDERED);
        plans.extend(resting_plans(self.machine, problem));
        let mut chosen = (self.joint_cost(problem, &best, budgets), best);
        for plan in plans {
            let cost = self.joint_cost(problem, &plan, budgets);
            if cost < chosen.0 {
                chosen = (cost, plan);
            }
        }
        self.joint.insert(key, chosen.1);
        chosen.1
    }

    /// Bytes over budget and cycles of the product and both gradients.
    fn joint_cost(
        &mut self,
        problem: &MatmulProblem,
        plan: &MatmulPlan,
        budgets: [Bytes; 3],
    ) -> (Bytes, Cycles) {
        let forward = self.forward_cost(problem, plan, budgets[0]);
        let [x, w] = self.gradient_costs(problem, plan, budgets);
        (forward.0 + x.0 + w.0, forward.1 + x.1 + w.1)
    }

    /// The product itself, by its plan or where the weight rests.
    fn forward_cost(
        &mut self,
        problem: &MatmulProblem,
        plan: &MatmulPlan,
        budget: Bytes,
    ) -> (Bytes, Cycles) {
        let there = MatmulProblem {
            b: Side::Stays {
                depth_parts: match plan.k {
                    1 => [plan.m, 1],
                    k => [k, plan.m],
                },
                column_parts: plan.n,
                pairs_share_depth: plan.inner == Inner::N && plan.n.is_multiple_of(2),
            },
            ..problem.clone()
        };
        let there = self.plan(&there, budget);
        over_budget(plan, budget).min(over_budget(&there, budget))
    }

    /// The gradients of input and weight when the weight rests as `forward` wants it.
    fn gradient_costs(
        &mut self,
        forward: &MatmulProblem,
        plan: &MatmulPlan,
        [_, for_x, for_w]: [Bytes; 3],
    ) -> [(Bytes, Cycles); 2] {
        let (rest_rows, rest_columns) = (plan.k * plan.m, plan.n);
        let grad_x = MatmulProblem {
            k: forward.n,
            n: forward.k,
            transpose_a: false,
            transpose_b: !forward.transpose_b,
            b: Side::Elsewhere,
            ..forward.clone()
        };
        let there = MatmulProblem {
            b: Side::Stays {
                depth_parts: resting_columns(plan),
                column_parts: rest_rows,
                pairs_share_depth: plan.inner == Inner::M && plan.m.is_multiple_of(2),
            },
            ..grad_x.clone()
        };
        let (m, n, parts, inner) = if forward.transpose_b {
            let turned = match plan.inner {
                Inner::N => Inner::M,
                Inner::M => Inner::N,
            };
            (forward.n, forward.k, [rest_columns, rest_rows], turned)
        } else {
            (forward.k, forward.n, [rest_rows, rest_columns], plan.inner)
        };
        let grad_w = MatmulProblem {
            m,
            n,
            k: forward.m,
            transpose_a: true,
            transpose_b: false,
            b: Side::Elsewhere,
            out: Outcome::Travels,
            ..forward.clone()
        };
        let fixed = MatmulProblem {
            out: Outcome::Fixed {
                row_parts: parts[0],
                column_parts: parts[1],
                inner,
            },
            ..grad_w.clone()
        };
        [
            self.cheaper([&grad_x, &there], for_x),
            self.cheaper([&grad_w, &fixed], for_w),
        ]
    }

    /// Bytes over budget and cycles of the better of two problems.
    fn cheaper(&mut self, problems: [&MatmulProblem; 2], budget: Bytes) -> (Bytes, Cycles) {
        let priced = problems.map(|p| over_budget(&self.plan(p, budget), budget));
        priced[0].min(priced[1])
    }

    /// The plan that a weight rests by, if `problem` is the product it rests for; the number of rows may differ.
    pub(super) fn resting_plan(
        &self,
        variable: VarId,
        problem: &MatmulProblem,
    ) -> Option<MatmulPlan> {
        let Resting {
            problem: known,
            plan,
        } = self.resting.get(&variable)?;
        let rows = MatmulProblem {
            m: problem.m,
            ..known.clone()
        };
        let cut = problem.m.is_multiple_of(plan.serial_m) && problem.m / plan.serial_m >= plan.m;
        let split = [plan.g, plan.m, plan.n, plan.k];
        let rotates = plan.ring.is_none_or(|ring| ring_fits(problem, split, ring));
        (rows == *problem && cut && rotates).then(|| cost(self.machine, problem, *plan))
    }

    /// Whether products may be made where their second operand lies, which is no shifting.
    pub(super) fn may_stay(&self) -> bool {
        self.plans.style() != PlanStyle::Shift
    }
}

/// For each number of column parts the plan whose weight rests on as many tiles as can be: good places for products where the weight
/// lies, whatever gathering it would cost.
fn resting_plans(machine: &Machine, problem: &MatmulProblem) -> Vec<MatmulPlan> {
    let tiles = machine.tiles_per_ipu as usize;
    let used = |n: usize| n * (tiles / n).min(problem.k);
    part_counts(problem.n.div_ceil(GRAIN_N), tiles)
        .into_iter()
        .filter(|&n| used(n) * 20 >= tiles * 19)
        .map(|n| {
            let plan = MatmulPlan::split([1, used(n) / n, n, 1]);
            cost(machine, problem, plan)
        })
        .collect()
}

/// Parts of the columns of a resting weight, by two axes if there are many: as a contraction they are more than a result has rows.
pub(super) fn resting_columns(plan: &MatmulPlan) -> [usize; 2] {
    let n = plan.n;
    let root = (n as f64).sqrt() as usize;
    let inner = (1..=root).rev().find(|&i| n.is_multiple_of(i)).unwrap_or(1);
    match plan.ring {
        None if n >= MANY_COLUMNS => [n / inner, inner],
        _ => [n, 1],
    }
}

/// Parts of columns from which two axes cut them.
const MANY_COLUMNS: usize = 64;

/// What decides between plans: bytes that they are over budget, then cycles.
pub(super) fn over_budget(plan: &MatmulPlan, budget: Bytes) -> (Bytes, Cycles) {
    let over = plan.cost.working_bytes().saturating_sub(budget);
    (over, plan.cost.cycles())
}
