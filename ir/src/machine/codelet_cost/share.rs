//! How the elements or rows of a block are shared out over the workers of a tile.

use super::super::Machine;
use super::{Spent, Work};
use crate::types::DType;

/// Elements of a 64-bit vector: 4 of 16 bits, 2 of 32.
pub(super) const fn vector(dtype: DType) -> u64 {
    8 / dtype.bytes() as u64
}

/// Vectors of a worker.
pub(super) struct Vectors {
    /// Of the worker with the most.
    pub(super) busiest: u64,
    /// On average, were none of them partly empty.
    pub(super) even: f64,
}

impl Vectors {
    /// Elements shared out evenly, then taken `at_once`: `⌈⌈n/W⌉/V⌉`.
    pub(super) fn of(machine: &Machine, at_once: u64, elements: u64) -> Vectors {
        let workers = u64::from(machine.workers);
        Vectors {
            busiest: elements.div_ceil(workers).div_ceil(at_once),
            even: elements as f64 / (workers * at_once) as f64,
        }
    }

    /// Whole vectors shared out: `⌈⌈n/V⌉/W⌉`.
    pub(super) fn of_vectors(machine: &Machine, at_once: u64, elements: u64) -> Vectors {
        let workers = u64::from(machine.workers);
        Vectors {
            busiest: elements.div_ceil(at_once).div_ceil(workers),
            even: elements as f64 / (workers * at_once) as f64,
        }
    }
}

/// What the busiest worker gets of a block of rows: whole rows, or pieces of rows where that leaves less to the busiest worker.
///
/// Nine rows for six workers are two each; in halves they are three each, which is one and a half. A number for each row is then
/// joined from those of its pieces, in the order of the columns. Values do not show it: the runtime's sums over a row are f64 and rounded once,
/// so they depend on no number of this model.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub dtype: DType,
    /// Rows, for what is done once a row.
    pub rows: u64,
    /// Pieces that each row is cut into.
    pub pieces: u64,
    /// Pieces of all rows.
    runs: u64,
    /// 64-bit vectors of each piece.
    pub vectors: u64,
    /// Rows of a worker on average.
    even_rows: f64,
    /// Vectors of a whole row, the last one counted as full as it is.
    even_vectors: f64,
}

impl Share {
    /// Whole rows.
    pub fn of(machine: &Machine, dtype: DType, rows: u64, columns: u64) -> Share {
        Share::in_pieces(machine, dtype, rows, columns, 1)
    }

    /// Every row in so many pieces of whole vectors.
    pub fn in_pieces(
        machine: &Machine,
        dtype: DType,
        rows: u64,
        columns: u64,
        pieces: u64,
    ) -> Share {
        let workers = u64::from(machine.workers);
        Share {
            dtype,
            rows: rows.div_ceil(workers),
            pieces,
            runs: (rows * pieces).div_ceil(workers),
            vectors: columns.div_ceil(vector(dtype)).div_ceil(pieces),
            even_rows: rows as f64 / workers as f64,
            even_vectors: columns as f64 / vector(dtype) as f64,
        }
    }

    /// What `cost` takes with the number of pieces that makes it least.
    pub fn least(
        machine: &Machine,
        dtype: DType,
        rows: u64,
        columns: u64,
        cost: impl Fn(&Share) -> Spent,
    ) -> Spent {
        let vectors = columns.div_ceil(vector(dtype));
        let most = u64::from(machine.workers).min(vectors).max(1);
        let spent = |pieces| cost(&Share::in_pieces(machine, dtype, rows, columns, pieces));
        (2..=most).map(spent).fold(spent(1), Spent::less)
    }

    /// Loops over all pieces, `piece` cycles for each and `each` for a vector of it.
    fn loops(&self, fixed: u64, piece: u64, each: u64) -> Work {
        Work {
            fixed,
            busiest: self.runs * (piece + self.vectors * each),
            even: self.even_rows * (piece as f64 + self.even_vectors * each as f64),
        }
    }

    /// Worker cycles of something done once a row.
    pub(super) fn per_row(&self, fixed: u64, row: u64) -> Work {
        Work::units(fixed, self.rows, self.even_rows, row)
    }

    /// Worker cycles to reduce each row to one number: `17 + R·(12 + ⌈m/V⌉)` (PopLibs, continuous reduction; mk2.md §3.8), and where rows are
    /// in pieces the same once more for the numbers of each row's pieces, with the supervisor's start of it.
    pub(super) fn reduce_rows(&self) -> Work {
        let pieces = self.loops(17, 12, 1);
        if self.pieces == 1 {
            return pieces;
        }
        pieces + self.per_row(17 + 2, 12 + self.pieces)
    }

    /// Worker cycles of one elementwise op between the rows and a vector or a number for each row: `15 + R·(7 + 2·⌈C/V⌉)`
    /// (PopLibs, broadcast vector; mk2.md §3.6).
    pub(super) fn broadcast(&self) -> Work {
        self.loops(15, 7, 2)
    }

    /// Worker cycles of an elementwise op between two blocks, or in place: 3 a vector and 7 a row.
    pub(super) fn binary(&self) -> Work {
        self.loops(15, 7, 3)
    }

    /// Worker cycles of an elementwise function of `each` cycles a vector.
    pub(super) fn function(&self, fixed: u64, each: u64) -> Work {
        self.loops(fixed, 0, each)
    }
}
