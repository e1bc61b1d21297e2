//! Reductions: each tile reduces what it has, then the partial results are gathered and reduced; in two stages when there are many. Where a tile has
//! too few rows for that, it gets a block of rows and columns first (`plan/column_sums.rs`).

use smallvec::smallvec;
use superstep_ir::ids::VarId;
use superstep_ir::machine::codelet_cost::reduce;
use superstep_ir::op::ReduceKind;
use superstep_ir::program::{Category, Codelet, Cut, Operand, VertexGroup, View};
use superstep_ir::types::{DType, Shape, TensorType};

use super::{Binding, LowerError, OpLowering};
use crate::plan::Layout;
use crate::plan::column_sums::{ColumnSums, Columns, ONE_STAGE, first_stage, least_sums};
use crate::plan::layout::spread_by;

impl OpLowering<'_, '_, '_> {
    pub(super) fn reduce(&mut self, kind: ReduceKind, leading: usize) -> Result<(), LowerError> {
        let ty = self.ty(0);
        let rest: usize = ty.shape.dims()[leading..].iter().product();
        let dtype = self.result_ty(0).dtype;
        let x = self.reducible(rest, leading, &ty);
        let x = self.in_blocks(x, rest, dtype).unwrap_or(x);
        let (shape, layout) = (self.g.lw.shape_of(x), self.g.lw.layout_of(x));
        let split = leading_dims(&shape, rest).expect("reducible() gives such a shape");
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

    /// A copy of a variable of which all but the last `rest` elements are reduced, in blocks of rows and columns, if that takes less than
    /// reducing it where it lies.
    fn in_blocks(&mut self, x: VarId, rest: usize, dtype: DType) -> Option<VarId> {
        let ty = self.g.lw.program.variable(x).ty.clone();
        let layout = self.g.lw.layout_of(x);
        let grid = self.g.lw.grid_ref(layout.grid);
        let split = leading_dims(&ty.shape, rest)?;
        let rows: usize = ty.shape.dims()[..split].iter().product();
        let row_parts: usize = layout.cuts[..split].iter().map(|c| c.parts(grid)).product();
        let block = layout.largest_block(grid, &ty.shape);
        let [own_rows, own_columns] = [&block.dims()[..split], &block.dims()[split..]]
            .map(|dims| dims.iter().product::<usize>());
        let machine = self.g.lw.machine;
        let to = partial_dtype(ReduceKind::Sum, 2, dtype);
        let own = |rows: usize, columns: usize| {
            let types = [ty.dtype, to];
            reduce::reduce(machine, types, columns as u64, rows as u64).cycles
        };
        let sums = Columns {
            rows,
            columns: rest,
            bytes: ty.dtype.bytes(),
            sums: 1,
            own: &own,
        };
        let blocks = sums.in_blocks(machine);
        if blocks.cycles >= sums.on_blocks(machine, row_parts, own_rows, own_columns) {
            return None;
        }
        let layout = self.block_layout(&blocks);
        let views = vec![View::Reshape([rows, rest].into())];
        let mut moves = Vec::new();
        let copy = self.arrange(x, views, &layout, "in", &mut moves);
        self.exchange("operands", moves);
        Some(copy)
    }

    pub(super) fn block_layout(&mut self, blocks: &ColumnSums) -> Layout {
        let parts = [blocks.row_parts, blocks.column_parts];
        self.g.lw.layout_by_parts(self.ipu, 0, &parts)
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
        let codelet = Codelet::Reduce { kind };
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
        let [sum] = self.reduce_all_leading(kind, [partial], dtype);
        sum
    }

    /// Reduces variables of one shape `[parts, rest…]` over their leading dimension, all at the same time.
    pub(super) fn reduce_all_leading<const N: usize>(
        &mut self,
        kind: ReduceKind,
        partials: [VarId; N],
        dtype: DType,
    ) -> [VarId; N] {
        let shape = self.g.lw.shape_of(partials[0]);
        let parts = shape[0];
        let first = first_stage(parts);
        if first > 1 {
            // [p1·p2, rest] → sums over p2 → [p1, rest] → sum over p1.
            let mut dims: Vec<usize> = vec![first, parts / first];
            dims.extend_from_slice(&shape.dims()[1..]);
            let mut perm: smallvec::SmallVec<[usize; 4]> = (0..dims.len()).collect();
            perm.swap(0, 1);
            let views = vec![View::Reshape(dims.as_slice().into()), View::Transpose(perm)];
            let between = self.g.lw.program.variable(partials[0]).ty.dtype;
            let stage = self.reduce_stage(kind, partials, &views, between, None);
            return self.reduce_all_leading(kind, stage, dtype);
        }
        if parts == 1 {
            return partials;
        }
        self.reduce_stage(kind, partials, &[], dtype, None)
    }

    /// Sums a variable `[parts, rest…]` over its leading dimension; the sum lies as `target` says, unless there are so many parts that they are
    /// summed in two stages.
    pub(super) fn sum_leading_to(&mut self, partial: VarId, dtype: DType, target: Layout) -> VarId {
        if !(2..=ONE_STAGE).contains(&self.g.lw.shape_of(partial)[0]) {
            return self.sum_leading(partial, dtype);
        }
        let target = Some(target);
        let [sum] = self.reduce_stage(ReduceKind::Sum, [partial], &[], dtype, target);
        sum
    }

    /// Gathers `views(partial) = [p, rest…]` so that all `p` lie together, and reduces them: `[rest…]` of `dtype`, on tiles of their own if no
    /// layout is given.
    fn reduce_stage<const N: usize>(
        &mut self,
        kind: ReduceKind,
        partials: [VarId; N],
        views: &[View],
        dtype: DType,
        target: Option<Layout>,
    ) -> [VarId; N] {
        let mut moves = Vec::new();
        let gathered = partials.map(|partial| {
            let whole = super::views::viewed_shape(&self.g.lw.shape_of(partial), views);
            let rest: Shape = whole.dims()[1..].into();
            let target = target.clone().unwrap_or_else(|| {
                let parts = spread_by(&rest, self.g.lw.tiles(), least_sums(whole[0]));
                self.g.lw.spread_in(self.ipu, &parts)
            });
            let together = Layout::new(
                target.grid,
                std::iter::once(Cut::none()).chain(target.cuts.iter().cloned()),
            );
            let all = self.arrange(partial, views.to_vec(), &together, "partials", &mut moves);
            (all, rest, target)
        });
        self.exchange("partials", moves);
        let groups = gathered.map(|(all, rest, target)| {
            let ty = TensorType::new(dtype, rest);
            let out = self.make("sum", ty, target.clone(), Category::Activation);
            VertexGroup {
                codelet: Codelet::Reduce { kind },
                grid: target.grid,
                inputs: smallvec![Operand::whole(all)],
                outputs: smallvec![Operand::whole(out)],
            }
        });
        let sums = groups.each_ref().map(|group| group.outputs[0].variable);
        self.compute_groups("sum", groups.into_iter().collect());
        sums
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
