//! The lengths of the exchanges of a program, from the traffic of its distinct moves.

use superstep_ir::program::cost::moves::DistinctMoves;
use superstep_ir::program::cost::traffic::{ExchangeTime, TileSums};
use superstep_ir::program::{Exchange, Program};

pub(super) struct Traffic<'p> {
    program: &'p Program,
    moves: &'p DistinctMoves<'p>,
}

impl<'p> Traffic<'p> {
    pub(super) fn of(program: &'p Program, moves: &'p DistinctMoves<'p>) -> Traffic<'p> {
        Traffic { program, moves }
    }

    /// Accounts for one exchange of the program.
    pub(super) fn exchange(&self, exchange: &'p Exchange, sums: &mut TileSums) -> ExchangeTime {
        let moves = exchange.moves.iter().filter_map(|mv| {
            let traffic = self.moves.traffic(self.moves.number(mv)?);
            let from = self.program.grid_of(mv.source).ipu;
            let to = self.program.grid_of(mv.destination).ipu;
            Some((traffic, from, to))
        });
        sums.exchange(&self.program.machine, moves)
    }
}
