//! How far those numbers of a machine may be off that no document settles: one row each, with the ends of its plausible range (mk2.md §8).
//!
//! They are not fitted to anything; a prediction says how far it moves when each goes to the ends of its range.

use super::Machine;
use super::description::MachineError;

/// The plausible range of a field, as its description writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub field: &'static str,
    pub least: &'static str,
    pub most: &'static str,
    pub why: &'static str,
}

const fn range(
    field: &'static str,
    least: &'static str,
    most: &'static str,
    why: &'static str,
) -> Range {
    Range {
        field,
        least,
        most,
        why,
    }
}

/// One row for every number that is estimated, measured by others on other chips, or documented only as a limit.
pub const RANGES: [Range; 21] = [
    range(
        "clock_hz",
        "1.0e9",
        "1.325e9",
        "tile clock under power limits",
    ),
    range(
        "amp_block_extra_cycles",
        "-43",
        "311",
        "160 to 514 cycles a block of the matrix unit beside its rows, PopLibs' formula has 203",
    ),
    range(
        "amp_load_bytes_per_cycle",
        "8",
        "16",
        "64-bit loads of coefficients, or 128-bit ones where they are interleaved",
    ),
    range(
        "copy_bytes_per_cycle",
        "6.0",
        "8.0",
        "copies inside a tile: measured, ideal",
    ),
    range(
        "copy_start_cycles",
        "60",
        "590",
        "around a copy inside a tile",
    ),
    range(
        "copy_fragment_cycles",
        "1",
        "12",
        "for each fragment of a copy",
    ),
    range(
        "transpose_block_cycles",
        "4",
        "16",
        "4 × 4 elements of f16 that are turned",
    ),
    range(
        "transpose_element_cycles",
        "1",
        "10",
        "any other element that is turned",
    ),
    range(
        "map_factor",
        "0.7",
        "1.5",
        "fused elementwise vertices against the sum of their parts",
    ),
    range(
        "table_hit_factor",
        "0.5",
        "1000.0",
        "ids of the fullest part of a table: half of a novel's, or all of them, in every slice",
    ),
    range(
        "exchange_bytes_per_cycle",
        "3.5",
        "4.0",
        "usable rate of the exchange",
    ),
    range(
        "exchange_pair_mode",
        "false",
        "true",
        "whether pairs of tiles receive at twice the rate",
    ),
    range(
        "exchange_start_cycles",
        "0",
        "190",
        "skew of the paths inside an exchange",
    ),
    range(
        "exchange_fragment_cycles",
        "0",
        "2",
        "control words for each fragment",
    ),
    range(
        "sync_cycles",
        "20",
        "190",
        "sync of one IPU: 80 to 250 with the start of the exchange",
    ),
    range(
        "global_sync_cycles",
        "200",
        "1000",
        "sync over several IPUs or with the host",
    ),
    range(
        "link_bytes_per_second",
        "11.2e9",
        "15.5e9",
        "0.7 to 0.9 of a link's rate",
    ),
    range(
        "rung_links",
        "2",
        "4",
        "links between the two IPUs of a rung",
    ),
    range(
        "streaming_bytes_per_second",
        "5e9",
        "20e9",
        "streaming memory of one IPU",
    ),
    range(
        "streaming_latency_seconds",
        "2e-6",
        "5e-6",
        "first byte from streaming memory",
    ),
    range(
        "host_bytes_per_second",
        "2e9",
        "6.25e9",
        "8 to 25 GB/s of an M2000, shared by four IPUs",
    ),
];

impl Range {
    /// `machine` with this number at either end. `None` where the machine's own number is outside: another chip, or a user's what-if.
    ///
    /// # Errors
    /// The machine cannot be with such a number.
    pub fn ends(&self, machine: &Machine) -> Option<Result<[Machine; 2], MachineError>> {
        let table = toml::Table::try_from(machine).ok()?;
        let number = |text: &str| text.parse::<f64>().ok();
        let own = match table.get(self.field)? {
            toml::Value::Float(x) => Some(*x),
            toml::Value::Integer(n) => Some(*n as f64),
            _ => None,
        };
        if let (Some(own), Some(least), Some(most)) = (own, number(self.least), number(self.most))
            && !(least..=most).contains(&own)
        {
            return None;
        }
        let at = |text| machine.with(&[(self.field, text)]);
        Some(at(self.least).and_then(|low| Ok([low, at(self.most)?])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::facts::{FACTS, Standing};

    #[test]
    fn every_range_holds_the_machines_number_and_makes_machines() {
        let machine = Machine::preset("pod16").unwrap();
        for range in RANGES {
            let ends = range.ends(&machine);
            let [low, high] = ends.unwrap_or_else(|| panic!("{}", range.field)).unwrap();
            assert!(low != high, "{}", range.field);
        }
    }

    #[test]
    fn a_number_outside_its_range_is_not_varied() {
        let bow = Machine::preset("bow").unwrap();
        let clock = RANGES.iter().find(|r| r.field == "clock_hz").unwrap();
        assert_eq!(clock.ends(&bow), None);
    }

    #[test]
    fn all_that_is_estimated_and_takes_time_has_a_range() {
        for fact in FACTS.iter().filter(|f| f.standing == Standing::Estimated) {
            assert!(
                RANGES.iter().any(|r| r.field == fact.field),
                "{}",
                fact.field
            );
        }
    }
}
