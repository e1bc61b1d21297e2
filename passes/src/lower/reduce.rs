//! Reductions: each tile reduces what it has, then the partial results are gathered and reduced; in two stages when there are many.

use superstep_ir::ids::VarId;
use superstep_ir::op::ReduceKind;
use superstep_ir::program::{Category, Codelet, Cut, Operand, View};
use superstep_ir::types::{DType, Shape, TensorType};

use super::{Binding, LowerError, OpLowering};
use crate::plan::Layout;

/// More partials than this are summed in two stages (PopLibs uses two from 16 on).
const ONE_STAGE: usize = 32;

impl OpLowering<'_, '_, '_> {
    pub(super) fn reduce(&mut self, kind: ReduceKind, leading: usize) -> Result<(), LowerError> {
        let ty = self.ty(0);
        let rest: usize = ty.shape.dims()[leading..].iter().product();
        let x = self.reducible(rest, leading, &ty);
        let (shape, layout) = (self.g.lw.shape_of(x), self.g.lw.layout_of(x));
        let split = leading_dims(&shape, rest).expect("reducible() gives such a shape");
        let dtype = self.result_ty(0).dtype;
        let partial = self.reduce_own_tiles(kind, x, &shape, &layout, split, dtype);
        // What SumSquares squares is squared once.
        let join = if kind == ReduceKind::SumSquares {
            ReduceKind::Sum
        } else {
            kind
        };
        let sum = self.reduce_leading(join, partial, dtype);
        self.bind_reshaped(0, sum);
        Ok(())
    }

    /// The operand in a variable whose trailing dimensions have exactly the elements that remain.
    fn reducible(&mut self, rest: usize, leading: usize, ty: &TensorType) -> VarId {
        let (variable, views) = self.held(0);
        let only_reshaped = views.iter().all(|v| matches!(v, View::Reshape(_)));
        if only_reshaped && leading_dims(&self.g.lw.shape_of(variable), rest).is_some() {
            return variable;
        }
        let flat = Shape::new(&[ty.shape.dims()[..leading].iter().product(), rest]);
        let layout = self.g.lw.spread(self.ipu, &flat);
        let mut moves = Vec::new();
        let mut views = views;
        views.push(View::Reshape(flat));
        let x = self.arrange(variable, views, &layout, "in", &mut moves);
        self.exchange("operands", moves);
        x
    }

    /// One partial result for every part of the leading dimensions, `[parts, rest…]`, of a reduction to `dtype`.
    fn reduce_own_tiles(
        &mut self,
        kind: ReduceKind,
        x: VarId,
        shape: &Shape,
        layout: &Layout,
        split: usize,
        dtype: DType,
    ) -> VarId {
        let grid = self.g.lw.grid_ref(layout.grid).clone();
        let parts: usize = layout.cuts[..split]
            .iter()
            .map(|c| c.parts(&grid))
            .product();
        let dims: Vec<usize> = std::iter::once(parts)
            .chain(shape.dims()[split..].iter().copied())
            .collect();
        let leading = Layout::new(layout.grid, layout.cuts[..split].iter().cloned());
        let mut partial_layout = self.one_part_a_tile(layout, &leading, 0);
        partial_layout
            .cuts
            .extend(layout.cuts[split..].iter().cloned());
        let ty = TensorType::new(partial_dtype(kind, parts, dtype), dims.as_slice());
        let partial = self.make("partial", ty, partial_layout, Category::Temporary);
        let codelet = Codelet::Reduce {
            kind,
            accumulate: false,
        };
        self.compute(
            "reduce",
            codelet,
            layout.grid,
            &[Operand::whole(x)],
            &[Operand::whole(partial)],
        );
        partial
    }

    /// A dimension with one entry for every part of `cut`'s dimensions, entry `i` on the tiles of part `i`, and `rest` uncut ones.
    pub(super) fn one_part_a_tile(&self, on: &Layout, cut: &Layout, rest: usize) -> Layout {
        let axes: Vec<u8> = cut
            .cuts
            .iter()
            .flat_map(|c| c.axes.iter().copied())
            .collect();
        let first = if axes.is_empty() {
            Cut::none()
        } else {
            Cut::by(&axes, 1)
        };
        Layout::new(
            on.grid,
            std::iter::once(first).chain(std::iter::repeat_n(Cut::none(), rest)),
        )
    }

    /// Sums a variable `[parts, rest…]` over its leading dimension; where there is one part only, it is the sum.
    pub(super) fn sum_leading(&mut self, partial: VarId, dtype: DType) -> VarId {
        self.reduce_leading(ReduceKind::Sum, partial, dtype)
    }

    fn reduce_leading(&mut self, kind: ReduceKind, partial: VarId, dtype: DType) -> VarId {
        let shape = self.g.lw.shape_of(partial);
        let parts = shape[0];
        let first = (2..=parts)
            .rev()
            .find(|&p| p * p <= parts && parts.is_multiple_of(p))
            .unwrap_or(1);
        if parts > ONE_STAGE && first > 1 {
            // [p1·p2, rest] → sums over p2 → [p1, rest] → sum over p1.
            let mut dims: Vec<usize> = vec![first, parts / first];
            dims.extend_from_slice(&shape.dims()[1..]);
            let mut perm: smallvec::SmallVec<[usize; 4]> = (0..dims.len()).collect();
            perm.swap(0, 1);
            let views = vec![View::Reshape(dims.as_slice().into()), View::Transpose(perm)];
            let dtype_between = self.g.lw.program.variable(partial).ty.dtype;
            let stage = self.reduce_stage(kind, partial, views, dtype_between, None);
            return self.reduce_leading(kind, stage, dtype);
        }
        if parts == 1 {
            return partial;
        }
        self.reduce_stage(kind, partial, vec![], dtype, None)
    }

    /// Sums a variable `[parts, rest…]` over its leading dimension; the sum lies as `target` says, unless there are so many parts that they are
    /// summed in two stages.
    pub(super) fn sum_leading_to(&mut self, partial: VarId, dtype: DType, target: Layout) -> VarId {
        if !(2..=ONE_STAGE).contains(&self.g.lw.shape_of(partial)[0]) {
            return self.sum_leading(partial, dtype);
        }
        self.reduce_stage(ReduceKind::Sum, partial, vec![], dtype, Some(target))
    }

    /// Gathers `views(partial) = [p, rest…]` so that all `p` lie together, and reduces them: `[rest…]` of `dtype`, in the default layout if
    /// no other is given.
    fn reduce_stage(
        &mut self,
        kind: ReduceKind,
        partial: VarId,
        views: Vec<View>,
        dtype: DType,
        target: Option<Layout>,
    ) -> VarId {
        let whole = super::views::viewed_shape(&self.g.lw.shape_of(partial), &views);
        let rest: Shape = whole.dims()[1..].into();
        let target = target.unwrap_or_else(|| self.g.lw.spread(self.ipu, &rest));
        let gathered = Layout::new(
            target.grid,
            std::iter::once(Cut::none()).chain(target.cuts.iter().cloned()),
        );
        let mut moves = Vec::new();
        let all = self.arrange(partial, views, &gathered, "partials", &mut moves);
        self.exchange("partials", moves);
        let ty = TensorType::new(dtype, rest);
        let out = self.make("sum", ty, target.clone(), Category::Activation);
        let codelet = Codelet::Reduce {
            kind,
            accumulate: false,
        };
        self.compute(
            "sum",
            codelet,
            target.grid,
            &[Operand::whole(all)],
            &[Operand::whole(out)],
        );
        out
    }

    /// True when operand `i` is held as it is, or reshaped only.
    pub(super) fn in_order(&self, i: usize) -> bool {
        match &self.g.bindings[&self.operand(i)] {
            Binding::Held { views, .. } => views.iter().all(|v| matches!(v, View::Reshape(_))),
            Binding::Splat(_) => false,
        }
    }
}

/// Element type of the partial results of a reduction to `dtype`: sums go on in f32, whatever comes of them.
pub(super) fn partial_dtype(kind: ReduceKind, parts: usize, dtype: DType) -> DType {
    match kind {
        ReduceKind::Sum | ReduceKind::SumSquares if parts > 1 => DType::F32,
        _ => dtype,
    }
}

/// How many leading dimensions leave exactly `rest` elements behind them.
fn leading_dims(shape: &Shape, rest: usize) -> Option<usize> {
    (0..=shape.rank()).find(|&d| shape.dims()[d..].iter().product::<usize>() == rest)
}
