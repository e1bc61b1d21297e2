//! Checks the graph after every pass, so that a pass that breaks an invariant is named at once.

use superstep_ir::graph::Graph;

use super::Instrument;
use crate::manager::PassReport;
use crate::pass::{Pass, PassError};

/// Runs a checker, which returns everything that is wrong with a graph as text, after every pass.
pub struct Verify<F>(pub F);

impl<F: FnMut(&Graph) -> Vec<String>> Instrument for Verify<F> {
    fn after(
        &mut self,
        _pass: &dyn Pass,
        graph: &Graph,
        _report: &PassReport,
    ) -> Result<(), PassError> {
        let errors = (self.0)(graph);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(PassError::Broken(errors))
        }
    }
}
