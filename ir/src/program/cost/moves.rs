//! The distinct moves of a program and the traffic of each.
//!
//! What a move makes tiles send depends on the layouts at both ends, the views, and whether both ends are on one IPU; identical
//! layers share it. So every distinct move is expanded once, in parallel.

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::traffic::{MoveTraffic, move_traffic};
use crate::ids::VarId;
use crate::program::{Cut, Move, Program, Step, View};
use crate::types::TensorType;

/// The distinct moves of a program, numbered, with the traffic of each.
pub struct DistinctMoves<'p> {
    program: &'p Program,
    layouts: Vec<u32>,
    numbers: FxHashMap<Signature<'p>, u32>,
    traffic: Vec<MoveTraffic>,
}

/// What the traffic of a move depends on, by the program's numbers of layouts.
#[derive(PartialEq, Eq, Hash)]
struct Signature<'p> {
    source: u32,
    destination: u32,
    same_ipu: bool,
    views: &'p [View],
    at: &'p [usize],
}

/// Extents, element type, cuts and tiles of a variable, without the IPU.
#[derive(PartialEq, Eq, Hash)]
struct Layout {
    ty: TensorType,
    cuts: SmallVec<[Cut; 4]>,
    base: u32,
    tiles: u32,
    /// Extent and stride of each axis.
    axes: SmallVec<[(u32, u32); 4]>,
}

impl Layout {
    fn of(program: &Program, variable: VarId) -> Layout {
        let (variable, grid) = (program.variable(variable), program.grid_of(variable));
        Layout {
            ty: variable.ty.clone(),
            cuts: variable.cuts.clone(),
            base: grid.base,
            tiles: grid.tiles,
            axes: grid.axes.iter().map(|a| (a.extent, a.stride)).collect(),
        }
    }
}

impl<'p> DistinctMoves<'p> {
    /// Expands every distinct move of the program.
    pub fn of(program: &'p Program) -> DistinctMoves<'p> {
        let mut moves = DistinctMoves {
            program,
            layouts: number_layouts(program),
            numbers: FxHashMap::default(),
            traffic: Vec::new(),
        };
        let mut distinct: Vec<&Move> = Vec::new();
        let steps = program.procedures.iter().flat_map(|p| &p.steps);
        for step in steps {
            let Step::Exchange(exchange) = step else {
                continue;
            };
            for mv in &exchange.moves {
                let signature = moves.signature(mv);
                moves.numbers.entry(signature).or_insert_with(|| {
                    distinct.push(mv);
                    distinct.len() as u32 - 1
                });
            }
        }
        let expanded = distinct.into_par_iter().map(|mv| move_traffic(program, mv));
        moves.traffic = expanded.collect();
        moves
    }

    /// The number of a variable's layout: equal for variables that lie on the same tiles in the same way.
    pub fn layout(&self, variable: VarId) -> u32 {
        self.layouts[variable.index()]
    }

    /// Number of expansions.
    pub fn len(&self) -> usize {
        self.traffic.len()
    }

    pub fn is_empty(&self) -> bool {
        self.traffic.is_empty()
    }

    /// The number of a move of the program: equal for moves of the same form between tiles of the same numbers.
    pub fn number(&self, mv: &'p Move) -> Option<u32> {
        self.numbers.get(&self.signature(mv)).copied()
    }

    /// What the move of this number makes tiles do.
    pub fn traffic(&self, number: u32) -> &MoveTraffic {
        &self.traffic[number as usize]
    }

    fn signature(&self, mv: &'p Move) -> Signature<'p> {
        let ipu = |v: VarId| self.program.grid_of(v).ipu;
        Signature {
            source: self.layouts[mv.source.index()],
            destination: self.layouts[mv.destination.index()],
            same_ipu: ipu(mv.source) == ipu(mv.destination),
            views: &mv.views,
            at: &mv.at,
        }
    }
}
/// A number for every variable: equal for variables that lie on the same tiles in the same way.
fn number_layouts(program: &Program) -> Vec<u32> {
    let mut numbers: FxHashMap<Layout, u32> = FxHashMap::default();
    let variables = (0..program.variables.len() as u32).map(VarId);
    variables
        .map(|variable| {
            let next = numbers.len() as u32;
            *numbers.entry(Layout::of(program, variable)).or_insert(next)
        })
        .collect()
}
