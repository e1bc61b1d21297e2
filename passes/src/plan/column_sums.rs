//! Where the rows of a matrix are added up: in blocks of rows and columns, so that a tile adds many rows and leaves few partial sums; or on the
//! tiles that have the rows, however few each.

use superstep_ir::machine::Machine;
use superstep_ir::machine::codelet_cost::reduce::reduce;
use superstep_ir::machine::exchange_cost::exchange_cycles;
use superstep_ir::types::DType;
use superstep_ir::units::{Bytes, Cycles};

/// Most partial sums that are joined in one stage (PopLibs uses two stages from 16 on).
pub const ONE_STAGE: usize = 32;

/// Fewest columns of a block: below, the pieces of rows that a tile receives are too short to be worth their control words.
const LEAST_COLUMNS: usize = 8;

/// Parts of rows and columns, and what sums on them take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnSums {
    pub row_parts: usize,
    pub column_parts: usize,
    pub cycles: Cycles,
}

/// A matrix whose columns are added up.
pub struct Columns<'a> {
    pub rows: usize,
    pub columns: usize,
    /// Bytes of a matrix element that a tile has to be sent, of all matrices that go into the sums.
    pub bytes: usize,
    /// Sums of each column.
    pub sums: usize,
    /// Cycles of a tile for its own block of so many rows and columns.
    pub own: &'a dyn Fn(usize, usize) -> Cycles,
}

impl Columns<'_> {
    /// The best blocks, what brings them to their tiles included.
    pub fn in_blocks(&self, machine: &Machine) -> ColumnSums {
        let tiles = machine.tiles_per_ipu as usize;
        let price = |row_parts: usize| {
            let widest = self.columns.div_ceil(LEAST_COLUMNS);
            let column_parts = (tiles / row_parts).clamp(1, widest.max(1));
            let rows = self.rows.div_ceil(row_parts);
            let columns = self.columns.div_ceil(column_parts);
            let brought = words(machine, rows * columns * self.bytes, rows);
            ColumnSums {
                row_parts,
                column_parts,
                cycles: brought + self.on_blocks(machine, row_parts, rows, columns),
            }
        };
        let most = ONE_STAGE.min(self.rows).min(tiles).max(1);
        let all = (1..=most).map(price);
        all.min_by_key(|sums| sums.cycles)
            .unwrap_or_else(|| price(1))
    }

    /// Cycles where blocks of `rows` rows and `columns` columns lie already, in so many parts of the rows.
    pub fn on_blocks(
        &self,
        machine: &Machine,
        row_parts: usize,
        rows: usize,
        columns: usize,
    ) -> Cycles {
        (self.own)(rows, columns) + self.joined(machine, row_parts)
    }

    /// Cycles to join the partial sums of `parts` tiles.
    fn joined(&self, machine: &Machine, parts: usize) -> Cycles {
        let stage = |parts: usize, sums: usize| {
            let tiles = machine.tiles_per_ipu as usize;
            let own = sums.div_ceil(tiles).max(least_sums(parts).min(sums));
            let f32 = DType::F32;
            words(machine, own * parts * f32.bytes(), parts)
                + reduce(machine, [f32, f32], own as u64, parts as u64).cycles
        };
        let sums = self.sums * self.columns;
        match first_stage(parts) {
            _ if parts <= 1 => 0,
            1 => stage(parts, sums),
            first => stage(parts / first, sums * first) + self.joined(machine, first),
        }
    }
}

/// Cycles of an exchange in which the busiest tile receives so many bytes in so many fragments, and of its sync.
fn words(machine: &Machine, bytes: usize, fragments: usize) -> Cycles {
    machine.sync_cycles
        + exchange_cycles(machine, 0, bytes as Bytes)
        + machine.exchange_fragment_cycles * fragments as Cycles
}

/// How many partial sums are left by the first of two stages that join `parts`; 1 where one stage does.
pub fn first_stage(parts: usize) -> usize {
    if parts <= ONE_STAGE {
        return 1;
    }
    let fits = |&p: &usize| p * p <= parts && parts.is_multiple_of(p);
    (2..=parts.isqrt()).rev().find(fits).unwrap_or(1)
}

/// Fewest sums worth a tile of their own, when so many partial ones go into each.
pub fn least_sums(parts: usize) -> usize {
    if parts >= 8 { 8 } else { 32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(own: &dyn Fn(usize, usize) -> Cycles) -> Columns<'_> {
        Columns {
            rows: 1024,
            columns: 768,
            bytes: 2,
            sums: 1,
            own,
        }
    }

    fn own(rows: usize, columns: usize) -> Cycles {
        let types = [DType::F16, DType::F32];
        reduce(&Machine::mk2(), types, columns as u64, rows as u64).cycles
    }

    #[test]
    fn blocks_beat_a_row_on_every_tile() {
        let mk2 = Machine::mk2();
        let rows = columns(&own);
        let blocks = rows.in_blocks(&mk2);
        assert!(blocks.row_parts * blocks.column_parts <= 1472, "{blocks:?}");
        assert!(blocks.row_parts * blocks.column_parts > 1000, "{blocks:?}");
        let a_row_a_tile = rows.on_blocks(&mk2, 1024, 1, 768);
        assert!(
            3 * blocks.cycles < 2 * a_row_a_tile,
            "{blocks:?} {a_row_a_tile}"
        );
        // Blocks that lie there already are left where they are.
        let (r, c) = (
            1024usize.div_ceil(blocks.row_parts),
            768usize.div_ceil(blocks.column_parts),
        );
        assert!(rows.on_blocks(&mk2, blocks.row_parts, r, c) < blocks.cycles);
    }

    #[test]
    fn blocks_are_never_more_than_tiles_or_rows() {
        for (tiles, rows, wide) in [
            (1, 1, 1),
            (3, 100, 7),
            (16, 2, 5000),
            (1472, 5, 3),
            (7, 0, 4),
        ] {
            let machine = Machine {
                tiles_per_ipu: tiles,
                ..Machine::mk2()
            };
            let matrix = Columns {
                rows,
                columns: wide,
                ..columns(&own)
            };
            let blocks = matrix.in_blocks(&machine);
            assert!(blocks.row_parts * blocks.column_parts <= tiles as usize);
            assert!(blocks.row_parts <= rows.max(1) && blocks.column_parts <= wide);
        }
    }

    #[test]
    fn stages_divide_the_parts() {
        assert_eq!(
            [0, 1, 32, 33, 37, 1024].map(first_stage),
            [1, 1, 1, 3, 1, 32]
        );
    }
}
