//! Cross entropy where the logits lie, columns cut over tiles: each tile's maximum and sum of its part of a row, then joined by row,
//! whichever slice of the columns a part is of.

use superstep_ir::ids::VarId;
use superstep_ir::program::{Category, Codelet, Cut, Move, Operand, View};
use superstep_ir::types::{DType, Shape, TensorType};

use super::views::simplify;
use super::{LowerError, OpLowering};
use crate::plan::Layout;

/// The logits in a variable `[rows…, classes]` and the layout of row vectors beside them.
struct Logits {
    variable: VarId,
    layout: Layout,
    /// Extents of the row dimensions.
    rows: Shape,
}

impl OpLowering<'_, '_, '_> {
    /// Logits of operand `i`: all of them, or a slice of their columns.
    fn logits(&mut self, i: usize) -> Logits {
        let classes = self.ty(i).shape[1];
        let (mut variable, views) = self.held(i);
        if !self.in_order(i) || self.g.lw.shape_of(variable).last() != classes {
            variable = self.materialise(variable, views);
        }
        let shape = self.g.lw.shape_of(variable);
        let rows = Shape::new(&shape.dims()[..shape.rank() - 1]);
        Logits {
            variable,
            layout: self.g.lw.layout_of(variable),
            rows,
        }
    }

    /// A row vector operand on every tile that has a part of the row.
    fn beside(&mut self, i: usize, logits: &Logits, what: &str, moves: &mut Vec<Move>) -> VarId {
        let layout = Layout::new(
            logits.layout.grid,
            logits.layout.cuts[..logits.rows.rank()].iter().cloned(),
        );
        self.demand(
            i,
            &[View::Reshape(logits.rows.clone())],
            &layout,
            what,
            moves,
        )
    }

    pub(super) fn cross_entropy(&mut self, padding: usize) -> Result<(), LowerError> {
        let slices = self.g.graph.node(self.id).operands().len() - 1;
        let n = self.ty(slices).shape[0];
        let classes = (0..slices).map(|i| self.ty(i).shape[1]).sum::<usize>() - padding;
        let logits: Vec<Logits> = (0..slices).map(|i| self.logits(i)).collect();
        let mut moves = Vec::new();
        let beside: Vec<VarId> = logits
            .iter()
            .map(|logits| self.beside(slices, logits, "labels", &mut moves))
            .collect();
        // A row on each tile: what is gathered for it, an entry for every part of the classes, is much more than the row's own result.
        let rows = self
            .g
            .lw
            .layout_by_parts(self.ipu, 0, &[n.min(self.g.lw.tiles())]);
        // Labels come from elsewhere for each chunk of rows. All else is alike in all chunks, and so is its exchange code.
        let labels_of_rows = self.demand(slices, &[], &rows, "labels", &mut moves);
        self.exchange("labels", moves);
        let (mut parts, mut first) = (Vec::with_capacity(slices), 0);
        for (logits, labels) in logits.iter().zip(beside) {
            let width = self.g.lw.shape_of(logits.variable).last();
            let padding = (first + width).saturating_sub(classes).min(width);
            parts.push(self.parts_of_rows(logits, labels, first as u32, padding as u32));
            first += width;
        }

        let gathered = Layout::new(rows.grid, [Cut::none(), rows.cuts[0].clone()]);
        let mut moves = Vec::new();
        let [max, sum, picked] =
            [0, 1, 2].map(|i| self.join_parts(&parts, i, n, &gathered, &mut moves));
        self.exchange("parts", moves);
        let per_row = TensorType::f32([n]);
        let loss = self.make("", per_row.clone(), rows.clone(), Category::Activation);
        let logsumexp = self.make("logsumexp", per_row, rows.clone(), Category::Activation);
        let whole = Operand::whole;
        self.compute(
            "join",
            Codelet::JoinLogSumExp,
            rows.grid,
            &[whole(max), whole(sum)],
            &[whole(logsumexp)],
        );
        let inputs = [whole(picked), whole(logsumexp), whole(labels_of_rows)];
        self.compute("loss", Codelet::RowLoss, rows.grid, &inputs, &[whole(loss)]);
        self.bind_whole(0, loss);
        self.bind_whole(1, logsumexp);
        Ok(())
    }

    /// Maximum, sum and label's logit of every part of the rows of a slice, whose columns are the classes from `first` on.
    fn parts_of_rows(
        &mut self,
        logits: &Logits,
        labels: VarId,
        first: u32,
        padding: u32,
    ) -> [VarId; 3] {
        let [max, sum, picked] = ["max", "sum", "picked"].map(|what| self.per_part(logits, what));
        let grid = logits.layout.grid;
        let whole = Operand::whole;
        self.compute(
            "max_sum",
            Codelet::RowMaxSum { padding },
            grid,
            &[whole(logits.variable)],
            &[whole(max), whole(sum)],
        );
        let inputs = [whole(logits.variable), whole(labels)];
        let pick = Codelet::PickLabel { first };
        self.compute("pick", pick, grid, &inputs, &[whole(picked)]);
        [max, sum, picked]
    }

    /// The `i`th result of all parts of all slices, one after the other: `[parts, n]` in this layout.
    fn join_parts(
        &mut self,
        slices: &[[VarId; 3]],
        i: usize,
        n: usize,
        layout: &Layout,
        moves: &mut Vec<Move>,
    ) -> VarId {
        let parts_of = |this: &Self, v: VarId| this.g.lw.shape_of(v)[0];
        if let [only] = slices {
            let flat = vec![View::Reshape([parts_of(self, only[i]), n].into())];
            return self.arrange(only[i], flat, layout, "parts", moves);
        }
        let parts: usize = slices.iter().map(|s| parts_of(self, s[i])).sum();
        let ty = TensorType::f32([parts, n]);
        let all = self.make("parts", ty, layout.clone(), Category::Temporary);
        let mut at = 0;
        for slice in slices {
            let parts = parts_of(self, slice[i]);
            let shape = self.g.lw.shape_of(slice[i]);
            moves.push(Move {
                source: slice[i],
                views: simplify(&shape, vec![View::Reshape([parts, n].into())]),
                destination: all,
                at: smallvec::smallvec![at, 0],
            });
            at += parts;
        }
        all
    }

    /// A result for every part of every row: `[parts of the classes, rows…]`.
    fn per_part(&mut self, logits: &Logits, what: &str) -> VarId {
        let columns = logits.layout.cuts[logits.rows.rank()].clone();
        let parts = columns.parts(self.g.lw.grid_ref(logits.layout.grid));
        let first = if columns.axes.is_empty() {
            Cut::none()
        } else {
            Cut::by(&columns.axes, 1)
        };
        let rows = logits.layout.cuts[..logits.rows.rank()].iter().cloned();
        let layout = Layout::new(logits.layout.grid, std::iter::once(first).chain(rows));
        let dims: Vec<usize> = std::iter::once(parts)
            .chain(logits.rows.dims().iter().copied())
            .collect();
        self.make(
            what,
            TensorType::new(DType::F32, dims.as_slice()),
            layout,
            Category::Temporary,
        )
    }

    pub(super) fn cross_entropy_grad(
        &mut self,
        first: u32,
        padding: u32,
    ) -> Result<(), LowerError> {
        let logits = self.logits(0);
        let mut moves = Vec::new();
        let labels = self.beside(1, &logits, "labels", &mut moves);
        let logsumexp = self.beside(2, &logits, "logsumexp", &mut moves);
        let g = self.beside(3, &logits, "g", &mut moves);
        self.exchange("operands", moves);
        let ty = self.g.lw.program.variable(logits.variable).ty.clone();
        let out = self
            .in_place(0, &[logits.variable], &logits.layout, &ty, &[])
            .unwrap_or_else(|| self.make("", ty, logits.layout.clone(), Category::Activation));
        let inputs = [logits.variable, labels, logsumexp, g].map(Operand::whole);
        self.compute(
            "grad",
            Codelet::CrossEntropyGrad { first, padding },
            logits.layout.grid,
            &inputs,
            &[Operand::whole(out)],
        );
        self.bind_reshaped(0, out);
        Ok(())
    }
}
