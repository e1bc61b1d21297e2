//! What happens around passes without their knowing: verifying, printing.
//!
//! Timing and statistics are not here: the [manager](crate::manager) measures them for every pass and returns them.

pub mod print_ir;
pub mod verify;

use superstep_ir::graph::Graph;

use crate::manager::PassReport;
use crate::pass::{Pass, PassError};

pub use print_ir::{PrintIr, PrintWhen};
pub use verify::Verify;

/// Called around every pass, in the order the instruments were added.
pub trait Instrument {
    /// Before `pass` sees `graph`.
    fn before(&mut self, _pass: &dyn Pass, _graph: &Graph) {}

    /// After `pass` succeeded; an error stops the road as if the pass had failed.
    fn after(
        &mut self,
        pass: &dyn Pass,
        graph: &Graph,
        report: &PassReport,
    ) -> Result<(), PassError>;
}

impl<'a> Instrument for Box<dyn Instrument + 'a> {
    fn before(&mut self, pass: &dyn Pass, graph: &Graph) {
        (**self).before(pass, graph);
    }

    fn after(
        &mut self,
        pass: &dyn Pass,
        graph: &Graph,
        report: &PassReport,
    ) -> Result<(), PassError> {
        (**self).after(pass, graph, report)
    }
}
