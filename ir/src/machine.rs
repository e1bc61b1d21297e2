//! The machine as data: sizes, rates and clock of an IPU and its surroundings, and the cycle formulae over them.

pub mod codelet_cost;

use serde::{Deserialize, Serialize};

/// An IPU-style machine. Numbers are facts of the Mk2 in the presets; a user's TOML file may set others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub name: String,
    /// IPUs available to one replica.
    pub ipus: u32,
    pub tiles_per_ipu: u32,
    /// SRAM of a tile, bytes.
    pub tile_memory: u32,
    pub clock_hz: f64,
    /// Worker contexts of a tile; a worker gets one issue slot in this many.
    pub workers: u32,
    /// Bytes a tile sends, and at the same time receives, per cycle.
    pub exchange_bytes_per_cycle: f64,
    /// Cycles of an internal sync of one IPU.
    pub sync_cycles: u64,
    /// Cycles of a sync over several IPUs.
    pub global_sync_cycles: u64,
    /// Cycles from the end of a sync to the first word of an exchange.
    pub exchange_start_cycles: u64,
    /// Multiply-accumulates per tile and cycle of the matrix unit, f32 in and out.
    pub amp_f32_macs: u32,
    /// The same, f16 in and f16 partials.
    pub amp_f16_macs: u32,
    /// Bytes per second and direction between two neighbouring IPUs.
    pub link_bytes_per_second: f64,
    /// Bytes per second between host and one IPU.
    pub host_bytes_per_second: f64,
    /// Bytes of each tile kept for code, exchange programs, vertex state and stacks.
    pub reserved_bytes: u32,
}

/// A machine for tests of other modules; its rates do not matter there.
#[cfg(test)]
pub(crate) fn tests_machine() -> Machine {
    Machine {
        name: "test".into(),
        ipus: 1,
        tiles_per_ipu: 16,
        tile_memory: 1 << 16,
        clock_hz: 1e9,
        workers: 6,
        exchange_bytes_per_cycle: 4.0,
        sync_cycles: 126,
        global_sync_cycles: 600,
        exchange_start_cycles: 60,
        amp_f32_macs: 16,
        amp_f16_macs: 64,
        link_bytes_per_second: 1e9,
        host_bytes_per_second: 1e9,
        reserved_bytes: 0,
    }
}
