//! The machine as data: sizes, rates and clock of an IPU and its surroundings, and the cycle formulae over them.
//!
//! Numbers live in TOML: `mk2.toml`, `bow.toml` and `c600.toml` are built in ([`Machine::preset`]), others come from the user
//! ([`Machine::from_toml`]). [`facts`] says for every field how well it is known and from where,
//! [`ranges`] how far those may be off that are not documented. What else was chosen rather than looked up is in [`calibration`].

pub mod bounds;
pub mod calibration;
mod changes;
pub mod code_size;
pub mod codelet_cost;
pub mod description;
pub mod exchange_cost;
pub mod facts;
pub mod link_cost;
pub mod presets;
pub mod ranges;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;
pub use description::MachineError;

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
    /// Bytes of each tile kept free besides variables and what lies there with them (code, exchange programs, vertex state, stacks).
    pub reserved_bytes: u32,
    pub clock_hz: f64,
    /// Worker contexts of a tile; a worker gets one issue slot in this many.
    pub workers: u32,
    /// Multiply-accumulates per tile and cycle of the matrix unit, f32 in and out.
    pub amp_f32_macs: u32,
    /// The same, f16 in and f32 partials.
    pub amp_f16_f32_macs: u32,
    /// The same, f16 in and f16 partials.
    pub amp_f16_macs: u32,
    /// Bytes of coefficients the matrix unit loads per cycle.
    pub amp_load_bytes_per_cycle: u32,
    /// Cycles of the matrix unit for every block of coefficients beyond PopLibs' estimate; fewer if negative.
    pub amp_block_extra_cycles: i64,
    /// Bytes per cycle of a copy inside a tile.
    pub copy_bytes_per_cycle: f64,
    /// Cycles around a copy inside a tile, and for every fragment of it, beside those of its bytes.
    pub copy_start_cycles: u64,
    pub copy_fragment_cycles: u64,
    /// Worker cycles to turn 4 × 4 elements of f16, and one element of anything else.
    pub transpose_block_cycles: u64,
    pub transpose_element_cycles: u64,
    /// Factor on the summed instruction costs of a fused elementwise vertex.
    pub map_factor: f64,
    /// Factor on the share of ids that the fullest part of a table is asked for; 1 is typical text.
    pub table_hit_factor: f64,
    /// Bytes a tile sends, and at the same time receives, per cycle.
    pub exchange_bytes_per_cycle: f64,
    /// Whether the two tiles of a pair that receive the same bytes do so at twice the rate.
    pub exchange_pair_mode: bool,
    /// Cycles from the end of a sync to the first word of an exchange.
    pub exchange_start_cycles: u64,
    /// Cycles that a tile of an exchange loses for every fragment it sends or receives.
    pub exchange_fragment_cycles: u64,
    /// Cycles of an internal sync of one IPU.
    pub sync_cycles: u64,
    /// Cycles of a sync over several IPUs, or with the host.
    pub global_sync_cycles: u64,
    /// Bytes per second and direction of one IPU-Link.
    pub link_bytes_per_second: f64,
    /// Links between the two IPUs of a rung.
    pub rung_links: u32,
    /// Links from an IPU to its neighbour in the next rung.
    pub ladder_links: u32,
    /// The last rung is linked to the first.
    pub torus: bool,
    /// Bytes per second between host and one IPU.
    pub host_bytes_per_second: f64,
    /// Bytes per second and direction between one IPU and its streaming memory.
    pub streaming_bytes_per_second: f64,
    /// Seconds from asking streaming memory for something to its first byte.
    pub streaming_latency_seconds: f64,
    /// Streaming memory of one IPU, bytes; 0 for none.
    pub streaming_bytes: u64,
    /// Electrical power of one IPU with its share of the box, watts.
    pub watts_per_ipu: f64,
}

impl Machine {
    /// Bytes of a tile for variables, code and all else.
    pub const fn usable_tile_memory(&self) -> u32 {
        self.tile_memory.saturating_sub(self.reserved_bytes)
    }

    /// SRAM of one IPU.
    pub const fn ipu_memory(&self) -> Bytes {
        self.tiles_per_ipu as Bytes * self.tile_memory as Bytes
    }

    /// Seconds that `cycles` take.
    pub fn seconds(&self, cycles: u64) -> f64 {
        cycles as f64 / self.clock_hz
    }

    /// Cycles until `bytes` have passed at `bytes_per_second`, rounded up.
    pub(crate) fn cycles_at(&self, bytes: Bytes, bytes_per_second: f64) -> u64 {
        (bytes as f64 / bytes_per_second * self.clock_hz).ceil() as u64
    }
}

/// A machine for tests of other modules; its rates do not matter there.
#[cfg(test)]
pub(crate) fn tests_machine() -> Machine {
    Machine {
        name: "test".into(),
        tiles_per_ipu: 16,
        tile_memory: 1 << 16,
        reserved_bytes: 0,
        clock_hz: 1e9,
        link_bytes_per_second: 1e9,
        host_bytes_per_second: 1e9,
        ..Machine::mk2()
    }
}
