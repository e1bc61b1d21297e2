//! Shows the graph after a pass, after every pass, or after every pass that changed it (`--print-ir-after`).

use std::collections::BTreeMap;

use superstep_ir::graph::Graph;

use super::Instrument;
use crate::manager::PassReport;
use crate::pass::{Pass, PassError};

/// After which passes to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrintWhen {
    After(String),
    All,
    /// After passes whose graph prints differently from the last time.
    Changed,
}

impl PrintWhen {
    /// `all`, `changed`, or the name of a pass; `-` and `_` are the same.
    pub fn parse(text: &str) -> PrintWhen {
        match text {
            "all" => PrintWhen::All,
            "changed" => PrintWhen::Changed,
            pass => PrintWhen::After(pass.replace('-', "_")),
        }
    }
}

/// Hands the text of a graph to a sink as `(pass, graph, text)`.
pub struct PrintIr<P, S> {
    when: PrintWhen,
    print: P,
    sink: S,
    last: BTreeMap<String, String>,
}

impl<P: Fn(&Graph) -> String, S: FnMut(&str, &str, &str)> PrintIr<P, S> {
    pub fn new(when: PrintWhen, print: P, sink: S) -> Self {
        PrintIr {
            when,
            print,
            sink,
            last: BTreeMap::new(),
        }
    }
}

impl<P: Fn(&Graph) -> String, S: FnMut(&str, &str, &str)> Instrument for PrintIr<P, S> {
    fn before(&mut self, _pass: &dyn Pass, graph: &Graph) {
        if self.when == PrintWhen::Changed && !self.last.contains_key(&graph.name) {
            self.last.insert(graph.name.clone(), (self.print)(graph));
        }
    }

    fn after(
        &mut self,
        pass: &dyn Pass,
        graph: &Graph,
        _report: &PassReport,
    ) -> Result<(), PassError> {
        let wanted = match &self.when {
            PrintWhen::After(name) => name == pass.name(),
            PrintWhen::All | PrintWhen::Changed => true,
        };
        if !wanted {
            return Ok(());
        }
        let text = (self.print)(graph);
        if self.when == PrintWhen::Changed {
            if self.last.get(&graph.name) == Some(&text) {
                return Ok(());
            }
            self.last.insert(graph.name.clone(), text.clone());
        }
        (self.sink)(pass.name(), &graph.name, &text);
        Ok(())
    }
}
