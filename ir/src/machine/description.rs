//! Machines from TOML text: every key known, none missing, every value possible; or an error that names the key.
//!
//! A description either sets every field, or names a preset to start from and sets what differs:
//!
//! ```toml
//! base = "pod4"
//! name = "pod4 with 1 MiB tiles"
//! tile_memory = 1048576
//! ```

use thiserror::Error;
use toml::Table;

use super::Machine;
use super::facts::{FACTS, known};

/// Why a description is not a machine.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum MachineError {
    #[error("line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("unknown key `{key}`{}", nearest.map(|n| format!(", perhaps `{n}` is meant")).unwrap_or_default())]
    UnknownKey {
        key: String,
        nearest: Option<&'static str>,
    },
    #[error("`{key}` is missing (set it, or start from a preset: base = \"mk2\")")]
    MissingKey { key: &'static str },
    #[error("base = \"{name}\" is not a preset; presets are {}", Machine::preset_names().collect::<Vec<_>>().join(", "))]
    UnknownBase { name: String },
    #[error("`{key}`: {message}")]
    WrongType { key: String, message: String },
    #[error("`{key}` = {value}: {why}")]
    Impossible {
        key: &'static str,
        value: String,
        why: &'static str,
    },
}

impl Machine {
    /// Reads a description, checked.
    ///
    /// # Errors
    /// The text is not TOML, has a key too many or too few, or a value no machine can have.
    pub fn from_toml(text: &str) -> Result<Machine, MachineError> {
        let mut table = parse_table(text)?;
        let Some(base) = table.remove("base") else {
            return read(table);
        };
        let Some(name) = base.as_str() else {
            return Err(MachineError::WrongType {
                key: "base".into(),
                message: "the name of a preset is expected, in quotes".into(),
            });
        };
        let Some(machine) = Machine::preset(name) else {
            return Err(MachineError::UnknownBase { name: name.into() });
        };
        let known = Table::try_from(&machine).expect("a valid machine is a table");
        read(overlay(known, table))
    }

