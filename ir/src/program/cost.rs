//! What a step costs on the program's machine: the formulae of [`crate::machine`] applied to compute sets and exchanges. The planner chooses
//! by it, and the timeline accounts with it.

pub mod classes;
pub mod compute_set;
pub mod moves;
pub mod traffic;
