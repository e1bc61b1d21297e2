//! Lower bounds of moving bytes, were they spread evenly over all tiles. The bytes are those of a plan: another plan may move fewer, so only
//! the arithmetic bounds every plan. Beside each bound stands what the plan takes; the gap is what uneven or slower use of the tiles costs.

use super::Machine;
use crate::units::{Bytes, Cycles};

/// Bytes that the vertices of a tile can load in a cycle: two 64-bit loads in an issue (mk2.md §1.1).
pub const LOAD_BYTES_PER_CYCLE: u64 = 16;

/// Bytes that they can store in a cycle: one 64-bit store.
pub const STORE_BYTES_PER_CYCLE: u64 = 8;

/// Cycles until all tiles of an IPU together have loaded `read` and stored `written` bytes, evenly shared; loads and stores at once.
pub fn memory_cycles(machine: &Machine, read: Bytes, written: Bytes) -> Cycles {
    let tiles = u64::from(machine.tiles_per_ipu);
    let loads = read.div_ceil(tiles * LOAD_BYTES_PER_CYCLE);
    loads.max(written.div_ceil(tiles * STORE_BYTES_PER_CYCLE))
}

/// Cycles until all tiles of an IPU together have received `bytes`, evenly shared: at the rate of a tile, or twice that where pairs of
/// tiles may receive the same.
pub fn exchange_cycles(machine: &Machine, bytes: Bytes) -> Cycles {
    let lanes = if machine.exchange_pair_mode { 2.0 } else { 1.0 };
    let rate = f64::from(machine.tiles_per_ipu) * machine.exchange_bytes_per_cycle * lanes;
    (bytes as f64 / rate).ceil() as Cycles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tiles_share_the_work() {
        let mk2 = Machine::mk2();
        assert_eq!(memory_cycles(&mk2, 1472 * 16 * 100, 0), 100);
        assert_eq!(memory_cycles(&mk2, 1472 * 16 * 100, 1472 * 8 * 101), 101);
        assert_eq!(exchange_cycles(&mk2, 1472 * 8 * 100), 100);
        let narrow = Machine {
            exchange_pair_mode: false,
            ..mk2
        };
        assert_eq!(exchange_cycles(&narrow, 1472 * 8 * 100), 200);
        assert_eq!(exchange_cycles(&narrow, 0), 0);
    }
}
