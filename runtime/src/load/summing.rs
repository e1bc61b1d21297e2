//! Partial results that are added up as they are made.
//!
//! Tiles that make partial results of one block need not keep them until they are summed: the first stores its own, the others add theirs
//! to it, in the order of the sum, so the bits are the same. The variable of partial results becomes one of sums, a copy for each of
//! these tiles, of which only the first is there; then the exchange that would bring all partial results brings one, and the sum has one term.

use rustc_hash::FxHashMap;
use superstep_ir::ids::VarId;
use superstep_ir::program::{Codelet, Cut, Exchange, Move, Program, Step, VertexGroup};
use superstep_ir::types::{DType, Shape};

use super::clusters;
use super::uses::Uses;
use crate::layout::Layouts;

/// Partial results, and what an exchange brings of them to where they are summed.
struct Partials {
    made: VarId,
    brought: VarId,
}

/// The program with sums in place of partial results, and for every variable whether it has become such sums; `None` if there are none.
///
/// `alone` says of every variable whether anything else that is alive lies on its bytes.
pub(super) fn in_place(
    program: &Program,
    layouts: &Layouts,
    uses: &Uses,
    alone: &[bool],
) -> Option<(Program, Vec<bool>)> {
    let found = find(program, layouts, uses, alone);
    if found.is_empty() {
        return None;
    }
    let (mut program, mut sums) = (program.clone(), vec![false; program.variables.len()]);
    for Partials { made, brought } in found {
        sums[made.index()] = true;
        program.variables[made.index()].cuts[0] = Cut::none();
        for variable in [made, brought] {
            let shape = &mut program.variables[variable.index()].ty.shape;
            let rest = shape.dims()[1..].iter().copied();
            let one: Vec<usize> = std::iter::once(1).chain(rest).collect();
            *shape = Shape::new(&one);
        }
    }
    Some((program, sums))
}

fn find(program: &Program, layouts: &Layouts, uses: &Uses, alone: &[bool]) -> Vec<Partials> {
    let steps = || program.procedures.iter().flat_map(|p| &p.steps);
    let moves = steps().flat_map(|step| match step {
        Step::Exchange(Exchange { moves, .. }) => &moves[..],
        _ => &[],
    });
    let groups = || {
        steps().flat_map(|step| match step {
            Step::Compute(set) => &set.groups[..],
            _ => &[],
        })
    };
    let made = marked(program, groups().filter_map(|g| made_by(program, g)));
    let summed = marked(program, groups().filter_map(summed_by));
    let fits = |mv: &&Move| {
        let (from, to) = (uses[mv.source], uses[mv.destination]);
        let passes = (from.written, from.sent, from.count()) == (1, 1, 2)
            && (to.received, to.read, to.count()) == (1, 1, 2)
            && !(from.kept || to.kept || to.entry_read);
        let whole = mv.views.is_empty()
            && mv.at.iter().all(|&at| at == 0)
            && program.variable(mv.source).ty == program.variable(mv.destination).ty;
        made[mv.source.index()]
            && summed[mv.destination.index()]
            && passes
            && whole
            && alone[mv.source.index()]
            && layouts.layout(mv.destination).leading_uncut
            && add_up(layouts, program, mv.source)
    };
    let partials = |mv: &Move| Partials {
        made: mv.source,
        brought: mv.destination,
    };
    moves.filter(fits).map(partials).collect()
}

/// By variable, whether it is among `variables`.
fn marked(program: &Program, variables: impl Iterator<Item = VarId>) -> Vec<bool> {
    let mut marked = vec![false; program.variables.len()];
    variables.for_each(|v| marked[v.index()] = true);
    marked
}

/// The products of a group that could as well be added to what is there. (Of halves each is rounded first, so sums of them are not.)
fn made_by(program: &Program, group: &VertexGroup) -> Option<VarId> {
    let Codelet::Matmul {
        accumulate: false, ..
    } = group.codelet
    else {
        return None;
    };
    let product = group.outputs.first().filter(|o| o.entry.is_none())?;
    let dtype = program.variable(product.variable).ty.dtype;
    (dtype == DType::F32).then_some(product.variable)
}

/// What a group sums.
fn summed_by(group: &VertexGroup) -> Option<VarId> {
    match group.codelet {
        Codelet::SumPartials { .. } => group.inputs.first().map(|x| x.variable),
        _ => None,
    }
}

/// True when the blocks of `variable` are partial results of one entry each, made on ascending tiles, and there are enough sums of them to
/// keep threads busy: all tiles that make one are of one cluster.
fn add_up(layouts: &Layouts, program: &Program, variable: VarId) -> bool {
    let (grid, layout) = (layouts.grid(program, variable), layouts.layout(variable));
    let Some(&parts) = layout.shape.dims().first() else {
        return false;
    };
    if layout.first_copies.len() < layout.blocks.len() || parts < 2 {
        return false;
    }
    // By the rest of the block: the entry that comes next.
    let mut next: FxHashMap<(&[u32], &[u32]), u32> = FxHashMap::default();
    let mut points: Vec<usize> = (0..layout.blocks.len()).collect();
    points.sort_unstable_by_key(|&point| grid.tiles[point]);
    for point in points {
        let block = &layout.blocks[point];
        let (start, extent) = (block.start(), block.extent());
        let next = next.entry((&start[1..], &extent[1..])).or_insert(0);
        if extent[0] != 1 || start[0] != *next {
            return false;
        }
        *next += 1;
    }
    let complete = next.values().all(|&next| next as usize == parts);
    complete && next.len() >= clusters::FEWEST
}
