//! Exchanges: bytes that go from tile to tile, as plain copies between tile memories.
//!
//! The copies of a move depend on its layouts and views, not on addresses or on the IPU, so identical layers share one expansion; a
//! loaded move adds the two addresses. No exchange reads a byte that it writes (checked when it is loaded), so the order of copies does
//! not matter.

mod copies;
mod expansion;
mod overlap;
mod pieces;

use std::sync::Arc;

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use superstep_ir::ids::VarId;
use superstep_ir::program::exchange::expand;
use superstep_ir::program::{Exchange, Move, Program, View};

use crate::error::EngineError;
use crate::layout::Layouts;
use crate::load::homes::Homes;
use crate::tile_memory::{Home, Store};
pub(crate) use copies::prefetch;
use expansion::End;
pub(crate) use expansion::Expansion;
pub(crate) use pieces::{Pieces, Runs, in_row_order};

/// One move: shared copies, own addresses.
pub(crate) struct LoadedMove {
    pub(crate) from: VarId,
    pub(crate) into: VarId,
    /// Of the destination's copies only the first ones are there.
    pub(crate) into_shared: bool,
    pub(crate) expansion: Arc<Expansion>,
    pub(crate) source: Place,
    pub(crate) destination: Place,
}

/// Where the blocks of a variable start on every tile.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) ipu: u32,
    pub(crate) store: Store,
    /// In the slots of arena and shelf every block is at its `origin`.
    pub(crate) home: Home,
}

/// What the copies of a move depend on: layout and tiles at both ends, the views, and whether both ends are on one IPU (then a tile
/// takes its own copy); and which end is shared by its tiles.
type Signature<'p> = ([u32; 4], &'p [View], SmallVec<[usize; 4]>, [bool; 3]);

/// Loads all exchanges of a program, in the order given. Of a variable whose copies are `shared` only the first ones are there.
pub(crate) fn load(
    program: &Program,
    layouts: &Layouts,
    homes: &Homes,
    shared: &[bool],
    exchanges: &[&Exchange],
) -> Result<Vec<Vec<LoadedMove>>, EngineError> {
    let mut numbers: FxHashMap<Signature<'_>, usize> = FxHashMap::default();
    let mut distinct: Vec<(&Exchange, &Move)> = Vec::new();
    let mut expansion_of: Vec<usize> = Vec::new();
    for exchange in exchanges {
        for mv in &exchange.moves {
            let number = *numbers
                .entry(signature(program, layouts, shared, mv))
                .or_insert_with(|| {
                    distinct.push((exchange, mv));
                    distinct.len() - 1
                });
            expansion_of.push(number);
        }
    }
    let expansions: Vec<Arc<Expansion>> = distinct
        .par_iter()
        .map(|(exchange, mv)| load_expansion(program, layouts, shared, exchange, mv).map(Arc::new))
        .collect::<Result<_, _>>()?;
    let mut expansion_of = expansion_of.into_iter();
    let mut loaded = Vec::with_capacity(exchanges.len());
    for exchange in exchanges {
        let moves = exchange
            .moves
            .iter()
            .zip(&mut expansion_of)
            .map(|(mv, number)| LoadedMove {
                from: mv.source,
                into: mv.destination,
                into_shared: shared[mv.destination.index()],
                expansion: expansions[number].clone(),
                source: place(program, homes, mv.source),
                destination: place(program, homes, mv.destination),
            });
        let moves: Vec<LoadedMove> = moves.collect();
        overlap::check(program, layouts, exchange, &moves)?;
        loaded.push(moves);
    }
    Ok(loaded)
}

fn signature<'p>(
    program: &Program,
    layouts: &Layouts,
    shared: &[bool],
    mv: &'p Move,
) -> Signature<'p> {
    let end = |v: VarId| (layouts.layout(v).id, layouts.grid(program, v));
    let ((source, from), (destination, to)) = (end(mv.source), end(mv.destination));
    (
        [source, from.arrangement, destination, to.arrangement],
        &mv.views,
        mv.at.clone(),
        [
            from.ipu == to.ipu,
            shared[mv.source.index()],
            shared[mv.destination.index()],
        ],
    )
}

pub(crate) fn place(program: &Program, homes: &Homes, variable: VarId) -> Place {
    Place {
        ipu: program.grid_of(variable).ipu.0,
        store: Store::Tile,
        home: homes.of(variable),
    }
}

fn load_expansion(
    program: &Program,
    layouts: &Layouts,
    shared: &[bool],
    exchange: &Exchange,
    mv: &Move,
) -> Result<Expansion, EngineError> {
    let name = |v| program.variable(v).name.clone();
    let (source_name, destination_name) = (name(mv.source), name(mv.destination));
    let expanded = expand(program, mv).map_err(|source| EngineError::Move {
        exchange: exchange.name.clone(),
        source_name: source_name.clone(),
        destination_name: destination_name.clone(),
        source: Box::new(source),
    })?;
    let end = |v: VarId| End {
        grid: layouts.grid(program, v),
        layout: layouts.layout(v),
        shared: shared[v.index()],
    };
    Expansion::of(&expanded, end(mv.source), end(mv.destination)).map_err(|tile| {
        EngineError::CopyOutside {
            exchange: exchange.name.clone(),
            source_name,
            destination_name,
            tile,
        }
    })
}
