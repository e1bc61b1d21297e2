//! Lookups and scattered sums run where the table lies: every tile sees all ids and serves those that fall into its entries.

use smallvec::smallvec;
use superstep_ir::ids::{OpId, VarId};
use superstep_ir::op::Op;
use superstep_ir::program::{Category, Codelet, Cut, Operand, VertexGroup, View};
use superstep_ir::types::{DType, TensorType};

use super::{Binding, LowerError, OpLowering};
use crate::plan::Layout;

/// Bytes of a row that a tile keeps at least when a table is spread by columns.
const BYTES_PER_RUN: usize = 32;

/// A table that rows are added to, and the op that does it.
#[derive(Clone, Copy)]
struct Table {
    op: OpId,
    base: VarId,
}

impl OpLowering<'_, '_, '_> {
    /// The table, whole: in place, or brought into a layout with fewer entry parts when that costs less than summing a result for every
    /// part (each tile finds only the rows of its own entries).
    fn table(&mut self, lookups: usize) -> VarId {
        let (variable, views) = self.held(0);
        let variable = if views.is_empty() {
            variable
        } else {
            self.materialise(variable, views)
        };
        let (ty, layout) = (
            self.g.lw.program.variable(variable).ty.clone(),
            self.g.lw.layout_of(variable),
        );
        let wide = self.wide_table_layout(&ty);
        let entry_parts = |l: &Layout| l.cuts[0].parts(self.g.lw.grid_ref(l.grid)) as u64;
        let block = |l: &Layout| {
            (l.largest_block(self.g.lw.grid_ref(l.grid), &ty.shape)
                .elements()
                * ty.dtype.bytes()) as u64
        };
        let found_bytes =
            (lookups * ty.shape[1] * ty.dtype.bytes()) as u64 / self.g.lw.tiles() as u64;
        let stay = entry_parts(&layout) * found_bytes;
        let go = entry_parts(&wide) * found_bytes + block(&wide);
        if stay <= go || block(&wide) > self.budget() {
            return variable;
        }
        let mut moves = Vec::new();
        let table = self.arrange(variable, vec![], &wide, "table", &mut moves);
        self.exchange("table", moves);
        table
    }

    /// A table layout that cuts rows into runs of `BYTES_PER_RUN` and the entries over what tiles are left.
    fn wide_table_layout(&mut self, ty: &TensorType) -> Layout {
        let tiles = self.g.lw.tiles();
        let run = BYTES_PER_RUN / ty.dtype.bytes();
        let columns = ty.shape[1].div_ceil(run).min(tiles);
        let entries = (tiles / columns).clamp(1, ty.shape[0]);
        self.g.lw.layout_by_parts(self.ipu, 0, &[entries, columns])
    }

    /// Slices of `n` ids so that `bytes_per_id` each stay within the budget; divides `n`.
    fn id_slices(&self, n: usize, bytes_per_id: usize) -> usize {
        let budget = (self.budget() as usize / 2).max(1);
        let least = (n * bytes_per_id).div_ceil(budget).max(1);
        (least..=n).find(|s| n.is_multiple_of(*s)).unwrap_or(n)
    }

    pub(super) fn gather(&mut self, first: u32) -> Result<(), LowerError> {
        let ty = self.result_ty(0);
        let (n, width) = (ty.shape[0], ty.shape[1]);
        let table = self.table(n);
        let layout = self.g.lw.layout_of(table);
        let grid = self.g.lw.grid_ref(layout.grid).clone();
        let parts = layout.cuts[0].parts(&grid);
        let columns = layout.largest_block(&grid, &self.g.lw.shape_of(table))[1];
        let slices = self.id_slices(n, columns * ty.dtype.bytes());
        let rows = n / slices;
        let mut sums = Vec::with_capacity(slices);
        for slice in 0..slices {
            let mut moves = Vec::new();
            let views = id_views(slice, rows, n);
            let ids = self.demand(
                1,
                &views,
                &Layout::copies(layout.grid, 1),
                "ids",
                &mut moves,
            );
            self.exchange("ids", moves);
            let found_layout = Layout::new(
                layout.grid,
                [
                    self.one_part_a_tile(
                        &layout,
                        &Layout::new(layout.grid, [layout.cuts[0].clone()]),
                        0,
                    )
                    .cuts[0]
                        .clone(),
                    Cut::none(),
                    layout.cuts[1].clone(),
                ],
            );
            let found_ty = TensorType::new(ty.dtype, [parts, rows, width]);
            let found = self.make("found", found_ty, found_layout, Category::Temporary);
            let inputs = [Operand::whole(table), Operand::whole(ids)];
            self.compute(
                "lookup",
                Codelet::Gather { first },
                layout.grid,
                &inputs,
                &[Operand::whole(found)],
            );
            sums.push(self.sum_found(found, &layout, ty.dtype));
        }
        if let [only] = sums[..] {
            self.bind_reshaped(0, only);
            return Ok(());
        }
        let out_layout = self.g.lw.spread(self.ipu, &ty.shape);
        let out = self.make("", ty.clone(), out_layout, Category::Activation);
        let moves = sums
            .into_iter()
            .enumerate()
            .map(|(slice, source)| superstep_ir::program::Move {
                source,
                views: super::views::simplify(
                    &self.g.lw.shape_of(source),
                    vec![View::Reshape([rows, width].into())],
                ),
                destination: out,
                at: smallvec::smallvec![slice * rows, 0],
            })
            .collect();
        self.exchange("join", moves);
        self.bind_whole(0, out);
        Ok(())
    }

    /// The sum of what was found, `[parts, ids, width]`, in every part of the entries. The tiles that have the same columns share out the ids:
    /// what one gets of another is one region, where a row of its own for each tile would come from all of them, run by run.
    fn sum_found(&mut self, found: VarId, table: &Layout, dtype: DType) -> VarId {
        let found_shape = self.g.lw.shape_of(found);
        if found_shape[1] < found_shape[0] {
            // Too few ids to share out.
            return self.sum_leading(found, dtype);
        }
        let by_entries = &table.cuts[0].axes;
        let ids = if by_entries.is_empty() {
            Cut::none()
        } else {
            Cut::by(by_entries, 1)
        };
        let target = Layout::new(table.grid, [ids, table.cuts[1].clone()]);
        self.sum_leading_to(found, dtype, target)
    }

    pub(super) fn scatter_add(&mut self) -> Result<(), LowerError> {
        let mut left = Vec::new();
        for op in self.same_updates() {
            let mut lowering = self.beside_this(op);
            lowering.localise();
            lowering.bring_remote();
            let table = Table {
                op,
                base: lowering.scatter_base(),
            };
            self.sets = lowering.sets;
            left.push(table);
        }
        while let Some(&Table { base, .. }) = left.first() {
            let layout = self.g.lw.layout_of(base);
            let beside = |table: &mut Table| {
                let other = self.g.lw.layout_of(table.base);
                other.grid == layout.grid && other.cuts[1] == layout.cuts[1]
            };
            let tables: Vec<Table> = left.extract_if(.., beside).collect();
            self.scatter_into(&tables, &layout);
        }
        Ok(())
    }

    /// This op, and the others that add the same rows under the same ids to other tables, which lie ready: slices of one vocabulary. Ids and
    /// rows are then brought once for all of them.
    fn same_updates(&self) -> Vec<OpId> {
        let (graph, node) = (self.g.graph, self.g.graph.node(self.id));
        let (staged, rows) = (node.place, &node.operands()[1..]);
        let others = graph.uses(rows[1]).into_iter().map(|u| u.op).filter(|&op| {
            let other = graph.node(op);
            matches!(other.op, Op::ScatterAdd { .. })
                && op != self.id
                && other.operands()[1..] == *rows
                && other.place.stage == staged.stage
                && other.place.ipu == staged.ipu
                && self.g.bindings.contains_key(&other.operands()[0])
                && !self.g.bindings.contains_key(&graph.value(op))
        });
        let mut all: Vec<OpId> = others.chain([self.id]).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Adds the rows into tables that lie on the same tiles, their columns cut alike.
    fn scatter_into(&mut self, tables: &[Table], layout: &Layout) {
        let grid = self.g.lw.grid_ref(layout.grid).clone();
        let ty = self.ty(2);
        let n = ty.shape[0];
        let shape = self.g.lw.shape_of(tables[0].base);
        let columns = layout.largest_block(&grid, &shape)[1];
        let slices = self.id_slices(n, columns * ty.dtype.bytes());
        let rows = n / slices;
        let updates_layout = Layout::new(layout.grid, [Cut::none(), layout.cuts[1].clone()]);
        for slice in 0..slices {
            let views = id_views(slice, rows, n);
            let mut moves = Vec::new();
            let ids = self.demand(
                1,
                &views,
                &Layout::copies(layout.grid, 1),
                "ids",
                &mut moves,
            );
            let updates = self.demand(2, &views, &updates_layout, "updates", &mut moves);
            self.exchange("operands", moves);
            let groups = tables.iter().map(|table| VertexGroup {
                codelet: Codelet::ScatterAdd {
                    first: self.first_entry(table.op),
                },
                grid: layout.grid,
                inputs: smallvec![Operand::whole(ids), Operand::whole(updates)],
                outputs: smallvec![Operand::whole(table.base)],
            });
            let groups = groups.collect();
            self.compute_groups("scatter", groups);
        }
        for table in tables {
            let mut lowering = self.beside_this(table.op);
            lowering.bind_whole(0, table.base);
        }
    }

    fn first_entry(&self, op: OpId) -> u32 {
        match *self.g.graph.op(op) {
            Op::ScatterAdd { first } => first.unwrap_or(0) as u32,
            _ => 0,
        }
    }

    /// The variable that takes the sums: the base's own if it is free, else a copy of it.
    fn scatter_base(&mut self) -> VarId {
        debug_assert!(matches!(self.g.graph.op(self.id), Op::ScatterAdd { .. }));
        if let Binding::Held { variable, views } = &self.g.bindings[&self.operand(0)] {
            let variable = *variable;
            let here = self.g.lw.program.grid_of(variable).ipu == self.ipu;
            if views.is_empty()
                && here
                && (self.dies_here(variable) || self.becomes_state(variable, 0))
            {
                return variable;
            }
        }
        let ty = self.ty(0);
        let layout = self.g.lw.spread(self.ipu, &ty.shape);
        let copy = self.make("base", ty.clone(), layout.clone(), Category::Activation);
        match self.g.bindings[&self.operand(0)].clone() {
            Binding::Splat(v) => {
                let codelet = Codelet::Fill {
                    value: superstep_ir::types::Real(v),
                };
                self.compute("base", codelet, layout.grid, &[], &[Operand::whole(copy)]);
            }
            Binding::Held { .. } => {
                let (variable, views) = self.held(0);
                let mv = super::whole_move(&self.g.lw.program, variable, views, copy);
                self.exchange("base", vec![mv]);
            }
        }
        copy
    }
}

fn id_views(slice: usize, rows: usize, n: usize) -> Vec<View> {
    if rows == n {
        vec![]
    } else {
        vec![View::Slice {
            axis: 0,
            start: slice * rows,
            len: rows,
        }]
    }
}
