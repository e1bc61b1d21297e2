//! What the steps of a program do with every variable.

use std::ops::Index;

use superstep_ir::ids::VarId;
use superstep_ir::program::{Program, Step};

/// How often the steps of a program name a variable, each as it is written, whatever repeats it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Use {
    /// Moves that bring it.
    pub(crate) received: u32,
    /// Moves that take it elsewhere.
    pub(crate) sent: u32,
    /// Vertex groups that read it.
    pub(crate) read: u32,
    /// One of them reads an entry of it.
    pub(crate) entry_read: bool,
    /// Vertex groups that write it.
    pub(crate) written: u32,
    /// Something else knows it: the host, a later run, a collective, a random number generator.
    pub(crate) kept: bool,
}

impl Use {
    /// All moves and vertex groups that name it.
    pub(crate) fn count(self) -> u32 {
        self.received + self.sent + self.read + self.written
    }
}

/// By variable.
pub(crate) struct Uses(Vec<Use>);

impl Uses {
    pub(crate) fn of(program: &Program) -> Uses {
        let mut uses = vec![Use::default(); program.variables.len()];
        let states = program.states.iter().map(|s| s.variable);
        let streams = program.streams.iter().map(|s| s.variable);
        states
            .chain(streams)
            .for_each(|v| uses[v.index()].kept = true);
        for step in program.procedures.iter().flat_map(|p| &p.steps) {
            match step {
                Step::Exchange(exchange) => {
                    for mv in &exchange.moves {
                        uses[mv.source.index()].sent += 1;
                        uses[mv.destination.index()].received += 1;
                    }
                }
                Step::Compute(set) => {
                    for group in &set.groups {
                        for input in &group.inputs {
                            let of = &mut uses[input.variable.index()];
                            of.read += 1;
                            of.entry_read |= input.entry.is_some();
                        }
                        for output in &group.outputs {
                            uses[output.variable.index()].written += 1;
                        }
                    }
                }
                Step::Collective(c) => {
                    uses[c.source.index()].kept = true;
                    uses[c.destination.index()].kept = true;
                }
                Step::SetSeed { seed, .. } => uses[seed.index()].kept = true,
                Step::Host { .. }
                | Step::Remote { .. }
                | Step::Sync(_)
                | Step::Repeat { .. }
                | Step::Call(_)
                | Step::Parallel(_) => {}
            }
        }
        Uses(uses)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Use> {
        self.0.iter().copied()
    }
}

impl Index<VarId> for Uses {
    type Output = Use;

    fn index(&self, variable: VarId) -> &Use {
        &self.0[variable.index()]
    }
}
