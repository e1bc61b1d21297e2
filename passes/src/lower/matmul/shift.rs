//! Products in shifting style (T10's compute-shift): the contraction is cut into pieces, and pieces travel round rings of tiles.
//!
//! At step `s` the tile at place `(r, c)` of its row ring and column ring multiplies piece `(r + c + s) mod f`; a place counts as 0 on a ring
//! that does not exist. A rotating operand holds one piece, which then goes to the place before; one that does not rotate holds all pieces, in
//! the order in which its tile needs them, so that at each step all tiles work on the same entry.

use std::ops::Range;

use smallvec::SmallVec;
use superstep_ir::ids::VarId;
use superstep_ir::program::exchange::views_are_affine;
use superstep_ir::program::{Category, Cut, Move, Operand, View};
use superstep_ir::types::{Shape, TensorType};

use super::super::OpLowering;
use super::super::views::simplify;
use super::Product;
use super::turn::Sides;
use crate::plan::Layout;
use crate::plan::matmul::Ring;

/// One operand of a rotating product, cut into pieces: `[pieces, k parts, (groups,) places, x, y]`. `places` are those of the ring over
/// which the other operand rotates, 1 if it does not.
struct Pieces {
    variable: VarId,
    views: Vec<View>,
    ty: TensorType,
    /// Cuts of all extents but the first.
    cuts: Vec<Cut>,
    /// Dimension of the places.
    place_axis: usize,
    /// The ring over which this operand rotates.
    own_ring: Option<u8>,
}

impl OpLowering<'_, '_, '_> {
    /// Multiplies into `target`, with pieces rotating.
    pub(super) fn rotate(&mut self, p: &Product, sides: &Sides, ring: Ring, target: Operand) {
        let rotates = [ring.a, ring.b];
        let pieces = [0, 1].map(|i| self.pieces(p, sides, ring, i));
        let mut moves = Vec::new();
        let mut held = [0, 1].map(|i| self.first_pieces(p, &pieces[i], i, &mut moves));
        self.exchange("operands", moves);
        let mut spare: [Option<VarId>; 2] = [None; 2];
        for step in 0..ring.length {
            let operands = [0, 1].map(|i| match rotates[i] {
                true => Operand::whole(held[i]),
                false => Operand::entry(held[i], step as u32),
            });
            self.amp(sides, p.grid.id, step > 0, operands, target);
            if step + 1 == ring.length {
                break;
            }
            let mut moves = Vec::new();
            for i in (0..2).filter(|&i| rotates[i]) {
                let next = spare[i].unwrap_or_else(|| self.twin(held[i]));
                self.shift(ring, held[i], next, &mut moves);
                spare[i] = Some(std::mem::replace(&mut held[i], next));
            }
            self.exchange("shift", moves);
        }
    }

    /// Operand `i` as pieces of the contraction.
    fn pieces(&mut self, p: &Product, sides: &Sides, ring: Ring, i: usize) -> Pieces {
        let (variable, views) = self.side(sides, i);
        let (transposed, kept, kept_axes, own_ring, other_ring) = match i {
            0 => {
                let (own, other) = (p.grid.column_ring, p.grid.row_ring);
                (
                    sides.transpose_a,
                    p.extents.m,
                    p.grid.row_axes(),
                    own,
                    other,
                )
            }
            _ => {
                let (own, other) = (p.grid.row_ring, p.grid.column_ring);
                (
                    !sides.transpose_b,
                    p.extents.n,
                    p.grid.column_axes(),
                    own,
                    other,
                )
            }
        };
        let places = other_ring.map_or(1, |_| ring.length);
        let thin = p.extents.k / (p.plan.k * ring.length);
        let (cut_up, shape) = piece_views(
            p.extents.groups,
            [p.plan.k, ring.length, thin],
            [places, kept / places],
            transposed,
        );
        let mut cuts = vec![p.grid.parts()];
        cuts.extend(p.grid.batch());
        cuts.push(other_ring.map_or_else(Cut::none, |axis| p.grid.ring(axis)));
        let kept_cut = p.grid.within_place(kept_axes, other_ring);
        cuts.extend(match transposed {
            true => [Cut::none(), kept_cut],
            false => [kept_cut, Cut::none()],
        });
        let dtype = self.g.lw.program.variable(variable).ty.dtype;
        let views = views.into_iter().chain(cut_up).collect();
        let views = simplify(&self.g.lw.shape_of(variable), views);
        let (variable, views) = self.reachable(variable, views);
        let mut pieces = Pieces {
            variable,
            views,
            place_axis: shape.rank() - 3,
            ty: TensorType::new(dtype, shape),
            cuts,
            own_ring,
        };
        let source = self.g.lw.shape_of(variable);
        if !first_moves(&pieces).all(|part| views_are_affine(&source, &part.views(&pieces))) {
            // A part of what one move can bring may be more than one can: the tokens of one and a half samples.
            pieces.variable = self.materialise(variable, std::mem::take(&mut pieces.views));
        }
        pieces
    }

    /// Operand `i` as it is before the first step. One that rotates has at place `q` of its ring and place `o` of the other the piece
    /// `(q + o) mod f`; one that does not has all pieces, from piece `o` on.
    fn first_pieces(
        &mut self,
        p: &Product,
        pieces: &Pieces,
        i: usize,
        moves: &mut Vec<Move>,
    ) -> VarId {
        let own = pieces
            .own_ring
            .map_or_else(Cut::none, |axis| p.grid.ring(axis));
        let cuts = std::iter::once(own).chain(pieces.cuts.iter().cloned());
        let layout = Layout::new(p.grid.id, cuts);
        let ty = pieces.ty.clone();
        let held = self.make(["a", "b"][i], ty, layout, Category::Temporary);
        moves.extend(first_moves(pieces).map(|part| part.to(pieces, held)));
        held
    }

    /// Another variable like this one, to receive what comes next.
    fn twin(&mut self, of: VarId) -> VarId {
        let variable = self.g.lw.program.variable(of);
        let (name, ty) = (format!("{}.next", variable.name), variable.ty.clone());
        let layout = self.g.lw.layout_of(of);
        self.g.lw.variable(name, ty, layout, Category::Temporary)
    }

    /// Every place of a ring, the first dimension, gets the piece of the place after it.
    fn shift(&mut self, ring: Ring, from: VarId, to: VarId, moves: &mut Vec<Move>) {
        let rank = self.g.lw.shape_of(from).rank();
        let f = ring.length;
        for (start, len, into) in [(1, f - 1, 0), (0, 1, f - 1)] {
            let mut at = SmallVec::from_elem(0, rank);
            at[0] = into;
            let slice = View::Slice {
                axis: 0,
                start,
                len,
            };
            moves.push(Move {
                source: from,
                views: vec![slice],
                destination: to,
                at,
            });
        }
    }
}

