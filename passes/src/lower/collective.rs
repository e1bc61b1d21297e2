//! Ops between replicas: their operand is put into a layout that the replicas share, then one collective.

use superstep_ir::ids::VarId;
use superstep_ir::op::{Op, StateKind};
use superstep_ir::program::{Category, Collective, CollectiveKind, Cut, Step};
use superstep_ir::types::Shape;

use super::{LowerError, OpLowering};
use crate::plan::Layout;
use crate::plan::layout::spread_parts;

impl OpLowering<'_, '_, '_> {
    /// The sum lies where the operand does, in its place when nobody else will read it.
    pub(super) fn all_reduce(&mut self) -> Result<(), LowerError> {
        let (variable, views) = self.held(0);
        let variable = if views.is_empty() {
            variable
        } else {
            self.materialise(variable, views)
        };
        let sum = if self.is_last_reader_of_accumulator(variable) || self.dies_here(variable) {
            variable
        } else {
            let layout = self.g.lw.layout_of(variable);
            self.make("", self.result_ty(0), layout, Category::Activation)
        };
        self.collective(CollectiveKind::AllReduce, variable, sum);
        self.bind_reshaped(0, sum);
        Ok(())
    }

    /// One replica's entry of a tensor with an entry for each, or all of them again: entries are spread over the tiles, all alike.
    pub(super) fn scatter_or_gather(&mut self, kind: CollectiveKind) -> Result<(), LowerError> {
        let gathers = matches!(self.g.graph.op(self.id), Op::AllGather { .. });
        let entry: Shape = if gathers {
            self.ty(0).shape
        } else {
            self.result_ty(0).shape
        };
        let parts = spread_parts(&entry, self.g.lw.tiles());
        let layout = self.g.lw.layout_by_parts(self.ipu, 0, &parts);
        let mut cuts = layout.cuts.clone();
        cuts.insert(0, Cut::none());
        let all = Layout {
            grid: layout.grid,
            cuts,
        };
        let (from, to) = if gathers {
            (layout, all)
        } else {
            (all, layout)
        };
        let mut moves = Vec::new();
        let source = self.demand(0, &[], &from, "operand", &mut moves);
        self.exchange("operand", moves);
        let result = self.make("", self.result_ty(0), to, Category::Activation);
        self.collective(kind, source, result);
        self.bind_whole(0, result);
        Ok(())
    }

    fn collective(&mut self, kind: CollectiveKind, source: VarId, destination: VarId) {
        let name = self.name().to_string();
        self.g.steps.push(Step::Collective(Collective {
            name,
            origin: self.origin,
            kind,
            source,
            destination,
        }));
        self.sets += 1;
    }

    /// An accumulator starts anew after the update: what reads it last may use its place.
    fn is_last_reader_of_accumulator(&self, variable: VarId) -> bool {
        let mut states = self.g.lw.program.states.iter();
        let is_accumulator =
            states.any(|s| s.variable == variable && s.kind == StateKind::Accumulator);
        let left = self.g.pending.get(&variable).copied().unwrap_or(0);
        is_accumulator && left == self.uses_here(variable)
    }
}