    /// The full description, as [`Machine::from_toml`] reads it.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a machine is a flat table of numbers and a name")
    }

    /// Tells whether such a machine can be: nothing is zero that must not be, rates are finite, sizes are sane.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn check(&self) -> Result<(), MachineError> {
        self.check_counts()?;
        self.check_rates()?;
        if self.reserved_bytes >= self.tile_memory {
            return impossible(
                "reserved_bytes",
                self.reserved_bytes,
                "nothing of `tile_memory` is left for variables",
            );
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), MachineError> {
        // The upper bounds are far beyond any machine, and small enough that products of them stay in range.
        let counts: [(&'static str, u64, u64, u64); 19] = [
            ("ipus", self.ipus.into(), 1, 4096),
            ("tiles_per_ipu", self.tiles_per_ipu.into(), 1, 1 << 16),
            ("tile_memory", self.tile_memory.into(), 1 << 10, 1 << 28),
            ("workers", self.workers.into(), 1, 64),
            ("amp_f32_macs", self.amp_f32_macs.into(), 1, 1 << 16),
            ("amp_f16_f32_macs", self.amp_f16_f32_macs.into(), 1, 1 << 16),
            ("amp_f16_macs", self.amp_f16_macs.into(), 1, 1 << 16),
            (
                "amp_load_bytes_per_cycle",
                self.amp_load_bytes_per_cycle.into(),
                1,
                1 << 16,
            ),
            (
                "exchange_start_cycles",
                self.exchange_start_cycles,
                0,
                1 << 30,
            ),
            (
                "exchange_fragment_cycles",
                self.exchange_fragment_cycles,
                0,
                1 << 20,
            ),
            ("copy_start_cycles", self.copy_start_cycles, 0, 1 << 30),
            (
                "copy_fragment_cycles",
                self.copy_fragment_cycles,
                0,
                1 << 20,
            ),
            (
                "transpose_block_cycles",
                self.transpose_block_cycles,
                1,
                1 << 20,
            ),
            (
                "transpose_element_cycles",
                self.transpose_element_cycles,
                1,
                1 << 20,
            ),
            ("sync_cycles", self.sync_cycles, 0, 1 << 30),
            ("global_sync_cycles", self.global_sync_cycles, 0, 1 << 30),
            ("rung_links", self.rung_links.into(), 1, 1 << 10),
            ("ladder_links", self.ladder_links.into(), 1, 1 << 10),
            ("streaming_bytes", self.streaming_bytes, 0, 1 << 50),
        ];
        for (key, value, least, most) in counts {
            if value == 0 && least > 0 {
                return impossible(key, value, "must not be 0");
            }
            if value < least {
                return impossible(key, value, "too small to run anything");
            }
            if value > most {
                return impossible(key, value, "larger than any machine to come");
            }
        }
        Ok(())
    }

    fn check_rates(&self) -> Result<(), MachineError> {
        let rates: [(&'static str, f64, f64); 9] = [
            ("clock_hz", self.clock_hz, 1e12),
            ("map_factor", self.map_factor, 1e3),
            ("table_hit_factor", self.table_hit_factor, 1e6),
            ("copy_bytes_per_cycle", self.copy_bytes_per_cycle, 1e6),
            (
                "exchange_bytes_per_cycle",
                self.exchange_bytes_per_cycle,
                1e6,
            ),
            ("link_bytes_per_second", self.link_bytes_per_second, 1e15),
            ("host_bytes_per_second", self.host_bytes_per_second, 1e15),
            (
                "streaming_bytes_per_second",
                self.streaming_bytes_per_second,
                1e15,
            ),
            ("watts_per_ipu", self.watts_per_ipu, 1e6),
        ];
        let latency = self.streaming_latency_seconds;
        if !(0.0..=1.0).contains(&latency) {
            return impossible(
                "streaming_latency_seconds",
                latency,
                "must be from 0 to 1 second",
            );
        }
        let extra = self.amp_block_extra_cycles;
        if extra.unsigned_abs() > 1 << 20 {
            return impossible("amp_block_extra_cycles", extra, "out of any proportion");
        }
        for (key, value, most) in rates {
            if !value.is_finite() {
                return impossible(key, value, "must be a finite number");
            }
            if value <= 0.0 {
                return impossible(key, value, "must be more than 0");
            }
            // A rate next to nothing would make cycle counts overflow.
            if value < 1e-3 {
                return impossible(key, value, "too slow for any machine");
            }
            if value > most {
                return impossible(key, value, "faster than any machine to come");
            }
        }
        Ok(())
    }
}

fn impossible<T>(
    key: &'static str,
    value: impl ToString,
    why: &'static str,
) -> Result<T, MachineError> {
    Err(MachineError::Impossible {
        key,
        value: value.to_string(),
        why,
    })
}

pub(super) fn parse_table(text: &str) -> Result<Table, MachineError> {
    text.parse::<Table>().map_err(|e| MachineError::Syntax {
        line: e.span().map_or(1, |s| {
            text.bytes().take(s.start).filter(|&b| b == b'\n').count() + 1
        }),
        message: e.message().replace('\n', ", "),
    })
}

/// `base` with the entries of `changes` put over it.
pub(super) fn overlay(mut base: Table, changes: Table) -> Table {
    base.extend(changes);
    base
}

/// A complete table as a checked machine.
pub(super) fn read(table: Table) -> Result<Machine, MachineError> {
    for key in table.keys() {
        if known(key).is_none() {
            return Err(MachineError::UnknownKey {
                key: key.clone(),
                nearest: nearest(key),
            });
        }
    }
    for fact in &FACTS {
        if !table.contains_key(fact.field) {
            return Err(MachineError::MissingKey { key: fact.field });
        }
    }
    let machine = match Machine::try_from(table.clone()) {
        Ok(machine) => machine,
        Err(e) => return Err(wrong_type(&table, e)),
    };
    machine.check()?;
    Ok(machine)
}

impl TryFrom<Table> for Machine {
    type Error = toml::de::Error;

    fn try_from(table: Table) -> Result<Machine, toml::de::Error> {
        table.try_into()
    }
}

/// Finds the value that does not fit: put into a valid table alone, it still does not fit.
fn wrong_type(table: &Table, error: toml::de::Error) -> MachineError {
    let valid = Table::try_from(Machine::mk2()).expect("a valid machine is a table");
    let culprit = table.iter().find_map(|(key, value)| {
        let mut trial = valid.clone();
        trial.insert(key.clone(), value.clone());
        Machine::try_from(trial).err().map(|e| (key.clone(), e))
    });
    let (key, error) = culprit.unwrap_or_else(|| ("machine".into(), error));
    let first_line = error.message().lines().next().unwrap_or_default();
    MachineError::WrongType {
        key,
        message: first_line.to_string(),
    }
}

/// The known key with the fewest edits, if they are few.
fn nearest(key: &str) -> Option<&'static str> {
    FACTS
        .iter()
        .map(|f| (edits(key, f.field), f.field))
        .min()
        .filter(|(d, _)| *d <= 4)
        .map(|(_, f)| f)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_round_trips() {
        for name in Machine::preset_names() {
            let machine = Machine::preset(name).unwrap();
            assert_eq!(Machine::from_toml(&machine.to_toml()), Ok(machine));
        }
    }

    #[test]
    fn a_base_needs_only_what_differs() {
        let machine = Machine::from_toml("base = \"pod4\"\nname = \"big\"\ntile_memory = 1048576");
        let expected = Machine {
            name: "big".into(),
            tile_memory: 1 << 20,
            ..Machine::preset("pod4").unwrap()
        };
        assert_eq!(machine, Ok(expected));
    }

    fn message(text: &str) -> String {
        Machine::from_toml(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_key() {
        assert_eq!(
            message("base = \"mk2\"\ntile_memry = 5"),
            "unknown key `tile_memry`, perhaps `tile_memory` is meant"
        );
        assert_eq!(
            message("base = \"mk2\"\nflux_capacitors = 5"),
            "unknown key `flux_capacitors`"
        );
        assert_eq!(
            message("name = \"x\""),
            "`ipus` is missing (set it, or start from a preset: base = \"mk2\")"
        );
        assert!(
            message("base = \"mk3\"")
                .starts_with("base = \"mk3\" is not a preset; presets are ipu, ")
        );
        assert!(message("base = 7").starts_with("`base`: "));
        assert!(message("name = \"x\"\nipus = = 3").starts_with("line 2: "));
        let wrong = message("base = \"mk2\"\ntiles_per_ipu = \"many\"");
        assert!(wrong.starts_with("`tiles_per_ipu`: "), "{wrong}");
        let negative = message("base = \"mk2\"\ntiles_per_ipu = -1");
        assert!(negative.starts_with("`tiles_per_ipu`: "), "{negative}");
    }

    #[test]
    fn impossible_values_are_refused() {
        for (text, expected) in [
            ("tiles_per_ipu = 0", "`tiles_per_ipu` = 0: must not be 0"),
            (
                "clock_hz = nan",
                "`clock_hz` = NaN: must be a finite number",
            ),
            (
                "clock_hz = inf",
                "`clock_hz` = inf: must be a finite number",
            ),
            (
                "exchange_bytes_per_cycle = -4.0",
                "`exchange_bytes_per_cycle` = -4: must be more than 0",
            ),
            (
                "tile_memory = 100",
                "`tile_memory` = 100: too small to run anything",
            ),
            (
                "tile_memory = 4000000000",
                "`tile_memory` = 4000000000: larger than any machine to come",
            ),
            (
                "tile_memory = 32768\nreserved_bytes = 32768",
                "`reserved_bytes` = 32768: nothing of `tile_memory` is left for variables",
            ),
        ] {
            assert_eq!(message(&format!("base = \"mk2\"\n{text}")), expected);
        }
    }

    #[test]
    fn whole_numbers_do_for_rates() {
        let machine = Machine::from_toml("base = \"mk2\"\nclock_hz = 1000000000").unwrap();
        assert_eq!(machine.clock_hz, 1e9);
    }
}
