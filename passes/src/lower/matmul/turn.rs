//! Operands of a product and how they are brought: as they are, or turned (transposed) once where they lie, before they are gathered.

use superstep_ir::ids::VarId;
use superstep_ir::program::{Category, Codelet, Move, Operand, View};
use superstep_ir::types::{Shape, TensorType};

use super::super::views::viewed_shape;
use super::super::{Binding, OpLowering};
use crate::plan::Layout;
use crate::plan::matmul::{MatmulPlan, MatmulProblem};

/// The two operands of a product as its vertices see them.
pub(super) struct Sides {
    pub(super) transpose_a: bool,
    pub(super) transpose_b: bool,
    /// Turned copies, if the plan makes them.
    turned: [Option<VarId>; 2],
}

impl OpLowering<'_, '_, '_> {
    /// Turns the operands that the plan wants turned.
    pub(super) fn sides(&mut self, problem: &MatmulProblem, plan: &MatmulPlan) -> Sides {
        let turn_a = problem.transpose_a && plan.turn_a;
        let turn_b = problem.transpose_b && plan.turn_b;
        let turned = [turn_a.then(|| self.turn(0)), turn_b.then(|| self.turn(1))];
        Sides {
            transpose_a: problem.transpose_a && !turn_a,
            transpose_b: problem.transpose_b && !turn_b,
            turned,
        }
    }

    /// Operand `i` as the vertices see it, through `extra` views, in `layout`.
    pub(super) fn bring(
        &mut self,
        sides: &Sides,
        i: usize,
        extra: &[View],
        layout: &Layout,
        moves: &mut Vec<Move>,
    ) -> VarId {
        let what = ["a", "b"][i];
        match sides.turned[i] {
            Some(turned) => self.arrange(turned, extra.to_vec(), layout, what, moves),
            None => self.demand(i, extra, layout, what, moves),
        }
    }

    /// The variable and views of operand `i` as the vertices see it.
    pub(super) fn side(&mut self, sides: &Sides, i: usize) -> (VarId, Vec<View>) {
        match sides.turned[i] {
            Some(turned) => (turned, vec![]),
            None => self.held(i),
        }
    }

    /// A copy of operand `i` with its last two dimensions exchanged. State is turned where it rests; anything else is first cut into
    /// blocks that are nearly square, so that no tile has to send single elements.
    fn turn(&mut self, i: usize) -> VarId {
        let (variable, views) = self.held(i);
        let rests = views.is_empty() && self.g.lw.program.variable(variable).live.is_none();
        let source = if rests {
            variable
        } else {
            let shape = viewed_shape(&self.g.lw.shape_of(variable), &views);
            let layout = self.squares(&shape);
            let mut moves = Vec::new();
            let even = self.arrange(variable, views, &layout, "even", &mut moves);
            self.exchange("even", moves);
            even
        };
        let mut layout = self.g.lw.layout_of(source);
        let mut shape = self.g.lw.shape_of(source);
        let rank = shape.rank();
        layout.cuts.swap(rank - 2, rank - 1);
        shape.0.swap(rank - 2, rank - 1);
        let grid = layout.grid;
        let dtype = self.g.lw.program.variable(source).ty.dtype;
        let ty = TensorType::new(dtype, shape);
        let turned = self.make("turned", ty, layout, Category::Temporary);
        let (from, to) = (Operand::whole(source), Operand::whole(turned));
        self.compute("turn", Codelet::Transpose, grid, &[from], &[to]);
        turned
    }

    /// A layout in blocks of one matrix each, about as many rows as columns.
    fn squares(&mut self, shape: &Shape) -> Layout {
        let rank = shape.rank();
        let (batch, matrix) = shape.dims().split_at(rank - 2);
        let groups: usize = batch.iter().product();
        let left = (self.g.lw.tiles() / groups).max(1);
        let side = ((matrix[0] * matrix[1]) as f64 / left as f64).sqrt().ceil() as usize;
        let rows = matrix[0].div_ceil(side.max(1)).clamp(1, left);
        let columns = (left / rows).min(matrix[1].div_ceil(side.max(1))).max(1);
        let mut free = self.g.lw.tiles();
        let mut parts: Vec<usize> = Vec::new();
        for &extent in batch {
            let p = extent.min(free).max(1);
            parts.push(p);
            free /= p;
        }
        parts.extend([rows, columns]);
        self.g.lw.layout_by_parts(self.ipu, 0, &parts)
    }

    /// True when operand `i` is in tile memory (not a constant to be filled in).
    pub(super) fn is_held(&self, i: usize) -> bool {
        matches!(self.g.bindings[&self.operand(i)], Binding::Held { .. })
    }
}

/// A slice of one dimension, unless it is all of it.
pub(super) fn slice_views(axis: usize, range: std::ops::Range<usize>, size: usize) -> Vec<View> {
    if range.len() == size {
        return vec![];
    }
    vec![View::Slice {
        axis,
        start: range.start,
        len: range.len(),
    }]
}
