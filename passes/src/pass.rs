//! What a pass is: a named rewriting of one graph that keeps its meaning (or says what it changes).
//!
//! A pass knows nothing of timing, printing, verifying or bisection: those are [instruments](crate::instrument) around it. It
//! only reports what it did through its [`PassContext`].

use indexmap::IndexMap;
use superstep_ir::graph::Graph;
use superstep_ir::op::infer::TypeError;
use thiserror::Error;

/// One step of the road from graph to graph.
pub trait Pass {
    /// Used on the command line, in reports, and as the folder of the file tests.
    fn name(&self) -> &'static str;

    /// Rewrites `graph` in place. On an error the graph may be half rewritten and must not be used further.
    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError>;
}

/// Why a pass failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PassError {
    /// A rewrite built an op that does not fit its operands: a bug of the pass.
    #[error("ill-typed op: {0}")]
    IllTyped(#[from] TypeError),
    /// The graph holds something that the pass cannot treat.
    #[error("\"{op}\": {reason}")]
    Unsupported { op: String, reason: String },
    /// The graph that came out of a pass breaks invariants: a bug of the pass.
    #[error("the graph after it is broken: {}", .0.join("; "))]
    Broken(Vec<String>),
    /// An error of a pass, with the pass and the graph it happened in.
    #[error("pass \"{pass}\" on graph \"{graph}\": {source}")]
    In {
        pass: &'static str,
        graph: String,
        source: Box<PassError>,
    },
}

/// What surrounds a pass while it runs: the rewrites it may still do, and what it did.
#[derive(Clone, Debug, Default)]
pub struct PassContext {
    opt_bisect_limit: Option<u64>,
    rewrites: u64,
    last_rewrite: Option<String>,
    counts: IndexMap<&'static str, usize>,
}

impl PassContext {
    /// No bisection: every rewrite is allowed.
    pub fn new() -> PassContext {
        PassContext::default()
    }

    /// Allows the first `limit` rewrites and no more, over all passes together. Halving the limit finds a bad rewrite.
    pub fn with_bisect_limit(limit: u64) -> PassContext {
        PassContext {
            opt_bisect_limit: Some(limit),
            ..PassContext::default()
        }
    }

    /// Asks, once for each rewrite and before doing it, whether it may be done; `at` names the op it happens at.
    pub fn may_rewrite(&mut self, at: &str) -> bool {
        let allowed = self
            .opt_bisect_limit
            .is_none_or(|limit| self.rewrites < limit);
        if allowed {
            self.rewrites += 1;
            if self.opt_bisect_limit == Some(self.rewrites) {
                self.last_rewrite = Some(at.to_owned());
            }
        }
        allowed
    }

    /// Adds to a statistic of the running pass; shown in reports in the order of first use.
    pub fn count(&mut self, what: &'static str, n: usize) {
        if n > 0 {
            *self.counts.entry(what).or_default() += n;
        }
    }

    /// Rewrites done so far, over all passes.
    pub fn rewrites(&self) -> u64 {
        self.rewrites
    }

    /// The op of the last rewrite that the bisection limit allowed, once it is reached.
    pub fn last_rewrite(&self) -> Option<&str> {
        self.last_rewrite.as_deref()
    }

    pub(crate) fn take_counts(&mut self) -> IndexMap<&'static str, usize> {
        std::mem::take(&mut self.counts)
    }
}
