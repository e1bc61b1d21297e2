//! Products: operands in, one AMP vertex a tile, partials out and summed, as the plan says; in serial slices when memory asks for it.

use superstep_ir::graph::Value;
use superstep_ir::ids::{GridId, IpuId, VarId};
use superstep_ir::op::{BinaryOp, MapExpr, Op, ReduceKind};
use superstep_ir::program::{Category, Codelet, Cut, Grid, Operand, View};
use superstep_ir::types::{Shape, TensorType};

use super::{Binding, LowerError, Lowering, OpLowering};
use crate::plan::Layout;
use crate::plan::matmul::{GRAIN_K, GRAIN_N, MatmulPlan, MatmulProblem};

/// Axes of a matmul grid, outermost first: output channels are innermost, so that neighbouring tiles share rows of `a`.
const G: u8 = 0;
const K: u8 = 1;
const M: u8 = 2;
const N: u8 = 3;

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

/// The grid of a plan, and cuts that leave out axes of extent 1 (so that equal layouts are equal).
struct PlanGrid {
    id: GridId,
    grid: Grid,
    batched: bool,
}

impl PlanGrid {
    fn cut(&self, axes: &[u8], grain: usize) -> Cut {
        let real: Vec<u8> = axes
            .iter()
            .copied()
            .filter(|&a| self.grid.axes[a as usize].extent > 1)
            .collect();
        if real.is_empty() {
            Cut::none()
        } else {
            Cut::by(&real, grain)
        }
    }

    fn layout(&self, leading: &[Cut], rest: [Cut; 2]) -> Layout {
        let batch = self.batched.then(|| self.cut(&[G], 1));
        Layout::new(self.id, leading.iter().cloned().chain(batch).chain(rest))
    }

    fn a(&self, transposed: bool) -> Layout {
        let (m, k) = (self.cut(&[M], 1), self.cut(&[K], GRAIN_K));
        self.layout(&[], if transposed { [k, m] } else { [m, k] })
    }

    fn b(&self, transposed: bool) -> Layout {
        let (k, n) = (self.cut(&[K], GRAIN_K), self.cut(&[N], GRAIN_N));
        self.layout(&[], if transposed { [n, k] } else { [k, n] })
    }

    /// Where a weight rests: each tile's share of what the tiles of its column need.
    fn b_at_rest(&self, transposed: bool) -> Layout {
        let (k, n) = (self.cut(&[K, M], 1), self.cut(&[N], GRAIN_N));
        self.layout(&[], if transposed { [n, k] } else { [k, n] })
    }

    /// Cuts of the result: by m and n; when `k` is split, each of its parts keeps a share of the rows.
    fn out(&self, shared: bool, leading: &[Cut]) -> Layout {
        let m = if shared {
            self.cut(&[M, K], 1)
        } else {
            self.cut(&[M], 1)
        };
        self.layout(leading, [m, self.cut(&[N], GRAIN_N)])
    }
}

