//! The traffic of every move of a program.
//!
//! What a move makes tiles send depends on the layouts at both ends, the views, and whether both ends are on one IPU; identical
//! layers share it. So every distinct move is expanded once, in parallel.

use std::hash::{Hash, Hasher};

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use superstep_ir::ids::VarId;
use superstep_ir::program::cost::traffic::{ExchangeTime, MoveTraffic, TileSums, move_traffic};
use superstep_ir::program::{Cut, Exchange, Move, Program, Step, Variable, View};

/// The traffic of every distinct move of a program.
pub(super) struct Traffic<'p> {
    program: &'p Program,
    layouts: Vec<u32>,
    known: FxHashMap<Signature<'p>, MoveTraffic>,
}

/// What the traffic of a move depends on.
#[derive(PartialEq, Eq, Hash)]
struct Signature<'p> {
    source: u32,
    destination: u32,
    same_ipu: bool,
    views: &'p [View],
    at: &'p [usize],
}

impl<'p> Traffic<'p> {
    /// Expands every distinct move of the program.
    pub(super) fn of(program: &'p Program) -> Traffic<'p> {
        let mut traffic = Traffic {
            program,
            layouts: number_layouts(program),
            known: FxHashMap::default(),
        };
        let steps = program.procedures.iter().flat_map(|p| &p.steps);
        let moves = steps.flat_map(|step| match step {
            Step::Exchange(exchange) => exchange.moves.as_slice(),
            _ => &[],
        });
        let mut distinct: FxHashMap<Signature<'p>, &Move> = FxHashMap::default();
        for mv in moves {
            distinct.entry(traffic.signature(mv)).or_insert(mv);
        }
        let distinct: Vec<(Signature<'p>, &Move)> = distinct.into_iter().collect();
        traffic.known = distinct
            .into_par_iter()
            .map(|(signature, mv)| (signature, move_traffic(program, mv)))
            .collect();
        traffic
    }

    /// Number of expansions.
    #[cfg(test)]
    pub(super) fn distinct(&self) -> usize {
        self.known.len()
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

    /// Accounts for one exchange of the program.
    pub(super) fn exchange(&self, exchange: &'p Exchange, sums: &mut TileSums) -> ExchangeTime {
        let moves = exchange.moves.iter().filter_map(|mv| {
            let traffic = self.known.get(&self.signature(mv))?;
            let from = self.program.grid_of(mv.source).ipu;
            let to = self.program.grid_of(mv.destination).ipu;
            Some((traffic, from, to))
        });
        sums.exchange(&self.program.machine, moves)
    }
}

/// A number for every variable: equal for variables that lie on the same tiles in the same way.
fn number_layouts(program: &Program) -> Vec<u32> {
    let mut numbers: FxHashMap<LayoutKey<'_>, u32> = FxHashMap::default();
    let mut number = |variable| {
        let next = numbers.len() as u32;
        *numbers
            .entry(LayoutKey { program, variable })
            .or_insert(next)
    };
    program.variables.iter().map(&mut number).collect()
}

/// Extents, element type, cuts and tiles of a variable, without the IPU.
#[derive(Clone, Copy)]
struct LayoutKey<'p> {
    program: &'p Program,
    variable: &'p Variable,
}

impl LayoutKey<'_> {
    fn cuts(&self) -> &[Cut] {
        &self.variable.cuts
    }

    fn tiles(&self) -> (u32, u32, impl Iterator<Item = (u32, u32)> + '_) {
        let grid = self.program.grid(self.variable.grid);
        let axes = grid.axes.iter().map(|a| (a.extent, a.stride));
        (grid.base, grid.tiles, axes)
    }
}

impl PartialEq for LayoutKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        let ((base, tiles, axes), (base2, tiles2, axes2)) = (self.tiles(), other.tiles());
        self.variable.ty == other.variable.ty
            && self.cuts() == other.cuts()
            && (base, tiles) == (base2, tiles2)
            && axes.eq(axes2)
    }
}

impl Eq for LayoutKey<'_> {}

impl Hash for LayoutKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.variable.ty.hash(state);
        self.cuts().hash(state);
        let (base, tiles, axes) = self.tiles();
        (base, tiles).hash(state);
        axes.for_each(|axis| axis.hash(state));
    }
}
