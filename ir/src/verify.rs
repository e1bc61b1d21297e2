//! Verifiers: what must hold of a graph and of a program, whoever made it. They collect every error, not just the first.

pub mod graph;
pub mod program;

pub use graph::{GraphError, GraphErrorKind, GraphErrors, verify_graph, verify_module};
pub use program::{ProgramError, ProgramErrorKind, ProgramErrors, verify_program};

use std::fmt;

/// Most errors that a list of errors prints.
const PRINTED_MAX: usize = 25;

/// One error a line, and how many more there are.
fn list(f: &mut fmt::Formatter<'_>, errors: &[impl fmt::Display]) -> fmt::Result {
    for (i, error) in errors.iter().take(PRINTED_MAX).enumerate() {
        if i > 0 {
            writeln!(f)?;
        }
        write!(f, "{error}")?;
    }
    match errors.len().saturating_sub(PRINTED_MAX) {
        0 => Ok(()),
        more => write!(f, "\nand {more} more"),
    }
}
