//! What must hold of a program. Four kinds of rules, a file each:
//!
//! - [`structure`]: ids name things that exist, calls end, grids and layouts are sound (checked first: the rest builds on it);
//! - [`memory`]: addresses are aligned and inside a tile, and what is alive at the same time does not overlap;
//! - [`vertices`]: operands lie on their group's grid and have the extents that the codelet combines, on every tile ([`contract`]);
//! - [`exchanges`]: moves apply, fit, and do not write the same bytes twice;
//! - [`flow`]: whatever is read has been written before, and is alive from its first use to its last, in loops too.
//!
//! Everything is decided on the symbolic program: by cuts, boxes and intervals, not by bytes.

mod contract;
mod error;
mod exchanges;
mod flow;
mod memory;
mod region;
mod structure;
mod vertices;

use crate::program::Program;

pub use error::{ProgramError, ProgramErrorKind, ProgramErrors, ProgramPlace};
pub(crate) use structure::calls;

/// Checks a program whose memory is assigned.
///
/// # Errors
/// Every broken rule. When ids, grids or layouts are broken, only those: nothing else can be asked then.
pub fn verify_program(program: &Program) -> Result<(), ProgramErrors> {
    let mut errors = structure::check(program);
    if errors.is_empty() {
        errors.extend(memory::check(program));
        errors.extend(vertices::check(program));
        errors.extend(exchanges::check(program));
        errors.extend(flow::check(program));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ProgramErrors(errors))
    }
}

#[cfg(test)]
mod tests;
