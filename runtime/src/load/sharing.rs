//! Received blocks that share storage: a block that many tiles receive and nobody writes is kept once, on the first of these tiles, and the
//! vertices and exchanges of the others read it there. No value depends on it; it saves the copies of a multicast.

use superstep_ir::ids::VarId;
use superstep_ir::program::Program;

use super::uses::{Use, Uses};
use crate::layout::Layouts;
use crate::superstep::Span;

/// For every variable, whether its copies share storage.
///
/// They may when all that ever writes them is moves, which give all copies the same elements, and when nothing else that is alive at
/// the same time, in-place results included, lies on the same bytes of a tile.
pub(crate) fn shared(program: &Program, layouts: &Layouts, uses: &Uses) -> Vec<bool> {
    let has_copies = |v: usize| {
        let layout = &layouts.layouts[v];
        layout.first_copies.len() < layout.blocks.len()
    };
    let only_received = |of: Use| of.received > 0 && of.written == 0 && !of.kept;
    let mut shared: Vec<bool> = (uses.iter().enumerate())
        .map(|(v, of)| only_received(of) && has_copies(v))
        .collect();
    leave_out_overlapped(program, layouts, &mut shared);
    shared
}

/// For every variable, whether nothing else that is alive at the same time lies on its bytes of a tile.
pub(super) fn alone(program: &Program, layouts: &Layouts) -> Vec<bool> {
    let mut alone = vec![true; program.variables.len()];
    leave_out_overlapped(program, layouts, &mut alone);
    alone
}

/// Takes back what lies on the bytes of something else that is alive at the same time.
fn leave_out_overlapped(program: &Program, layouts: &Layouts, shared: &mut [bool]) {
    each_overlap(program, layouts, |v, w| {
        shared[v.index()] = false;
        shared[w.index()] = false;
    });
}

/// Calls `each` with all pairs of variables that are alive at the same time and lie on each other's bytes of a tile.
pub(super) fn each_overlap(
    program: &Program,
    layouts: &Layouts,
    mut each: impl FnMut(VarId, VarId),
) {
    // By the first step at which they are alive.
    let mut order: Vec<usize> = (0..program.variables.len()).collect();
    let live = |v: usize| program.variables[v].live.unwrap_or((0, u32::MAX));
    order.sort_by_key(|&v| live(v));
    let id = |v: usize| VarId(v as u32);
    let spans = (0..program.variables.len()).map(|v| super::tile_span(program, layouts, id(v)));
    let spans: Vec<Span> = spans.collect();
    // Those that may still be alive at the first step of the current one.
    let mut open: Vec<usize> = Vec::new();
    for v in order {
        let (first, _) = live(v);
        open.retain(|&w| live(w).1 >= first);
        let overlapped = open.iter().filter(|&&w| spans[v].meets(&spans[w]));
        overlapped.for_each(|&w| each(id(v), id(w)));
        open.push(v);
    }
}
