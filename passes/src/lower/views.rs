//! View ops cost nothing: they only change how a variable is seen. Joining tensors is a copy.

use superstep_ir::op::Op;
use superstep_ir::program::{Category, Move, View};

use super::{Binding, LowerError, OpLowering, affine_prefix, simplify};

impl OpLowering<'_, '_, '_> {
    pub(super) fn view(&mut self) -> Result<(), LowerError> {
        let view = match self.g.graph.op(self.id).clone() {
            Op::Reshape { shape } => View::Reshape(shape),
            Op::Transpose { perm } => View::Transpose(perm),
            Op::Slice { axis, start, len } => View::Slice { axis, start, len },
            other => return self.unsupported(format!("{} is no view", other.name())),
        };
        let binding = match self.g.bindings[&self.operand(0)].clone() {
            Binding::Splat(v) => Binding::Splat(v),
            Binding::Held {
                variable,
                mut views,
            } => {
                views.push(view);
                let views = simplify(&self.g.lw.shape_of(variable), views);
                match affine_prefix(&self.g.lw.shape_of(variable), &views) {
                    None => Binding::Held { variable, views },
                    Some(affine) => {
                        let (variable, mut head) = self.import(variable, views);
                        let rest = head.split_off(affine);
                        let copy = self.materialise(variable, head);
                        Binding::Held {
                            variable: copy,
                            views: rest,
                        }
                    }
                }
            }
        };
        self.g.bind(self.result(0), binding);
        Ok(())
    }

    pub(super) fn concat(&mut self, axis: usize) -> Result<(), LowerError> {
        let ty = self.result_ty(0);
        let layout = self.g.lw.spread(self.ipu, &ty.shape);
        let out = self.make("", ty.clone(), layout, Category::Activation);
        let mut moves = Vec::new();
        let mut start = 0;
        for i in 0..self.g.graph.node(self.id).operands().len() {
            let (variable, views) = self.held(i);
            let (variable, views) = self.reachable(variable, views);
            let mut at = smallvec::SmallVec::from_elem(0, ty.shape.rank());
            at[axis] = start;
            moves.push(Move {
                source: variable,
                views,
                destination: out,
                at,
            });
            start += self.ty(i).shape[axis];
        }
        self.exchange("concat", moves);
        self.bind_whole(0, out);
        Ok(())
    }
}
