//! View ops cost nothing: they only change how a variable is seen. Joining tensors is a copy.

use superstep_ir::op::Op;
use superstep_ir::program::{Category, Move, View};
use superstep_ir::types::Shape;

use super::{Binding, LowerError, OpLowering};

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
                let (variable, views) = self.reachable(variable, views);
                Binding::Held { variable, views }
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

/// Shape after all views; they are known to apply.
pub(super) fn viewed_shape(shape: &Shape, views: &[View]) -> Shape {
    views.iter().fold(shape.clone(), |s, v| {
        v.apply(&s).expect("views of a checked graph apply")
    })
}

/// Drops reshapes that another follows and views that change nothing.
pub(super) fn simplify(shape: &Shape, views: Vec<View>) -> Vec<View> {
    let mut out: Vec<View> = Vec::new();
    let mut shapes = vec![shape.clone()];
    for view in views {
        if matches!(
            (&view, out.last()),
            (View::Reshape(_), Some(View::Reshape(_)))
        ) {
            out.pop();
            shapes.pop();
        }
        let before = shapes.last().expect("starts with one");
        let after = view.apply(before).expect("views of a checked graph apply");
        let nothing = match &view {
            View::Reshape(to) => to == before,
            View::Transpose(perm) => perm.iter().enumerate().all(|(i, &p)| i == p),
            View::Slice { axis, len, .. } => *len == before[*axis],
        };
        if !nothing {
            out.push(view);
            shapes.push(after);
        }
    }
    out
}

/// `None` when one move can do all the views; else those that a first move does, and those that are left. The copy of a tensor that is to be
/// reshaped is one row: that falls into any shape.
pub(super) fn affine_split(shape: &Shape, views: &[View]) -> Option<(Vec<View>, Vec<View>)> {
    use superstep_ir::program::exchange::views_are_affine;
    if views_are_affine(shape, views) {
        return None;
    }
    let mut affine = (0..views.len()).rev();
    let affine = affine.find(|&n| views_are_affine(shape, &views[..n]))?;
    let (mut head, rest) = (views[..affine].to_vec(), views[affine..].to_vec());
    if let Some(View::Reshape(to)) = rest.first() {
        head.push(View::Reshape([to.elements()].into()));
    }
    Some((head, rest))
}
