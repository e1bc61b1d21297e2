//! Cross entropy where the logits lie, columns cut over tiles: each tile's maximum and sum of its part of a row, then joined by row.

use superstep_ir::ids::VarId;
use superstep_ir::program::{Category, Codelet, Cut, Operand, View};
use superstep_ir::types::{DType, Shape, TensorType};

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
    fn logits(&mut self) -> Logits {
        let classes = self.ty(0).shape[1];
        let (mut variable, views) = self.held(0);
        if !self.in_order(0) || self.g.lw.shape_of(variable).last() != classes {
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
    fn beside(
        &mut self,
        i: usize,
        logits: &Logits,
        what: &str,
        moves: &mut Vec<superstep_ir::program::Move>,
    ) -> VarId {
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

    pub(super) fn cross_entropy(&mut self) -> Result<(), LowerError> {
        let n = self.ty(0).shape[0];
        let logits = self.logits();
        let mut moves = Vec::new();
        let labels = self.beside(1, &logits, "labels", &mut moves);
        // A row on each tile: what is gathered for it, an entry for every part of the classes, is much more than the row's own result.
        let rows = self
            .g
            .lw
            .layout_by_parts(self.ipu, 0, &[n.min(self.g.lw.tiles())]);
        // Labels come from elsewhere for each chunk of rows. All else is alike in all chunks, and so is its exchange code.
        let labels_of_rows = self.demand(1, &[], &rows, "labels", &mut moves);
        self.exchange("labels", moves);
        let [max, sum, picked] = ["max", "sum", "picked"].map(|what| self.per_part(&logits, what));
        let grid = logits.layout.grid;
        let whole = Operand::whole;
        self.compute(
            "max_sum",
            Codelet::RowMaxSum,
            grid,
            &[whole(logits.variable)],
            &[whole(max), whole(sum)],
        );
        let inputs = [whole(logits.variable), whole(labels)];
        self.compute("pick", Codelet::PickLabel, grid, &inputs, &[whole(picked)]);

        let parts = self.g.lw.shape_of(max)[0];
        let gathered = Layout::new(rows.grid, [Cut::none(), rows.cuts[0].clone()]);
        let mut moves = Vec::new();
        let flat = vec![View::Reshape([parts, n].into())];
        let [max, sum, picked] = [max, sum, picked]
            .map(|v| self.arrange(v, flat.clone(), &gathered, "parts", &mut moves));
        self.exchange("parts", moves);
        let per_row = TensorType::f32([n]);
        let loss = self.make("", per_row.clone(), rows.clone(), Category::Activation);
        let logsumexp = self.make("logsumexp", per_row, rows.clone(), Category::Activation);
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

    pub(super) fn cross_entropy_grad(&mut self) -> Result<(), LowerError> {
        let logits = self.logits();
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
            Codelet::CrossEntropyGrad,
            logits.layout.grid,
            &inputs,
            &[Operand::whole(out)],
        );
        self.bind_reshaped(0, out);
        Ok(())
    }
}
