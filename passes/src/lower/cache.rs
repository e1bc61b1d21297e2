//! Caches of earlier positions: rows written into state where it lies, at an index known when the program runs, or one known before.

use superstep_ir::graph::Value;
use superstep_ir::ids::VarId;
use superstep_ir::op::Op;
use superstep_ir::program::{Category, Codelet, Move, Operand};

use super::{Binding, LowerError, OpLowering};
use crate::plan::Layout;

impl OpLowering<'_, '_, '_> {
    pub(super) fn write_rows(&mut self) -> Result<(), LowerError> {
        let base = self.written_base();
        match self.g.bindings[&self.operand(1)] {
            Binding::Splat(first) => self.move_rows(base, first)?,
            Binding::Held { .. } => self.write_rows_at_run_time(base),
        }
        self.bind_whole(0, base);
        Ok(())
    }

    /// The same rows of every matrix: where they go is known, so each tile is sent what it keeps.
    fn move_rows(&mut self, base: VarId, first: f64) -> Result<(), LowerError> {
        let (last, written) = (self.ty(0).shape[1], self.ty(2).shape[1]);
        let fits = first >= 0.0 && first + written as f64 <= last as f64;
        if !fits {
            return self.unsupported(format!("rows from {first} on are outside 0..{last}"));
        }
        let (rows, views) = self.held(2);
        let (source, views) = self.reachable(rows, views);
        let mv = Move {
            source,
            views,
            destination: base,
            at: smallvec::smallvec![0, first as usize, 0],
        };
        self.exchange("rows", vec![mv]);
        Ok(())
    }

    /// All tiles of a matrix receive the rows, and each keeps those that are its own.
    fn write_rows_at_run_time(&mut self, base: VarId) {
        let layout = self.g.lw.layout_of(base);
        let [matrices, _, columns] = &layout.cuts[..] else {
            unreachable!("the base of checked rows has three dimensions");
        };
        let none = superstep_ir::program::Cut::none();
        let of_rows = Layout::new(layout.grid, [matrices.clone(), none, columns.clone()]);
        let of_first = Layout::new(layout.grid, [matrices.clone()]);
        let mut moves = Vec::new();
        let first = self.demand(1, &[], &of_first, "first", &mut moves);
        let rows = self.demand(2, &[], &of_rows, "rows", &mut moves);
        self.exchange("operands", moves);
        self.compute(
            "write",
            Codelet::WriteRows,
            layout.grid,
            &[Operand::whole(first), Operand::whole(rows)],
            &[Operand::whole(base)],
        );
    }

    /// The variable that is written into: the base's own if nobody needs what it was, else a copy of it.
    fn written_base(&mut self) -> VarId {
        if let Binding::Held { variable, views } = &self.g.bindings[&self.operand(0)] {
            let variable = *variable;
            let here = self.g.lw.program.grid_of(variable).ipu == self.ipu;
            let free = self.dies_here(variable) || self.replaces_state(variable);
            if views.is_empty() && here && free {
                return variable;
            }
        }
        let ty = self.ty(0);
        let layout = self.g.lw.spread(self.ipu, &ty.shape);
        if let Binding::Splat(value) = self.g.bindings[&self.operand(0)] {
            let filled = self.fill(value, ty, layout);
            self.g.lw.program.variables[filled.index()].category = Category::Activation;
            return filled;
        }
        let (variable, views) = self.held(0);
        let (variable, views) = self.reachable(variable, views);
        let copy = self.make("base", ty, layout, Category::Activation);
        let mv = super::whole_move(&self.g.lw.program, variable, views, copy);
        self.exchange("base", vec![mv]);
        copy
    }

    /// True when the variable is state that only this op reads, and that becomes this op's result.
    fn replaces_state(&self, variable: VarId) -> bool {
        let program = &self.g.lw.program;
        let Some(state) = program.states.iter().find(|s| s.variable == variable) else {
            return false;
        };
        let only_reader =
            self.g.pending.get(&variable).copied().unwrap_or(0) == self.uses_here(variable);
        let result: Value = self.result(0);
        let graph = self.g.graph;
        let is_assign = |op| matches!(graph.op(op), Op::Assign { state: s } if *s == state.name);
        let assigned = graph.uses(result).iter().any(|u| is_assign(u.op));
        !state.remote && only_reader && assigned
    }
}
