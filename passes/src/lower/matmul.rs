//! Products: the best of several plans is chosen by where operands and result lie, then lowered in its style.

mod gather;
mod grid;
mod shift;
mod turn;
mod weights;

use superstep_ir::graph::Value;
use superstep_ir::ids::VarId;
use superstep_ir::op::{BinaryOp, MapExpr};
use superstep_ir::program::{Codelet, Cut, Grid, Operand, View};
use superstep_ir::types::{DType, Shape};
use superstep_ir::units::Bytes;

use super::{Binding, LowerError, Lowering, OpLowering};
use crate::plan::Layout;
use crate::plan::matmul::{
    Inner, MatmulPlan, MatmulProblem, Operand as Side, Outcome, PlannedProduct,
};
use grid::PlanGrid;
use weights::over_budget;
pub(in crate::lower) use weights::{JointProblem, Resting};

/// Extents of a product.
#[derive(Clone, Copy)]
struct Extents {
    /// `None` for rank 2.
    groups: Option<usize>,
    m: usize,
    k: usize,
    n: usize,
}

impl Extents {
    fn of(a: &Shape, out: &Shape, transpose_a: bool) -> Extents {
        let rank = out.rank();
        Extents {
            groups: (rank == 3).then(|| out[0]),
            m: out[rank - 2],
            n: out[rank - 1],
            k: a[rank - if transpose_a { 2 } else { 1 }],
        }
    }

    /// Dimensions of an operand, with the batch in front if there is one.
    fn dims(&self, rest: [usize; 2]) -> Shape {
        self.groups
            .into_iter()
            .chain(rest)
            .collect::<smallvec::SmallVec<[usize; 4]>>()
            .as_slice()
            .into()
    }
}

/// A product, how it is made and where.
struct Product {
    extents: Extents,
    problem: MatmulProblem,
    plan: MatmulPlan,
    grid: PlanGrid,
}

impl Product {
    fn new(extents: Extents, problem: MatmulProblem, plan: MatmulPlan, grid: PlanGrid) -> Product {
        Product {
            extents,
            problem,
            plan,
            grid,
        }
    }
}

impl Lowering<'_> {
    fn problem(
        &self,
        e: &Extents,
        input: DType,
        result: DType,
        transpose_a: bool,
        transpose_b: bool,
    ) -> MatmulProblem {
        let partials = self.plans.partials(input, result);
        MatmulProblem {
            groups: e.groups.unwrap_or(1),
            transpose_a,
            transpose_b,
            ..MatmulProblem::plain([e.m, e.k, e.n], input, partials)
        }
    }

    fn plan(&mut self, problem: &MatmulProblem, budget: Bytes) -> MatmulPlan {
        self.plans.plan(problem, budget)
    }

    /// Which dimension of a rank-2 layout is cut by the innermost axis of its grid.
    fn inner_of(&self, layout: &Layout) -> Inner {
        let grid = self.grid_ref(layout.grid);
        let innermost = grid.axes.iter().rposition(|axis| axis.extent > 1);
        let by_rows = innermost.is_some_and(|a| layout.cuts[0].axes.contains(&(a as u8)));
        if by_rows { Inner::M } else { Inner::N }
    }
}

