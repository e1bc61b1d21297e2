//! Moves: views apply and are strides, what is written fits, and the moves of one exchange do not depend on their order.

use super::error::{ProgramError, ProgramErrorKind, ProgramPlace};
use super::region::Region;
use super::structure::is_sound_shape;
use crate::ids::ProcId;
use crate::program::exchange::{ExchangeError, views_are_affine};
use crate::program::{Exchange, Move, Program, Step, View};
use crate::types::Shape;

pub(super) fn check(program: &Program) -> Vec<ProgramError> {
    let mut errors = Vec::new();
    for id in (0..program.procedures.len() as u32).map(ProcId) {
        for (index, step) in program.procedure(id).steps.iter().enumerate() {
            if let Step::Exchange(exchange) = step {
                errors.extend(kinds(program, exchange).into_iter().map(|kind| {
                    let place = ProgramPlace::step(program, id, index);
                    ProgramError { place, kind }
                }));
            }
        }
    }
    errors
}

fn kinds(program: &Program, exchange: &Exchange) -> Vec<ProgramErrorKind> {
    let mut kinds = Vec::new();
    let mut written: Vec<(&Move, Region)> = Vec::new();
    for mv in &exchange.moves {
        let region = match written_region(program, mv) {
            Ok(region) => region,
            Err(kind) => {
                kinds.push(*kind);
                continue;
            }
        };
        let overlaps = |(other, r): &(&Move, Region)| {
            other.destination == mv.destination && r.overlaps(&region)
        };
        if written.iter().any(overlaps) {
            let destination = program.variable(mv.destination).name.clone();
            kinds.push(ProgramErrorKind::MovesOverlap { destination });
        }
        written.push((mv, region));
    }
    for (mv, _) in &written {
        let read = read_region(&program.variable(mv.source).ty.shape, &mv.views);
        let depends = |(other, r): &(&Move, Region)| {
            other.destination == mv.source && r.overlaps(&read.region)
        };
        if written.iter().any(depends) {
            let variable = program.variable(mv.source).name.clone();
            kinds.push(ProgramErrorKind::MovesDepend { variable });
        }
    }
    kinds
}

/// The box of the destination that a move fills.
///
/// # Errors
/// The move has no meaning.
pub(super) fn written_region(
    program: &Program,
    mv: &Move,
) -> Result<Region, Box<ProgramErrorKind>> {
    let (source, destination) = (
        program.variable(mv.source),
        program.variable(mv.destination),
    );
    let fail = |error| {
        Box::new(ProgramErrorKind::Move {
            source_variable: source.name.clone(),
            destination: destination.name.clone(),
            error,
        })
    };
    if source.ty.dtype != destination.ty.dtype {
        return Err(fail(ExchangeError::Type));
    }
    let mut shape = source.ty.shape.clone();
    for (index, view) in mv.views.iter().enumerate() {
        // Hostile extents must not reach arithmetic that multiplies them.
        let is_sound = match view {
            View::Reshape(to) => is_sound_shape(to),
            View::Slice { len, .. } => *len > 0,
            View::Transpose(_) => true,
        };
        let applied = is_sound.then(|| view.apply(&shape)).flatten();
        shape = applied.ok_or_else(|| fail(ExchangeError::View { index, shape }))?;
    }
    if !views_are_affine(&source.ty.shape, &mv.views) {
        let index = mv.views.len().saturating_sub(1);
        return Err(fail(ExchangeError::NotAffine { index }));
    }
    let into = &destination.ty.shape;
    let fits = shape.rank() == into.rank()
        && mv.at.len() == into.rank()
        && (0..into.rank()).all(|d| {
            mv.at[d]
                .checked_add(shape[d])
                .is_some_and(|end| end <= into[d])
        });
    if !fits {
        return Err(fail(ExchangeError::Outside {
            written: shape,
            at: mv.at.to_vec(),
            destination: into.clone(),
        }));
    }
    Ok(Region::at(&mv.at, &shape))
}

/// The box of a source that views look at.
pub(super) struct ReadRegion {
    pub(super) region: Region,
    /// False when a slice behind a reshape may look at less than the box.
    pub(super) is_exact: bool,
}

/// What views of a tensor look at; the views are known to apply.
pub(super) fn read_region(shape: &Shape, views: &[View]) -> ReadRegion {
    let mut region = Region::whole(shape);
    // Which dimension of the source an axis is, as long as each axis is one.
    let mut axes: Vec<usize> = (0..shape.rank()).collect();
    for (i, view) in views.iter().enumerate() {
        match view {
            View::Slice { axis, start, len } => {
                let range = &mut region.0[axes[*axis]];
                *range = range.start + start..range.start + start + len;
            }
            View::Transpose(perm) => axes = perm.iter().map(|&p| axes[p]).collect(),
            View::Reshape(_) => {
                let rest = &views[i..];
                let is_exact = !rest.iter().any(|v| matches!(v, View::Slice { .. }));
                return ReadRegion { region, is_exact };
            }
        }
    }
    ReadRegion {
        region,
        is_exact: true,
    }
}
