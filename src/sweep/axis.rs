//! The parameters of a sweep and their combinations.

use superstep_ir::machine::Machine;

use super::POINTS_MOST;
use crate::compile::changed;
use crate::error::Error;

/// A parameter and the values it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    pub key: String,
    pub values: Vec<String>,
}

impl Axis {
    /// Reads `tile_memory=512KiB,1MiB`.
    ///
    /// # Errors
    /// What is wrong with it, in words that follow the option's name.
    pub fn parse(text: &str) -> Result<Axis, String> {
        let Some((key, list)) = text.split_once('=') else {
            return Err("it must be KEY=VALUE,VALUE,… with a key of a machine description".into());
        };
        let key = key.trim().replace('-', "_");
        let values: Vec<String> = list.split(',').map(|v| v.trim().to_owned()).collect();
        if key.is_empty() {
            return Err("the key before = is missing".into());
        }
        if values.iter().any(String::is_empty) {
            return Err(format!("a value of {key} is missing"));
        }
        for (i, value) in values.iter().enumerate() {
            if values[..i].contains(value) {
                return Err(format!("{key} takes the value {value} twice"));
            }
        }
        Ok(Axis { key, values })
    }
}

/// One combination: a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// In the order of the axes.
    pub values: Vec<String>,
    pub machine: Machine,
}

/// Every combination of the axes' values on top of `base`, the last axis fastest, each a machine that can be.
///
/// # Errors
/// A key twice, too many combinations, or a machine that cannot be.
pub fn points(base: &Machine, axes: &[Axis]) -> Result<Vec<Point>, Error> {
    check_keys(axes)?;
    let sizes = axes.iter().map(|axis| axis.values.len());
    let count = sizes.fold(1usize, usize::saturating_mul);
    if count > POINTS_MOST {
        return Err(Error::usage(format!(
            "{count} combinations are too many; a sweep has at most {POINTS_MOST} points"
        )));
    }
    (0..count).map(|i| point(base, axes, i)).collect()
}

fn check_keys(axes: &[Axis]) -> Result<(), Error> {
    for (i, axis) in axes.iter().enumerate() {
        if axis.key == "name" {
            return Err(Error::usage(
                "name is what a machine is called, not a parameter",
            ));
        }
        if axes[..i].iter().any(|other| other.key == axis.key) {
            return Err(Error::usage(format!(
                "--set {} comes twice; give all its values at once: {}=A,B,C",
                axis.key, axis.key
            )));
        }
    }
    Ok(())
}

fn point(base: &Machine, axes: &[Axis], index: usize) -> Result<Point, Error> {
    let mut rest = index;
    let mut values: Vec<&str> = Vec::with_capacity(axes.len());
    for axis in axes.iter().rev() {
        values.push(&axis.values[rest % axis.values.len()]);
        rest /= axis.values.len();
    }
    values.reverse();
    let keys = axes.iter().map(|axis| axis.key.as_str());
    let changes: Vec<(&str, &str)> = keys.zip(values.iter().copied()).collect();
    let machine =
        changed(base, &changes).map_err(|error| Error::usage(format!("--set: {error}")))?;
    Ok(Point {
        values: values.into_iter().map(str::to_owned).collect(),
        machine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(texts: &[&str]) -> Vec<Axis> {
        texts
            .iter()
            .map(|text| Axis::parse(text).unwrap())
            .collect()
    }

    #[test]
    fn every_combination_is_a_point() {
        let axes = axes(&["tile-memory=1MiB,638976", "workers=6,7,8"]);
        let points = points(&Machine::mk2(), &axes).unwrap();
        let all: Vec<(u32, u32)> = points
            .iter()
            .map(|p| (p.machine.tile_memory, p.machine.workers))
            .collect();
        let (large, small) = (1 << 20, 638_976);
        assert_eq!(
            all,
            [
                (large, 6),
                (large, 7),
                (large, 8),
                (small, 6),
                (small, 7),
                (small, 8)
            ]
        );
        assert_eq!(points[4].values, ["638976", "7"]);
    }

    #[test]
    fn wrong_axes_are_refused() {
        for (text, what) in [
            ("tile_memory", "KEY=VALUE"),
            ("=5", "key before ="),
            ("workers=", "missing"),
            ("workers=1,,2", "missing"),
            ("workers=1,1", "twice"),
        ] {
            let error = Axis::parse(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
        let many: Vec<String> = (1..=64).map(|n| n.to_string()).collect();
        let many = many.join(",");
        for (texts, what) in [
            (vec!["workers=1", "workers=2"], "comes twice"),
            (vec!["name=x"], "not a parameter"),
            (vec!["wrkers=1"], "perhaps `workers` is meant"),
            (vec!["flux_capacitors=1"], "keys are ipus, tiles_per_ipu"),
            (vec!["workers=0"], "must not be 0"),
            (
                vec!["tile_memory=32768", "reserved_bytes=32768"],
                "reserved_bytes",
            ),
            (
                vec![&format!("workers={many}"), &format!("ipus={many}")],
                "4096 combinations are too many",
            ),
        ] {
            let error = points(&Machine::mk2(), &axes(&texts)).unwrap_err();
            assert!(error.to_string().contains(what), "{texts:?}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
