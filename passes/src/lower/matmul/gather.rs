//! Products in gathering style: operands in, one AMP vertex a tile, partials out and summed; in serial slices when memory asks for it.

use superstep_ir::ids::VarId;
use superstep_ir::program::{Category, Codelet, Cut, Operand, View};
use superstep_ir::types::{Shape, TensorType};

use super::super::{Binding, OpLowering};

use super::grid::Share;
use super::turn::{Sides, slice_views};
use super::{Extents, Product};
use crate::plan::Layout;
use crate::plan::matmul::{MatmulPlan, Outcome};

impl OpLowering<'_, '_, '_> {
    /// The whole product in a variable of its own.
    pub(super) fn product(&mut self, p: &Product) -> Binding {
        let sides = self.sides(&p.problem, &p.plan);
        let Product { extents, plan, .. } = p;
        let grid = &p.grid;
        let batched = extents.groups.is_some();
        let slice_shape = extents.dims([extents.m / plan.serial_m, extents.n]);
        let serial = plan.serial_m > 1;
        let leading: &[Cut] = if serial { &[Cut::none()] } else { &[] };
        let rows = slice_shape[slice_shape.rank() - 2];
        let share = if plan.k > 1 {
            grid.share(rows, extents.n)
        } else {
            Share::All
        };
        let layout = grid.out(share, leading);
        let shape: Shape = if serial {
            let slices = std::iter::once(plan.serial_m);
            let dims: Vec<usize> = slices.chain(slice_shape.dims().iter().copied()).collect();
            dims.as_slice().into()
        } else {
            slice_shape.clone()
        };
        let dtype = self.result_ty(0).dtype;
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
            if plan.k == 1 && p.problem.partials == dtype {
                self.multiply(p, &sides, slice, target);
            } else if plan.k == 1 {
                self.rounded_product(p, &sides, slice, target);
            } else {
                let partial = self.partial_product(p, &sides, slice);
                let gathered = grid.out(share, &[Cut::none()]);
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

    /// Multiplies with partial sums that are wider than `target`, and rounds them where they are.
    fn rounded_product(&mut self, p: &Product, sides: &Sides, slice: usize, target: Operand) {
        let rows = p.extents.m / p.plan.serial_m;
        let shape = p.extents.dims([rows, p.extents.n]);
        let layout = p.grid.out(Share::All, &[]);
        let ty = TensorType::new(p.problem.partials, shape);
        let wide = self.make("wide", ty, layout, Category::Temporary);
        self.multiply(p, sides, slice, Operand::whole(wide));
        let wide = [Operand::whole(wide)];
        self.compute("round", Codelet::Cast, p.grid.id, &wide, &[target]);
    }

    /// The product of row slice `slice` as `[k parts, (g,) m, n]`, each part on its own tiles.
    pub(super) fn partial_product(&mut self, p: &Product, sides: &Sides, slice: usize) -> VarId {
        let rows = p.extents.m / p.plan.serial_m;
        let product = p.extents.dims([rows, p.extents.n]);
        let dims: Vec<usize> = std::iter::once(p.plan.k)
            .chain(product.dims().iter().copied())
            .collect();
        let layout = p.grid.out(Share::All, &[p.grid.parts()]);
        let ty = TensorType::new(p.problem.partials, dims.as_slice());
        let partial = self.make("partial", ty, layout, Category::Temporary);
        self.multiply(p, sides, slice, Operand::whole(partial));
        partial
    }

    /// Brings operands and multiplies into `target`, in the plan's style.
    pub(super) fn multiply(
        &mut self,
        p: &Product,
        sides: &Sides,
        row_slice: usize,
        target: Operand,
    ) {
        match p.plan.ring {
            Some(ring) => self.rotate(p, sides, ring, target),
            None => self.multiply_slices(p, sides, row_slice, target),
        }
    }

    /// Slice by slice of the contraction.
    fn multiply_slices(&mut self, p: &Product, sides: &Sides, row_slice: usize, target: Operand) {
        let (extents, plan) = (&p.extents, &p.plan);
        let batch = usize::from(extents.groups.is_some());
        let rows = extents.m / plan.serial_m;
        let adds = matches!(p.problem.out, Outcome::Fixed { .. });
        for slice in 0..plan.serial_k {
            let depth = depth_slice(extents, plan, p.problem.grain_k(), slice);
            let (m_axis, k_axis) = if sides.transpose_a {
                (batch + 1, batch)
            } else {
                (batch, batch + 1)
            };
            let row_range = row_slice * rows..(row_slice + 1) * rows;
            let mut a_views = slice_views(m_axis, row_range, extents.m);
            a_views.extend(slice_views(k_axis, depth.clone(), extents.k));
            let b_axis = batch + usize::from(sides.transpose_b);
            let b_views = slice_views(b_axis, depth, extents.k);
            let mut moves = Vec::new();
            let a_layout = p.grid.a(sides.transpose_a);
            let b_layout = p.grid.b(sides.transpose_b);
            let a = self.bring(sides, 0, &a_views, &a_layout, &mut moves);
            let b = self.bring(sides, 1, &b_views, &b_layout, &mut moves);
            self.exchange("operands", moves);
            self.amp(
                sides,
                p.grid.id,
                adds || slice > 0,
                [a, b].map(Operand::whole),
                target,
            );
        }
    }

    /// One AMP vertex a tile.
    pub(super) fn amp(
        &mut self,
        sides: &Sides,
        grid: superstep_ir::ids::GridId,
        accumulate: bool,
        operands: [Operand; 2],
        target: Operand,
    ) {
        let codelet = Codelet::Matmul {
            transpose_a: sides.transpose_a,
            transpose_b: sides.transpose_b,
            accumulate,
        };
        self.compute("multiply", codelet, grid, &operands, &[target]);
    }

    /// Sends every tile of `gathered` its share of all `parts` partials and sums them, into `target` of the same cuts.
    pub(super) fn sum_partials(
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
        let codelet = Codelet::SumPartials { accumulate };
        let partials = [Operand::whole(partials)];
        self.compute("sum", codelet, gathered.grid, &partials, &[target]);
    }
}

/// The `slice`-th range of the contraction, in whole grains.
fn depth_slice(
    extents: &Extents,
    plan: &MatmulPlan,
    grain: usize,
    slice: usize,
) -> std::ops::Range<usize> {
    Cut::by(&[], grain).range(extents.k, plan.serial_k, slice)
}
