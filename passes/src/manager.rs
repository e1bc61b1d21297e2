//! Runs a list of passes over a graph or a module, with instruments around each, and says what each did.

use std::time::Instant;

use serde::Serialize;
use superstep_ir::graph::{Graph, Module};

use crate::instrument::Instrument;
use crate::pass::{Pass, PassContext, PassError};

/// What one pass did to one graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassReport {
    pub name: &'static str,
    pub graph: String,
    pub ops_before: usize,
    pub ops_after: usize,
    /// Time of the pass alone, without instruments.
    pub seconds: f64,
    /// Statistics of the pass, such as ("ops removed", 7), in its own order.
    pub counts: Vec<(&'static str, usize)>,
}

/// A list of passes and the instruments around them.
pub struct PassManager<'a> {
    passes: Vec<Box<dyn Pass>>,
    instruments: Vec<Box<dyn Instrument + 'a>>,
    cx: PassContext,
}

impl<'a> PassManager<'a> {
    pub fn new(passes: Vec<Box<dyn Pass>>) -> PassManager<'a> {
        PassManager {
            passes,
            instruments: Vec::new(),
            cx: PassContext::new(),
        }
    }

    /// Adds an instrument; those added first run first.
    pub fn with(mut self, instrument: impl Instrument + 'a) -> Self {
        self.instruments.push(Box::new(instrument));
        self
    }

    /// Stops rewriting after `limit` rewrites, counted over everything this manager runs.
    pub fn with_bisect_limit(mut self, limit: Option<u64>) -> Self {
        self.cx = limit.map_or_else(PassContext::new, PassContext::with_bisect_limit);
        self
    }

    /// What the passes run so far share: the number of rewrites, and the last one a bisection allowed.
    pub fn context(&self) -> &PassContext {
        &self.cx
    }

    /// Runs every pass over `graph` in order.
    ///
    /// # Errors
    /// A pass or an instrument failed; the error names the pass and the graph.
    pub fn run(&mut self, graph: &mut Graph) -> Result<Vec<PassReport>, PassError> {
        let PassManager {
            passes,
            instruments,
            cx,
        } = self;
        passes
            .iter()
            .map(|pass| {
                run_one(pass.as_ref(), graph, instruments, cx).map_err(|source| PassError::In {
                    pass: pass.name(),
                    graph: graph.name.clone(),
                    source: Box::new(source),
                })
            })
            .collect()
    }

    /// Runs every pass over every graph of a module, graph by graph.
    ///
    /// # Errors
    /// As [`PassManager::run`].
    pub fn run_module(&mut self, module: &mut Module) -> Result<Vec<PassReport>, PassError> {
        let mut reports = Vec::new();
        for graph in &mut module.graphs {
            reports.extend(self.run(graph)?);
        }
        Ok(reports)
    }
}

fn run_one(
    pass: &dyn Pass,
    graph: &mut Graph,
    instruments: &mut [Box<dyn Instrument + '_>],
    cx: &mut PassContext,
) -> Result<PassReport, PassError> {
    for instrument in instruments.iter_mut() {
        instrument.before(pass, graph);
    }
    let ops_before = graph.len();
    let start = Instant::now();
    let outcome = pass.run(graph, cx);
    let seconds = start.elapsed().as_secs_f64();
    let counts = cx.take_counts().into_iter().collect();
    outcome?;
    let report = PassReport {
        name: pass.name(),
        graph: graph.name.clone(),
        ops_before,
        ops_after: graph.len(),
        seconds,
        counts,
    };
    for instrument in instruments.iter_mut() {
        instrument.after(pass, graph, &report)?;
    }
    Ok(report)
}