impl Lowering<'_> {
    fn problem(
        &self,
        e: &Extents,
        ty: &TensorType,
        transpose_a: bool,
        transpose_b: bool,
    ) -> MatmulProblem {
        MatmulProblem {
            groups: e.groups.unwrap_or(1),
            m: e.m,
            k: e.k,
            n: e.n,
            transpose_a,
            transpose_b,
            dtype: ty.dtype,
            b_is_placed_here: false,
            result_moves: false,
            fixed: None,
            budget: self.budget(),
        }
    }

    fn plan(&mut self, problem: &MatmulProblem) -> MatmulPlan {
        self.plans.plan(self.machine, problem)
    }

    fn plan_grid(&mut self, ipu: IpuId, plan: &MatmulPlan, batched: bool) -> PlanGrid {
        let id = self.grid(
            ipu,
            0,
            &[("g", plan.g), ("k", plan.k), ("m", plan.m), ("n", plan.n)],
        );
        PlanGrid {
            id,
            grid: self.grid_ref(id).clone(),
            batched,
        }
    }

    /// Resting layout of a weight, from the plan of the product that reads it first.
    pub(super) fn weight_layout(
        &mut self,
        ipu: IpuId,
        a: &TensorType,
        op: &Op,
        weight: &TensorType,
        transpose_b: bool,
    ) -> Layout {
        let Op::Matmul { transpose_a, .. } = *op else {
            return self.spread(ipu, &weight.shape);
        };
        let (m, k) = (
            a.shape[usize::from(transpose_a)],
            a.shape[usize::from(!transpose_a)],
        );
        let n = weight.shape[usize::from(!transpose_b)];
        let extents = Extents {
            groups: None,
            m,
            k,
            n,
        };
        let mut problem = self.problem(&extents, weight, transpose_a, transpose_b);
        problem.b_is_placed_here = true;
        let plan = self.plan(&problem);
        self.plan_grid(ipu, &plan, false).b_at_rest(transpose_b)
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
        let mut problem = self.g.lw.problem(&extents, &out, transpose_a, transpose_b);
        let accumulates = self.g.graph.node(self.id).operands().len() == 3;
        if accumulates && let Some(acc) = self.accumulator() {
            self.accumulate_into(acc, &extents, problem);
            self.bind_whole(0, acc);
            return Ok(());
        }
        let plan = self.choose_plan(&mut problem);
        let product = self.product(&extents, &problem, &plan);
        if accumulates {
            self.add_accumulator(product.clone());
        }
        let Binding::Held { variable, views } = product else {
            return self.unsupported("a product is held");
        };
        self.bind_viewed(0, variable, views);
        Ok(())
    }

    /// The plan for a product with a result of its own: with the weight at rest on the product's own grid if it is.
    fn choose_plan(&mut self, problem: &mut MatmulProblem) -> MatmulPlan {
        problem.b_is_placed_here = true;
        let resting = self.g.lw.plan(problem);
        if let Binding::Held { variable, views } = &self.g.bindings[&self.operand(1)]
            && views.is_empty()
            && problem.groups == 1
        {
            let layout = self
                .g
                .lw
                .plan_grid(self.ipu, &resting, false)
                .b_at_rest(problem.transpose_b);
            if self.g.lw.layout_of(*variable) == layout {
                return resting;
            }
        }
        problem.b_is_placed_here = false;
        self.g.lw.plan(problem)
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
    fn accumulate_into(&mut self, acc: VarId, extents: &Extents, problem: MatmulProblem) {
        let layout = self.g.lw.layout_of(acc);
        let grid = self.g.lw.grid_ref(layout.grid).clone();
        let parts = (layout.cuts[0].parts(&grid), layout.cuts[1].parts(&grid));
        let stay = MatmulProblem {
            fixed: Some(parts),
            ..problem.clone()
        };
        let travel = MatmulProblem {
            result_moves: true,
            ..problem
        };
        let (stay_plan, travel_plan) = (self.g.lw.plan(&stay), self.g.lw.plan(&travel));
        let over = |p: &MatmulPlan| (p.temporary_bytes.saturating_sub(stay.budget), p.cycles);
        if over(&stay_plan) <= over(&travel_plan) {
            self.accumulate_in_place(acc, &layout, extents, &stay, &stay_plan);
            return;
        }
        let grid = self.g.lw.plan_grid(self.ipu, &travel_plan, false);
        let shape = Shape::new(&[extents.m, extents.n]);
        let partial = self.partial_product(extents, &travel, &travel_plan, &grid, 0);
        let leading = [Cut::none()];
        let gathered_layout = Layout::new(
            layout.grid,
            leading.into_iter().chain(layout.cuts.iter().cloned()),
        );
        self.sum_partials(
            partial,
            &gathered_layout,
            &shape,
            travel_plan.k,
            Operand::whole(acc),
            true,
        );
    }

    fn accumulate_in_place(
        &mut self,
        acc: VarId,
        layout: &Layout,
        extents: &Extents,
        problem: &MatmulProblem,
        plan: &MatmulPlan,
    ) {
        let (m, n) = (layout.cuts[0].clone(), layout.cuts[1].clone());
        let order = |swap: bool, x: Cut, y: Cut| if swap { [y, x] } else { [x, y] };
        let a_layout = Layout::new(layout.grid, order(problem.transpose_a, m, Cut::none()));
        let b_layout = Layout::new(layout.grid, order(problem.transpose_b, Cut::none(), n));
        for slice in 0..plan.serial_k {
            let depth = depth_slice(extents, plan, slice);
            let mut moves = Vec::new();
            let a = self.demand(
                0,
                &slice_views(usize::from(!problem.transpose_a), depth.clone(), extents.k),
                &a_layout,
                "a",
                &mut moves,
            );
            let b = self.demand(
                1,
                &slice_views(usize::from(problem.transpose_b), depth, extents.k),
                &b_layout,
                "b",
                &mut moves,
            );
            self.exchange("operands", moves);
            let codelet = Codelet::Matmul {
                transpose_a: problem.transpose_a,
                transpose_b: problem.transpose_b,
                accumulate: true,
            };
            self.compute(
                "multiply",
                codelet,
                layout.grid,
                &[Operand::whole(a), Operand::whole(b)],
                &[Operand::whole(acc)],
            );
        }
    }

    /// The whole product in a variable of its own.
    fn product(
        &mut self,
        extents: &Extents,
        problem: &MatmulProblem,
        plan: &MatmulPlan,
    ) -> Binding {
        let batched = extents.groups.is_some();
        let grid = self.g.lw.plan_grid(self.ipu, plan, batched);
        let rows = extents.m / plan.serial_m;
        let slice_shape = extents.dims([rows, extents.n]);
        let serial = plan.serial_m > 1;
        let leading: &[Cut] = if serial { &[Cut::none()] } else { &[] };
        let layout = grid.out(plan.k > 1, leading);
        let shape: Shape = if serial {
            let dims: Vec<usize> = std::iter::once(plan.serial_m)
                .chain(slice_shape.dims().iter().copied())
                .collect();
            dims.as_slice().into()
        } else {
            slice_shape.clone()
        };
        let dtype = problem.dtype;
        let out = self.make(
            "",
            TensorType::new(dtype, shape),
            layout,
            Category::Activation,
        );
        for slice in 0..plan.serial_m {
            let target = if serial {
                Operand::entry(out, slice as u32)
            } else {
                Operand::whole(out)
            };
            if plan.k == 1 {
                self.multiply(extents, problem, plan, &grid, slice, target);
            } else {
                let partial = self.partial_product(extents, problem, plan, &grid, slice);
                let gathered = grid.out(true, &[Cut::none()]);
                self.sum_partials(partial, &gathered, &slice_shape, plan.k, target, false);
            }
            self.local.clear();
        }
        let value = self.result_ty(0).shape;
        let views = match (serial, batched) {
            (false, _) => vec![],
            (true, false) => vec![View::Reshape(value)],
            (true, true) => vec![
                View::Transpose(smallvec::smallvec![1, 0, 2, 3]),
                View::Reshape(value),
            ],
        };
        Binding::Held {
            variable: out,
            views,
        }
    }

    /// The product of row slice `slice` as `[k parts, (g,) m, n]`, each part on its own tiles.
    fn partial_product(
        &mut self,
        extents: &Extents,
        problem: &MatmulProblem,
        plan: &MatmulPlan,
        grid: &PlanGrid,
        slice: usize,
    ) -> VarId {
        let product = extents.dims([extents.m / plan.serial_m, extents.n]);
        let dims: Vec<usize> = std::iter::once(plan.k)
            .chain(product.dims().iter().copied())
            .collect();
        let layout = grid.out(false, &[grid.cut(&[K], 1)]);
        let ty = TensorType::new(problem.dtype, dims.as_slice());
        let partial = self.make("partial", ty, layout, Category::Temporary);
        self.multiply(extents, problem, plan, grid, slice, Operand::whole(partial));
        partial
    }

    /// Brings operands and multiplies, slice by slice of the contraction, into `target`.
    fn multiply(
        &mut self,
        extents: &Extents,
        problem: &MatmulProblem,
        plan: &MatmulPlan,
        grid: &PlanGrid,
        row_slice: usize,
        target: Operand,
    ) {
        let batch = usize::from(extents.groups.is_some());
        let rows = extents.m / plan.serial_m;
        for slice in 0..plan.serial_k {
            let depth = depth_slice(extents, plan, slice);
            let (m_axis, k_axis) = if problem.transpose_a {
                (batch + 1, batch)
            } else {
                (batch, batch + 1)
            };
            let mut a_views =
                slice_views(m_axis, row_slice * rows..(row_slice + 1) * rows, extents.m);
            a_views.extend(slice_views(k_axis, depth.clone(), extents.k));
            let b_views = slice_views(batch + usize::from(problem.transpose_b), depth, extents.k);
            let mut moves = Vec::new();
            let a = self.demand(0, &a_views, &grid.a(problem.transpose_a), "a", &mut moves);
            let b = self.demand(1, &b_views, &grid.b(problem.transpose_b), "b", &mut moves);
            self.exchange("operands", moves);
            let codelet = Codelet::Matmul {
                transpose_a: problem.transpose_a,
                transpose_b: problem.transpose_b,
                accumulate: slice > 0,
            };
            self.compute(
                "multiply",
                codelet,
                grid.id,
                &[Operand::whole(a), Operand::whole(b)],
                &[target],
            );
        }
    }

    /// Sends every tile of `gathered` its share of all `parts` partials and sums them, into `target` of the same cuts.
    fn sum_partials(
        &mut self,
        partial: VarId,
        gathered: &Layout,
        shape: &Shape,
        parts: usize,
        target: Operand,
        accumulate: bool,
    ) {
        let dims: Vec<usize> = std::iter::once(parts)
            .chain(shape.dims().iter().copied())
            .collect();
        debug_assert_eq!(self.g.lw.shape_of(partial), dims.as_slice().into());
        let mut moves = Vec::new();
        let partials = self.arrange(partial, vec![], gathered, "partials", &mut moves);
        self.exchange("partials", moves);
        let codelet = Codelet::Reduce {
            kind: ReduceKind::Sum,
            accumulate,
        };
        self.compute(
            "sum",
            codelet,
            gathered.grid,
            &[Operand::whole(partials)],
            &[target],
        );
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

/// The `slice`-th range of the contraction, in whole grains.
fn depth_slice(extents: &Extents, plan: &MatmulPlan, slice: usize) -> std::ops::Range<usize> {
    Cut::by(&[], GRAIN_K).range(extents.k, plan.serial_k, slice)
}

fn slice_views(axis: usize, range: std::ops::Range<usize>, size: usize) -> Vec<View> {
    if range.len() == size {
        vec![]
    } else {
        vec![View::Slice {
            axis,
            start: range.start,
            len: range.len(),
        }]
    }
}
