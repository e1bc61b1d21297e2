//! How well each number of a [`Machine`](super::Machine) is known, and from where: one row a field.
//!
//! Sources: PopLibs, PopART and their tests are Graphcore's public libraries; ELK (arXiv 2507.11506) and T10 (arXiv 2408.04808)
//! measured Mk2 machines; ipu-stack is an independent tool chain for the C600.

/// How far to trust a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Stated by the vendor, or in vendor source.
    Documented,
    /// Measured by others on such a machine.
    Measured,
    /// Computed from documented or measured numbers.
    Derived,
    /// Our estimate: a tunable.
    Estimated,
}

impl Standing {
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Documented => "documented",
            Standing::Measured => "measured",
            Standing::Derived => "derived",
            Standing::Estimated => "estimated",
        }
    }
}

/// Where the preset value of a field comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    pub field: &'static str,
    pub standing: Standing,
    pub source: &'static str,
}

const fn fact(field: &'static str, standing: Standing, source: &'static str) -> Fact {
    Fact {
        field,
        standing,
        source,
    }
}

use Standing::{Derived, Documented, Estimated, Measured};

/// One row for every field of a machine.
pub const FACTS: [Fact; 34] = [
    fact("name", Documented, "a label"),
    fact(
        "ipus",
        Documented,
        "M2000: 4; POD16: 4 M2000; POD64: 16 M2000",
    ),
    fact("tiles_per_ipu", Documented, "vendor datasheets; ELK"),
    fact(
        "tile_memory",
        Documented,
        "624 KiB: PopART available-memory tests; ELK",
    ),
    fact(
        "reserved_bytes",
        Derived,
        "nothing: what lies on a tile besides variables is counted from the program (program::footprint), stacks and the 1.1 KiB \
         that cannot be loaded included",
    ),
    fact(
        "clock_hz",
        Derived,
        "POD64 datasheet peak / 64 IPUs / 1472 tiles / 128 FLOP; Bow: vendor; C600: ipu-stack",
    ),
    fact("workers", Documented, "vendor; every PopLibs estimator"),
    fact(
        "amp_f32_macs",
        Documented,
        "16 units, 8 issues a row: PopLibs convolution vertex types; datasheet",
    ),
    fact(
        "amp_f16_f32_macs",
        Documented,
        "8 units, bound by two f32 stores a cycle: PopLibs",
    ),
    fact(
        "amp_f16_macs",
        Documented,
        "16 units, 4 issues a row: PopLibs; datasheet",
    ),
    fact(
        "amp_load_bytes_per_cycle",
        Documented,
        "64-bit coefficient loads, the PopLibs default (128-bit ones need interleaved weights)",
    ),
    fact(
        "amp_block_extra_cycles",
        Estimated,
        "PopLibs' formula has about 203 cycles for a block besides its rows; independent kernels took 160 to 266, T10 fits 514",
    ),
    fact(
        "copy_start_cycles",
        Measured,
        "starting six workers and waiting for them: ipu-stack",
    ),
    fact(
        "copy_fragment_cycles",
        Estimated,
        "finding the next pair of addresses; PopLibs' regression: 0.44 cycles a byte in atoms of 8 bytes, 3.1 in atoms of 4",
    ),
    fact(
        "transpose_block_cycles",
        Estimated,
        "four loads and four stores of 64 bits, two in an issue, words exchanged in registers in between",
    ),
    fact(
        "transpose_element_cycles",
        Measured,
        "independent kernels: 3 to 4 for packed panels, 10 for indexed ones (ipu-stack)",
    ),
    fact(
        "map_factor",
        Estimated,
        "PopLibs publishes no formula for generated codelets: the sum of the costs of its parts",
    ),
    fact(
        "table_hit_factor",
        Estimated,
        "the greatest shares of consecutive entries were measured on one novel through GPT-2's tokenizer",
    ),
    fact(
        "exchange_fragment_cycles",
        Measured,
        "control words ride between the data words: ipu-stack finds 0 to 2 words a fragment",
    ),
    fact(
        "torus",
        Documented,
        "POD64 datasheet: a two-dimensional torus; smaller systems are open ladders",
    ),
    fact(
        "streaming_latency_seconds",
        Estimated,
        "not published; between 2 and 5 µs",
    ),
    fact(
        "copy_bytes_per_cycle",
        Documented,
        "Poplar target, as recorded by ipu-stack; the ideal",
    ),
    fact(
        "exchange_bytes_per_cycle",
        Documented,
        "Poplar target; T10 measured 3.57 for shifts of all tiles at once",
    ),
    fact(
        "exchange_pair_mode",
        Documented,
        "PopLibs exchange estimators: two neighbouring tiles that receive the same data do so at 8 B/cycle",
    ),
    fact(
        "exchange_start_cycles",
        Estimated,
        "mean skew of the path delays, which ipu-stack puts between 0 and 190 cycles",
    ),
    fact(
        "sync_cycles",
        Documented,
        "Poplar target, maximum sync delay of an IPU; T10 fits 118",
    ),
    fact(
        "global_sync_cycles",
        Documented,
        "Poplar target; larger systems by the PopLibs hop model",
    ),
    fact(
        "link_bytes_per_second",
        Derived,
        "128 Gibit/s x 0.85: PopLibs test model of the links",
    ),
    fact("rung_links", Documented, "PopLibs test model of the ladder"),
    fact(
        "ladder_links",
        Documented,
        "PopLibs test model of the ladder",
    ),
    fact(
        "host_bytes_per_second",
        Estimated,
        "20 of the 25 GB/s of an M2000's two 100 GbE ports, shared by its four IPUs",
    ),
    fact(
        "streaming_bytes_per_second",
        Estimated,
        "not published; between 5 and 20 GB/s",
    ),
    fact(
        "streaming_bytes",
        Documented,
        "256 GB of DDR4 in an M2000, a quarter of it",
    ),
    fact(
        "watts_per_ipu",
        Measured,
        "M2000 typically 1.1 kW for four IPUs and gateway (press); C600: card limit",
    ),
];

/// The row of a field.
pub fn known(field: &str) -> Option<&'static Fact> {
    FACTS.iter().find(|f| f.field == field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn every_field_has_one_row_with_a_source() {
        let table = toml::Table::try_from(Machine::mk2()).unwrap();
        for field in table.keys() {
            let rows = FACTS.iter().filter(|f| f.field == field).count();
            assert_eq!(rows, 1, "`{field}` has {rows} rows");
        }
        assert_eq!(FACTS.len(), table.len(), "a row without a field");
        assert!(FACTS.iter().all(|f| !f.source.is_empty()));
    }
}
