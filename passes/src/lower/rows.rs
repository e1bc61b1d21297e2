//! Ops on rows: layer norm, softmax and masks. Rows are spread over the tiles, each whole on one tile where the op needs it.

use superstep_ir::ids::VarId;
use superstep_ir::machine::codelet_cost::norm;
use superstep_ir::op::{Op, ReduceKind};
use superstep_ir::program::{Category, Codelet, Operand, View};
use superstep_ir::types::{Shape, TensorType};

use super::reduce::partial_dtype;
use super::{Binding, LowerError, OpLowering};
use crate::plan::Layout;
use crate::plan::column_sums::Columns;
use crate::plan::layout::row_parts;

impl OpLowering<'_, '_, '_> {
    /// A layout with whole rows for a tensor of `shape`: the operand's own if it has whole rows on enough tiles, else the default.
    fn row_layout(&mut self, i: usize, shape: &Shape) -> Layout {
        let parts = row_parts(shape, self.g.lw.tiles());
        if let Some(Binding::Held { variable, views }) = self.g.bindings.get(&self.operand(i))
            && views.is_empty()
        {
            let variable = self.g.lw.program.variable(*variable);
            let grid = self.g.lw.program.grid(variable.grid);
            let whole_rows = variable.cuts.last().is_some_and(|c| c.parts(grid) == 1);
            let used: usize = variable.cuts.iter().map(|c| c.parts(grid)).product();
            if whole_rows
                && grid.ipu == self.ipu
                && used == grid.points()
                && used * 2 > parts.iter().product()
            {
                return Layout::of(variable);
            }
        }
        self.g.lw.layout_by_parts(self.ipu, 0, &parts)
    }

    /// Layout of per-row statistics beside rows in `layout`.
    fn statistics(layout: &Layout) -> Layout {
        Layout::new(
            layout.grid,
            layout.cuts[..layout.cuts.len() - 1].iter().cloned(),
        )
    }

    fn operands(vs: &[VarId]) -> Vec<Operand> {
        vs.iter().map(|&v| Operand::whole(v)).collect()
    }

    pub(super) fn layer_norm(&mut self) -> Result<(), LowerError> {
        let Op::LayerNorm { epsilon } = *self.g.graph.op(self.id) else {
            return self.unsupported("not a layer norm");
        };
        let ty = self.ty(0);
        let layout = self.row_layout(0, &ty.shape);
        let mut moves = Vec::new();
        let x = self.demand(0, &[], &layout, "x", &mut moves);
        let row = Layout::copies(layout.grid, 1);
        let scale = self.demand(1, &[], &row, "scale", &mut moves);
        let shift = self.demand(2, &[], &row, "shift", &mut moves);
        self.exchange("operands", moves);
        let y = self.make("", ty, layout.clone(), Category::Activation);
        let statistics = Self::statistics(&layout);
        let [mean, rstd] = [(1, "mean"), (2, "rstd")].map(|(r, name)| {
            self.make(
                name,
                self.result_ty(r),
                statistics.clone(),
                Category::Activation,
            )
        });
        let (inputs, outputs) = (
            Self::operands(&[x, scale, shift]),
            Self::operands(&[y, mean, rstd]),
        );
        self.compute(
            "normalise",
            Codelet::LayerNorm { epsilon },
            layout.grid,
            &inputs,
            &outputs,
        );
        for (r, v) in [y, mean, rstd].into_iter().enumerate() {
            self.bind_whole(r as u32, v);
        }
        Ok(())
    }

    pub(super) fn layer_norm_grad(&mut self) -> Result<(), LowerError> {
        let ty = self.ty(0);
        let layout = self.row_layout(0, &ty.shape);
        let statistics = Self::statistics(&layout);
        let mut moves = Vec::new();
        let g = self.demand(0, &[], &layout, "g", &mut moves);
        let x = self.demand(1, &[], &layout, "x", &mut moves);
        let scale = self.demand(2, &[], &Layout::copies(layout.grid, 1), "scale", &mut moves);
        let mean = self.demand(3, &[], &statistics, "mean", &mut moves);
        let rstd = self.demand(4, &[], &statistics, "rstd", &mut moves);
        self.exchange("operands", moves);
        let dx = self.make("", ty, layout.clone(), Category::Activation);
        let inputs = Self::operands(&[g, x, scale, mean, rstd]);
        self.compute(
            "grad",
            Codelet::LayerNormGrad,
            layout.grid,
            &inputs,
            &Self::operands(&[dx]),
        );
        self.bind_whole(0, dx);
        Ok(())
    }

    pub(super) fn layer_norm_param_grad(&mut self) -> Result<(), LowerError> {
        let ty = self.ty(0);
        let rows = ty.shape.elements() / ty.shape.last();
        let flat = [View::Reshape([rows, ty.shape.last()].into())];
        let layout = self.param_grad_layout(rows, &ty);
        let statistics = Self::statistics(&layout);
        let mut moves = Vec::new();
        let g = self.demand(0, &flat, &layout, "g", &mut moves);
        let x = self.demand(1, &flat, &layout, "x", &mut moves);
        let row = [View::Reshape([rows].into())];
        let mean = self.demand(2, &row, &statistics, "mean", &mut moves);
        let rstd = self.demand(3, &row, &statistics, "rstd", &mut moves);
        self.exchange("operands", moves);
        let parts = layout.cuts[0].parts(self.g.lw.grid_ref(layout.grid));
        let mut partial_layout = self.one_part_a_tile(&layout, &statistics, 0);
        partial_layout.cuts.push(layout.cuts[1].clone());
        let partials = ["dscale", "dshift"].map(|name| {
            let dtype = partial_dtype(ReduceKind::Sum, parts, ty.dtype);
            let ty = TensorType::new(dtype, [parts, ty.shape.last()]);
            self.make(name, ty, partial_layout.clone(), Category::Temporary)
        });
        let inputs = Self::operands(&[g, x, mean, rstd]);
        self.compute(
            "grad",
            Codelet::LayerNormParamGrad,
            layout.grid,
            &inputs,
            &Self::operands(&partials),
        );
        let sums = self.reduce_all_leading(ReduceKind::Sum, partials, ty.dtype);
        for (r, sum) in sums.into_iter().enumerate() {
            self.bind_reshaped(r as u32, sum);
        }
        Ok(())
    }

    /// Layout of `[rows, columns]` for the gradients of scale and shift, which need no whole rows.
    fn param_grad_layout(&mut self, rows: usize, ty: &TensorType) -> Layout {
        let machine = self.g.lw.machine;
        let own = |rows: usize, columns: usize| {
            let (rows, columns) = (rows as u64, columns as u64);
            norm::layer_norm_param_grad(machine, ty.dtype, rows, columns).cycles
        };
        let sums = Columns {
            rows,
            columns: ty.shape.last(),
            bytes: 2 * ty.dtype.bytes(),
            sums: 2,
            own: &own,
        };
        let blocks = sums.in_blocks(machine);
        self.block_layout(&blocks)
    }

    /// Where `x` lies, whatever its cuts: a mask needs no whole rows.
    pub(super) fn mask_beyond(&mut self) -> Result<(), LowerError> {
        let ty = self.ty(0);
        let layout = match &self.g.bindings[&self.operand(0)] {
            Binding::Held { variable, views }
                if views.is_empty() && self.g.lw.program.grid_of(*variable).ipu == self.ipu =>
            {
                self.g.lw.layout_of(*variable)
            }
            _ => self.row_layout(0, &ty.shape),
        };
        let mut moves = Vec::new();
        let x = self.demand(0, &[], &layout, "x", &mut moves);
        let entries = Layout::new(layout.grid, layout.cuts[..1].iter().cloned());
        let last = self.demand(1, &[], &entries, "last", &mut moves);
        self.exchange("operands", moves);
        let out = self
            .in_place(0, &[x], &layout, &ty, &[])
            .unwrap_or_else(|| self.make("", ty.clone(), layout.clone(), Category::Activation));
        self.compute(
            "mask",
            Codelet::MaskBeyond,
            layout.grid,
            &Self::operands(&[x, last]),
            &[Operand::whole(out)],
        );
        self.bind_whole(0, out);
        Ok(())
    }

    pub(super) fn softmax(&mut self) -> Result<(), LowerError> {
        let codelet = match *self.g.graph.op(self.id) {
            Op::Softmax { scale, causal } => Codelet::Softmax { scale, causal },
            Op::SoftmaxGrad { scale } => Codelet::SoftmaxGrad { scale },
            _ => Codelet::CausalMask,
        };
        let ty = self.ty(0);
        let layout = self.row_layout(0, &ty.shape);
        let mut moves = Vec::new();
        let count = self.g.graph.node(self.id).operands().len();
        let inputs: Vec<VarId> = (0..count)
            .map(|i| self.demand(i, &[], &layout, "in", &mut moves))
            .collect();
        self.exchange("operands", moves);
        let out = self
            .in_place(0, &inputs, &layout, &ty, &[])
            .unwrap_or_else(|| self.make("", ty.clone(), layout.clone(), Category::Activation));
        self.compute(
            "rows",
            codelet,
            layout.grid,
            &Self::operands(&inputs),
            &[Operand::whole(out)],
        );
        self.bind_whole(0, out);
        Ok(())
    }
}
