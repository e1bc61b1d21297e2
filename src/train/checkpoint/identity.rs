//! What makes a run the run it is: whoever continues it must agree, or be told what differs.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// Settings by name, in words that the user knows from the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Without these the saved state has no place to go.
    pub shape: IndexMap<String, String>,
    /// With other ones the run goes on, but not as it would have.
    pub settings: IndexMap<String, String>,
}

impl RunIdentity {
    pub fn shape(&mut self, name: &str, value: impl ToString) {
        self.shape.insert(name.into(), value.to_string());
    }

    pub fn setting(&mut self, name: &str, value: impl ToString) {
        self.settings.insert(name.into(), value.to_string());
    }

    /// Differences to the run that made a checkpoint: those that forbid to continue it, and the others.
    pub fn differences(&self, saved: &RunIdentity) -> (Vec<String>, Vec<String>) {
        (
            differences(&self.shape, &saved.shape),
            differences(&self.settings, &saved.settings),
        )
    }
}

fn differences(now: &IndexMap<String, String>, saved: &IndexMap<String, String>) -> Vec<String> {
    let absent = |value: Option<&String>| value.map_or("absent".to_owned(), Clone::clone);
    let names = now
        .keys()
        .chain(saved.keys().filter(|name| !now.contains_key(*name)));
    names
        .filter(|name| now.get(*name) != saved.get(*name))
        .map(|name| {
            let (here, there) = (absent(now.get(name)), absent(saved.get(name)));
            format!("{name} is {here} here and {there} in the checkpoint")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_both_sides() {
        let mut saved = RunIdentity::default();
        saved.shape("n_layer", 2);
        saved.setting("seed", 42);
        saved.setting("learning_rate", 0.003);
        let mut now = saved.clone();
        assert_eq!(now.differences(&saved), (vec![], vec![]));
        now.shape("n_layer", 3);
        now.setting("learning_rate", 0.001);
        now.settings.swap_remove("seed");
        let (shape, settings) = now.differences(&saved);
        assert_eq!(shape, ["n_layer is 3 here and 2 in the checkpoint"]);
        assert_eq!(
            settings,
            [
                "learning_rate is 0.001 here and 0.003 in the checkpoint",
                "seed is absent here and 42 in the checkpoint"
            ]
        );
    }
}
