//! Operands: where they are, and how they come to be in the layout that an op asks for.

use superstep_ir::ids::VarId;
use superstep_ir::program::{Category, Codelet, Move, Operand, View};
use superstep_ir::types::TensorType;

use super::views::{affine_split, simplify, viewed_shape};
use super::{Binding, OpLowering, whole_move};
use crate::plan::Layout;

impl OpLowering<'_, '_, '_> {
    /// Where the operand is on this op's IPU: values of other IPUs are brought over once, splats are filled in where needed.
    pub(super) fn held(&mut self, i: usize) -> (VarId, Vec<View>) {
        let value = self.operand(i);
        match self.g.bindings[&value].clone() {
            Binding::Held { variable, views } => self.import(variable, views),
            Binding::Splat(v) => {
                let ty = self.ty(i);
                let layout = self.g.lw.spread(self.ipu, &ty.shape);
                (self.fill(v, ty, layout), vec![])
            }
        }
    }

    pub(super) fn import(&mut self, variable: VarId, views: Vec<View>) -> (VarId, Vec<View>) {
        if self.g.lw.program.grid_of(variable).ipu == self.ipu {
            return (variable, views);
        }
        let (variable, views) = self.reachable(variable, views);
        if self.g.lw.program.grid_of(variable).ipu == self.ipu {
            return (variable, views);
        }
        let key = (variable, views.clone(), self.ipu);
        if let Some(&known) = self.g.imports.get(&key) {
            return (known, vec![]);
        }
        let source = self.g.lw.program.variable(variable);
        let (name, dtype) = (
            format!("{}.on_{}", source.name, self.ipu.0),
            source.ty.dtype,
        );
        let shape = viewed_shape(&source.ty.shape, &views);
        let layout = self.g.lw.spread(self.ipu, &shape);
        let copy = self.g.lw.variable(
            name,
            TensorType::new(dtype, shape),
            layout,
            Category::Activation,
        );
        self.exchange(
            "import",
            vec![whole_move(&self.g.lw.program, variable, views, copy)],
        );
        // Later ops of this IPU read the copy too: no result may take its place.
        self.g.pending.insert(copy, usize::MAX);
        self.g.imports.insert(key, copy);
        (copy, vec![])
    }

    pub(super) fn fill(&mut self, value: f64, ty: TensorType, layout: Layout) -> VarId {
        let grid = layout.grid;
        let variable = self.make("fill", ty, layout, Category::Temporary);
        let codelet = Codelet::Fill {
            value: superstep_ir::types::Real(value),
        };
        self.compute("fill", codelet, grid, &[], &[Operand::whole(variable)]);
        variable
    }

    /// Operand `i`, seen through `extra` views after its own, in `layout`: the variable itself if it lies so already, else a copy made
    /// by a move that is added to `moves`.
    pub(super) fn demand(
        &mut self,
        i: usize,
        extra: &[View],
        layout: &Layout,
        what: &str,
        moves: &mut Vec<Move>,
    ) -> VarId {
        if let Binding::Splat(v) = self.g.bindings[&self.operand(i)] {
            let ty = self.ty(i);
            let shape = viewed_shape(&ty.shape, extra);
            return self.fill(v, TensorType::new(ty.dtype, shape), layout.clone());
        }
        let (variable, mut views) = self.held(i);
        views.extend_from_slice(extra);
        self.arrange(variable, views, layout, what, moves)
    }

    /// A variable through views, in `layout`.
    pub(super) fn arrange(
        &mut self,
        mut variable: VarId,
        views: Vec<View>,
        layout: &Layout,
        what: &str,
        moves: &mut Vec<Move>,
    ) -> VarId {
        let mut views = simplify(&self.g.lw.shape_of(variable), views);
        if views.is_empty() && self.g.lw.layout_of(variable) == *layout {
            return variable;
        }
        let key = (variable, views.clone(), layout.clone());
        if let Some(&known) = self.local.get(&key) {
            return known;
        }
        (variable, views) = self.reachable(variable, views);
        let source = self.g.lw.program.variable(variable);
        let ty = TensorType::new(source.ty.dtype, viewed_shape(&source.ty.shape, &views));
        let copy = self.make(what, ty, layout.clone(), Category::Temporary);
        moves.push(whole_move(&self.g.lw.program, variable, views, copy));
        self.local.insert(key, copy);
        copy
    }

    /// The same elements, seen through views that one move can follow: copies are made where the views are not affine.
    pub(super) fn reachable(
        &mut self,
        mut variable: VarId,
        mut views: Vec<View>,
    ) -> (VarId, Vec<View>) {
        while let Some((head, rest)) = affine_split(&self.g.lw.shape_of(variable), &views) {
            variable = self.materialise(variable, head);
            views = rest;
        }
        (variable, views)
    }

    /// A plain copy of a variable through views, in the default layout.
    pub(super) fn materialise(&mut self, variable: VarId, views: Vec<View>) -> VarId {
        let source = self.g.lw.program.variable(variable);
        let (shape, dtype) = (viewed_shape(&source.ty.shape, &views), source.ty.dtype);
        let layout = self.g.lw.spread(self.ipu, &shape);
        let copy = self.make(
            "copy",
            TensorType::new(dtype, shape),
            layout,
            Category::Temporary,
        );
        self.exchange(
            "copy",
            vec![whole_move(&self.g.lw.program, variable, views, copy)],
        );
        copy
    }
}