impl OpLowering<'_, '_, '_> {
    pub(super) fn matmul(
        &mut self,
        transpose_a: bool,
        transpose_b: bool,
    ) -> Result<(), LowerError> {
        let (a, out) = (self.ty(0), self.result_ty(0));
        let extents = Extents::of(&a.shape, &out.shape, transpose_a);
        let lw = &self.g.lw;
        let problem = lw.problem(&extents, a.dtype, out.dtype, transpose_a, transpose_b);
        let accumulates = self.g.graph.node(self.id).operands().len() == 3;
        if accumulates && let Some(acc) = self.accumulator() {
            self.accumulate_into(acc, extents, problem);
            self.bind_whole(0, acc);
            return Ok(());
        }
        let product = self.choose(extents, problem);
        self.record(&product.problem, &product.plan);
        let product = self.product(&product);
        if accumulates {
            self.add_accumulator(product.clone());
        }
        let Binding::Held { variable, views } = product else {
            return self.unsupported("a product is held");
        };
        self.bind_viewed(0, variable, views);
        Ok(())
    }

    /// The plan for a product with a result of its own: where the weight rests for it, where its second operand lies, or on a grid of
    /// its own, whichever is fastest within the budget.
    fn choose(&mut self, extents: Extents, mut problem: MatmulProblem) -> Product {
        let batched = extents.groups.is_some();
        let budget = self.budget();
        let held = match &self.g.bindings[&self.operand(1)] {
            Binding::Held { variable, views } if views.is_empty() => Some(*variable),
            _ => None,
        };
        problem.b = Side::RestsHere;
        let resting = held.and_then(|v| self.g.lw.resting_plan(v, &problem));
        let mut chosen = match resting {
            Some(plan) if batched => self.on_own_grid(extents, problem, plan),
            Some(plan) => {
                let grid = self.g.lw.resting_grid(self.ipu, &plan, problem.grain_k());
                Product::new(extents, problem, plan, grid)
            }
            None => {
                problem.b = Side::Elsewhere;
                let plan = self.g.lw.plan(&problem, budget);
                self.on_own_grid(extents, problem, plan)
            }
        };
        let may_stay = self.g.lw.may_stay() || chosen.plan.ring.is_none();
        let variable = held.filter(|_| may_stay && !batched);
        if let Some((v, there)) = variable.and_then(|v| Some((v, self.stays(v, &chosen.problem)?)))
        {
            let staying = self.g.lw.plan(&there, budget);
            if over_budget(&staying, budget) < over_budget(&chosen.plan, budget) {
                let (depth, column) = if there.transpose_b { (1, 0) } else { (0, 1) };
                let layout = self.g.lw.layout_of(v);
                let roles = [None, Some(depth), Some(column)];
                let grid = self.g.lw.grid_of_layout(&layout, roles);
                chosen = Product::new(extents, there, staying, grid);
            }
        }
        chosen
    }

    /// Notes how this op is executed.
    fn record(&mut self, problem: &MatmulProblem, plan: &MatmulPlan) {
        let planned = PlannedProduct {
            op: self.name().to_string(),
            ipu: self.ipu.0,
            problem: problem.clone(),
            plan: *plan,
            budget: self.budget(),
        };
        self.g.lw.products.push(planned);
    }

    fn on_own_grid(
        &mut self,
        extents: Extents,
        problem: MatmulProblem,
        plan: MatmulPlan,
    ) -> Product {
        let (grain_k, batched) = (problem.grain_k(), extents.groups.is_some());
        let grid = self.g.lw.plan_grid(self.ipu, &plan, grain_k, batched);
        Product::new(extents, problem, plan, grid)
    }

    /// The problem of making the product where its second operand lies: on this IPU, cut by every axis of its grid, once.
    fn stays(&self, variable: VarId, problem: &MatmulProblem) -> Option<MatmulProblem> {
        let lw = &self.g.lw;
        let (layout, grid) = (lw.layout_of(variable), lw.program.grid_of(variable));
        let copies = lw.program.variable(variable).copy_axes(grid);
        let copied = copies.into_iter().any(|a| grid.axes[a].extent > 1);
        if grid.ipu != self.ipu || copied || !self.is_held(0) {
            return None;
        }
        let (depth, column) = if problem.transpose_b { (1, 0) } else { (0, 1) };
        let innermost = grid.axes.iter().rposition(|axis| axis.extent > 1)?;
        let depth_cut = &layout.cuts[depth];
        if depth_cut.axes.len() > 2 {
            return None;
        }
        let by_column = layout.cuts[column].axes.last() == Some(&(innermost as u8));
        let even = grid.axes[innermost].extent.is_multiple_of(2);
        Some(MatmulProblem {
            b: Side::Stays {
                depth_parts: two_axes(depth_cut, grid),
                column_parts: layout.cuts[column].parts(grid),
                pairs_share_depth: by_column && even,
            },
            ..problem.clone()
        })
    }

    /// The accumulator operand's variable if the sum may be made in it.
    fn accumulator(&self) -> Option<VarId> {
        let value: Value = self.operand(2);
        let Some(Binding::Held { variable, views }) = self.g.bindings.get(&value) else {
            return None;
        };
        let here = self.g.lw.program.grid_of(*variable).ipu == self.ipu;
        let rank2 = self.result_ty(0).shape.rank() == 2;
        let free = self.dies_here(*variable) || self.becomes_state(*variable, 0);
        (views.is_empty() && here && rank2 && free).then_some(*variable)
    }

    /// `acc += a·b`: either on the accumulator's own tiles, or on a grid of its own and then added there.
    fn accumulate_into(&mut self, acc: VarId, extents: Extents, problem: MatmulProblem) {
        let layout = self.g.lw.layout_of(acc);
        let grid = self.g.lw.grid_ref(layout.grid).clone();
        let stay = MatmulProblem {
            out: Outcome::Fixed {
                row_parts: layout.cuts[0].parts(&grid),
                column_parts: layout.cuts[1].parts(&grid),
                inner: self.g.lw.inner_of(&layout),
            },
            ..problem.clone()
        };
        let travel = MatmulProblem {
            out: Outcome::Travels,
            ..problem
        };
        let budget = self.budget();
        let stay_plan = self.g.lw.plan(&stay, budget);
        let travel_plan = self.g.lw.plan(&travel, budget);
        // What is multiplied straight into the accumulator has its type.
        let alike = self.result_ty(0).dtype == stay.partials;
        let may_stay = alike && (self.g.lw.may_stay() || travel_plan.ring.is_none());
        if may_stay && over_budget(&stay_plan, budget) <= over_budget(&travel_plan, budget) {
            self.record(&stay, &stay_plan);
            let roles = [Some(0), None, Some(1)];
            let grid = self.g.lw.grid_of_layout(&layout, roles);
            let product = Product::new(extents, stay, stay_plan, grid);
            let sides = self.sides(&product.problem, &product.plan);
            self.multiply(&product, &sides, 0, Operand::whole(acc));
            return;
        }
        self.record(&travel, &travel_plan);
        let product = self.on_own_grid(extents, travel, travel_plan);
        let sides = self.sides(&product.problem, &product.plan);
        let partial = self.partial_product(&product, &sides, 0);
        let cuts = std::iter::once(Cut::none()).chain(layout.cuts.iter().cloned());
        let gathered = Layout::new(layout.grid, cuts);
        let shape = Shape::new(&[extents.m, extents.n]);
        let parts = product.plan.k;
        self.sum_partials(partial, &gathered, &shape, parts, Operand::whole(acc), true);
    }

    /// `product + acc` in the product's variable.
    fn add_accumulator(&mut self, product: Binding) {
        let Binding::Held { variable, .. } = product else {
            return;
        };
        let shape = self.g.lw.shape_of(variable);
        let layout = self.g.lw.layout_of(variable);
        let mut moves = Vec::new();
        let acc = self.demand(2, &[View::Reshape(shape)], &layout, "acc", &mut moves);
        self.exchange("acc", moves);
        let (acc, product) = (Operand::whole(acc), Operand::whole(variable));
        self.compute(
            "add",
            Codelet::Map(MapExpr::binary(BinaryOp::Add)),
            layout.grid,
            &[acc, product],
            &[product],
        );
    }
}

/// Extents of the outer and the inner axis of a cut by at most two.
fn two_axes(cut: &Cut, grid: &Grid) -> [usize; 2] {
    let extent = |i: usize| {
        let axis = cut.axes.get(i).map(|&a| &grid.axes[a as usize]);
        axis.map_or(1, |a| a.extent as usize)
    };
    [extent(0), extent(1)]
}
