//! The road of a graph as a list of passes, with the reason for its order.

use crate::dead_code::DeadCode;
use crate::pass::Pass;

/// Every pass that needs no further settings, by name; `-` and `_` are the same.
pub fn pass_by_name(name: &str) -> Option<Box<dyn Pass>> {
    let name = name.replace('-', "_");
    all().into_iter().find(|pass| pass.name() == name)
}

/// One of each pass that needs no further settings.
pub fn all() -> Vec<Box<dyn Pass>> {
    vec![Box::new(DeadCode)]
}

/// What every graph goes through between its construction and planning.
pub fn standard() -> Vec<Box<dyn Pass>> {
    vec![Box::new(DeadCode)]
}
