//! The machine a user names: a preset or a file that describes one.

use std::path::Path;

use superstep_ir::machine::facts::FACTS;
use superstep_ir::machine::{Machine, MachineError};

use crate::error::Error;

/// Small enough for small models, large enough for GPT-2: the compiler takes as few of its IPUs as the model needs.
const DEFAULT: &str = "pod4";

/// A preset by name, or the description in a TOML file; behind either what is to be changed, as in `pod4,tiles_per_ipu=256`.
pub fn machine_named(name: Option<&str>) -> Result<Machine, Error> {
    let text = name.unwrap_or(DEFAULT);
    let whole = Path::new(text).exists();
    let (name, changes) = match text.split_once(',').filter(|_| !whole) {
        Some((name, changes)) => (name.trim(), changes.split(',').collect()),
        None => (text, Vec::new()),
    };
    let changes = changes.into_iter().map(change);
    let changes = changes.collect::<Result<Vec<_>, _>>()?;
    changed(&unchanged(name)?, &changes).map_err(|error| Error::failed(format!("{text}: {error}")))
}

/// A machine with other values for some keys of its description.
///
/// # Errors
/// What is wrong with a key or a value, and the keys there are.
pub fn changed(machine: &Machine, changes: &[(&str, &str)]) -> Result<Machine, String> {
    let outcome = machine.with(changes);
    outcome.map_err(|error| format!("{error}{}", known_keys(&error)))
}

fn change(text: &str) -> Result<(&str, &str), Error> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        Error::failed(format!(
            "`{text}` changes nothing in a machine: it must be KEY=VALUE"
        ))
    })?;
    Ok((key.trim(), value.trim()))
}

fn unchanged(name: &str) -> Result<Machine, Error> {
    if let Some(machine) = Machine::preset(name) {
        return Ok(machine);
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|extension| extension != "toml") && !path.exists() {
        let presets: Vec<&str> = Machine::preset_names().collect();
        let hint = format!(
            "presets are {}; or name a .toml file that describes a machine",
            presets.join(", ")
        );
        return Err(Error::failed(format!("there is no machine `{name}`")).with_hint(hint));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::failed(format!("cannot read {name}: {error}")))?;
    Machine::from_toml(&text).map_err(|error| Error::failed(format!("{name}: {error}")))
}

/// The keys there are, after an error about one that there is not.
fn known_keys(error: &MachineError) -> String {
    let MachineError::UnknownKey { nearest: None, .. } = error else {
        return String::new();
    };
    let keys = FACTS.iter().map(|fact| fact.field);
    let keys: Vec<&str> = keys.filter(|key| *key != "name").collect();
    format!("; keys are {}", keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_files_and_neither() {
        assert_eq!(machine_named(None).unwrap().name, "pod4");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("big.toml");
        std::fs::write(
            &file,
            "base = \"ipu\"\nname = \"big\"\ntile_memory = 1048576\n",
        )
        .unwrap();
        let machine = machine_named(file.to_str()).unwrap();
        assert_eq!(
            (machine.name.as_str(), machine.tile_memory),
            ("big", 1 << 20)
        );
        std::fs::write(&file, "base = \"ipu\"\ntiles_per_ipu = 0\n").unwrap();
        let error = machine_named(file.to_str()).unwrap_err().to_string();
        assert!(
            error.contains("big.toml") && error.contains("tiles_per_ipu"),
            "{error}"
        );
        let error = machine_named(Some("pod5")).unwrap_err();
        assert!(error.hint().unwrap().contains("pod16"));
        assert!(machine_named(folder.path().to_str()).is_err());
    }

    #[test]
    fn changes_stand_behind_the_name() {
        let machine = machine_named(Some("pod4, tiles_per_ipu = 256,tile_memory=1MiB")).unwrap();
        let expected = Machine {
            tiles_per_ipu: 256,
            tile_memory: 1 << 20,
            ..Machine::preset("pod4").unwrap()
        };
        assert_eq!(machine, expected);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a,b.toml");
        std::fs::write(&file, "base = \"bow\"\n").unwrap();
        let [from_file, preset] = [file.to_str(), Some("bow")].map(|m| machine_named(m).unwrap());
        assert_eq!(from_file, preset);
        for (text, part) in [
            ("pod4,qqqqqqqqqqqqqqqq=3", "keys are ipus, tiles_per_ipu"),
            ("pod4,tiles_per_ipus=3", "perhaps `tiles_per_ipu` is meant"),
            ("pod4,tiles_per_ipu=0", "must not be 0"),
            ("pod4,tiles_per_ipu", "it must be KEY=VALUE"),
            ("pod4,", "it must be KEY=VALUE"),
            (",tiles_per_ipu=3", "there is no machine ``"),
        ] {
            let error = machine_named(Some(text)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