/// Views that cut an operand `[(groups,) kept, k]`, or `[(groups,) k, kept]` when transposed, into pieces, and the shape they give. The
/// contraction falls into parts, pieces, and what a piece holds; what is kept into places and what a place holds.
fn piece_views(
    groups: Option<usize>,
    k: [usize; 3],
    kept: [usize; 2],
    transposed: bool,
) -> ([View; 2], Shape) {
    let batch = usize::from(groups.is_some());
    let mut dims: SmallVec<[usize; 6]> = groups.into_iter().collect();
    let (k_at, kept_at) = if transposed {
        dims.extend(k.into_iter().chain(kept));
        (batch, batch + 3)
    } else {
        dims.extend(kept.into_iter().chain(k));
        (batch + 2, batch)
    };
    let mut perm: SmallVec<[usize; 4]> = SmallVec::from_slice(&[k_at + 1, k_at]);
    perm.extend(0..batch);
    perm.push(kept_at);
    perm.extend(match transposed {
        true => [k_at + 2, kept_at + 1],
        false => [kept_at + 1, k_at + 2],
    });
    let ordered: SmallVec<[usize; 6]> = perm.iter().map(|&d| dims[d]).collect();
    let views = [View::Reshape(dims.as_slice().into()), View::Transpose(perm)];
    (views, ordered.as_slice().into())
}

/// Pieces at one place of the other ring, and the place or entry from which on they go.
struct Part {
    range: Range<usize>,
    place: usize,
    at: usize,
}

/// What is brought before the first step.
fn first_moves(pieces: &Pieces) -> impl Iterator<Item = Part> + use<> {
    let f = pieces.ty.shape[0];
    let places = 0..pieces.ty.shape[pieces.place_axis];
    let parts = places.flat_map(move |place| {
        let part = move |(range, at)| Part { range, place, at };
        [(place..f, 0), (0..place, f - place)].map(part)
    });
    parts.filter(|part| !part.range.is_empty())
}

impl Part {
    /// From the operand.
    fn views(&self, pieces: &Pieces) -> Vec<View> {
        let mut views = pieces.views.clone();
        let of_pieces = (0, self.range.start, self.range.len());
        for (axis, start, len) in [of_pieces, (pieces.place_axis, self.place, 1)] {
            if len != pieces.ty.shape[axis] {
                views.push(View::Slice { axis, start, len });
            }
        }
        views
    }

    fn to(&self, pieces: &Pieces, destination: VarId) -> Move {
        let mut at = SmallVec::from_elem(0, pieces.ty.shape.rank());
        at[0] = self.at;
        at[pieces.place_axis] = self.place;
        Move {
            source: pieces.variable,
            views: self.views(pieces),
            destination,
            at,
        }
    }
}
