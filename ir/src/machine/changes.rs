//! A machine with some of its numbers changed: what would a wider exchange do, or a larger tile?

use toml::{Table, Value};

use super::Machine;
use super::description::{MachineError, overlay, parse_table, read};

impl Machine {
    /// This machine with other values for some keys of its description, checked. Values are TOML; sizes may end in `KiB`, `MiB` or `GiB`.
    ///
    /// # Errors
    /// A key that no machine has, a value that is none, or a machine that cannot be.
    pub fn with(&self, changes: &[(&str, &str)]) -> Result<Machine, MachineError> {
        let mut table = Table::new();
        for (key, text) in changes {
            table.insert((*key).to_owned(), value(key, text)?);
        }
        let known = Table::try_from(self).expect("a valid machine is a table");
        read(overlay(known, table))
    }
}

fn value(key: &str, text: &str) -> Result<Value, MachineError> {
    if let Some(bytes) = size(text) {
        return Ok(Value::Integer(bytes));
    }
    let parsed = parse_table(&format!("value = {text}"));
    let value = parsed.ok().filter(|table| table.len() == 1);
    value
        .and_then(|mut table| table.remove("value"))
        .ok_or_else(|| MachineError::WrongType {
            key: key.to_owned(),
            message: format!("`{text}` is no value"),
        })
}

/// `624KiB` as bytes.
fn size(text: &str) -> Option<i64> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim().parse::<i64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let mk2 = Machine::mk2();
        let wide = mk2.with(&[("exchange_bytes_per_cycle", "8"), ("tile_memory", "1MiB")]);
        let expected = Machine {
            exchange_bytes_per_cycle: 8.0,
            tile_memory: 1 << 20,
            ..mk2.clone()
        };
        assert_eq!(wide, Ok(expected));
        assert_eq!(mk2.with(&[]), Ok(mk2));
    }

    #[test]
    fn errors_name_the_key() {
        let message = |key, text| {
            let error = Machine::mk2().with(&[(key, text)]).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            message("tile_memry", "5"),
            "unknown key `tile_memry`, perhaps `tile_memory` is meant"
        );
        assert_eq!(message("workers", "six"), "`workers`: `six` is no value");
        assert_eq!(message("workers", ""), "`workers`: `` is no value");
        assert_eq!(message("workers", "0"), "`workers` = 0: must not be 0");
        let injected = message("workers", "6\nipus = 3");
        assert!(injected.starts_with("`workers`: "), "{injected}");
        assert!(message("workers", "1.5").starts_with("`workers`: "));
        assert!(message("tile_memory", "99999999999GiB").starts_with("`tile_memory`"));
    }
}
