//! The machines that come with superstep, and the systems made of them.

use super::description::{MachineError, overlay, parse_table, read};
use super::{Machine, link_cost};

const MK2: &str = include_str!("mk2.toml");
const BOW: &str = include_str!("bow.toml");
const C600: &str = include_str!("c600.toml");

/// A named system: so many IPUs of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    pub name: &'static str,
    /// `mk2`, `bow` or `c600`.
    pub chip: &'static str,
    pub ipus: u32,
    pub meaning: &'static str,
}

const fn system(
    name: &'static str,
    chip: &'static str,
    ipus: u32,
    meaning: &'static str,
) -> System {
    System {
        name,
        chip,
        ipus,
        meaning,
    }
}

/// Every name that [`Machine::preset`] knows.
pub const SYSTEMS: [System; 14] = [
    system("ipu", "mk2", 1, "one Mk2 IPU"),
    system("mk2", "mk2", 1, "one Mk2 IPU"),
    system("pod4", "mk2", 4, "one IPU-M2000: four Mk2 IPUs"),
    system("pod8", "mk2", 8, "two IPU-M2000"),
    system("pod16", "mk2", 16, "four IPU-M2000"),
    system("pod32", "mk2", 32, "eight IPU-M2000"),
    system("pod64", "mk2", 64, "sixteen IPU-M2000"),
    system("bow", "bow", 1, "one Bow IPU"),
    system("bow_pod4", "bow", 4, "one Bow-2000: four Bow IPUs"),
    system("bow_pod8", "bow", 8, "two Bow-2000"),
    system("bow_pod16", "bow", 16, "four Bow-2000"),
    system("bow_pod32", "bow", 32, "eight Bow-2000"),
    system("bow_pod64", "bow", 64, "sixteen Bow-2000"),
    system("c600", "c600", 1, "one C600 PCIe card"),
];

/// Systems of this many IPUs have the ends of their ladder joined (POD64 datasheet).
const TORUS_FROM: u32 = 64;

impl Machine {
    /// One Mk2 IPU.
    pub fn mk2() -> Machine {
        chip("mk2")
    }

    /// A named system ([`SYSTEMS`]); a sync over its IPUs costs what its size asks for.
    pub fn preset(name: &str) -> Option<Machine> {
        let system = SYSTEMS.iter().find(|s| s.name == name)?;
        let mut machine = chip(system.chip);
        machine.name = system.name.into();
        machine.ipus = system.ipus;
        machine.torus = system.ipus >= TORUS_FROM;
        machine.global_sync_cycles = machine
            .global_sync_cycles
            .max(link_cost::sync_model(&machine));
        Some(machine)
    }

    /// Names that [`Machine::preset`] knows, for messages.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        SYSTEMS.iter().map(|s| s.name)
    }
}

fn chip(name: &str) -> Machine {
    let text = match name {
        "bow" => BOW,
        "c600" => C600,
        _ => MK2,
    };
    built_in(text).expect("tested: the built-in descriptions are valid")
}

/// The built-in files build on each other by name of the file, not of a system.
fn built_in(text: &str) -> Result<Machine, MachineError> {
    let mut table = parse_table(text)?;
    if table.remove("base").is_some() {
        table = overlay(parse_table(MK2)?, table);
    }
    read(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_bears_its_name() {
        for system in SYSTEMS {
            let machine = Machine::preset(system.name).unwrap();
            assert_eq!(machine.name, system.name);
            assert_eq!(machine.ipus, system.ipus);
            machine.check().unwrap();
        }
        assert_eq!(Machine::preset("pod5"), None);
    }

    #[test]
    fn the_mk2_has_its_published_peaks() {
        let mk2 = Machine::mk2();
        assert_eq!(mk2.ipu_memory(), 918_528 * 1024);
        let flops =
            |macs: u32| 2.0 * f64::from(macs) * f64::from(mk2.tiles_per_ipu) * mk2.clock_hz / 1e12;
        assert!((flops(mk2.amp_f16_macs) - 249.7).abs() < 0.1);
        assert!((flops(mk2.amp_f16_f32_macs) - 124.8).abs() < 0.1);
        assert!((flops(mk2.amp_f32_macs) - 62.4).abs() < 0.1);
    }

    #[test]
    fn variants_differ_from_mk2_where_they_say_so() {
        let bow = Machine::preset("bow").unwrap();
        assert_eq!(bow.clock_hz, 1.85e9);
        let expected = Machine {
            name: "bow".into(),
            clock_hz: 1.85e9,
            ..Machine::mk2()
        };
        assert_eq!(bow, expected);
        assert_eq!(Machine::preset("c600").unwrap().streaming_bytes, 0);
        assert_eq!(Machine::preset("pod64").unwrap().global_sync_cycles, 802);
    }
}
