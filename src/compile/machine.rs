//! The machine a user names: a preset or a file that describes one.

use std::path::Path;

use superstep_ir::machine::Machine;

use crate::error::Error;

/// Small enough for small models, large enough for GPT-2: the compiler takes as few of its IPUs as the model needs.
const DEFAULT: &str = "pod4";

/// A preset by name, or the description in a TOML file.
pub fn machine_named(name: Option<&str>) -> Result<Machine, Error> {
    let name = name.unwrap_or(DEFAULT);
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
}
