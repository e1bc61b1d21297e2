//! Names of the entities of a program in its text; ids that name nothing print as `?`, so that a broken program can be looked at.

use rustc_hash::FxHashMap;

use super::names::Identifiers;
use crate::ids::{GridId, ProcId, VarId};
use crate::program::{Program, Step};

/// Unique identifiers of variables, grids and procedures, and the number of every step.
pub(super) struct ProgramNames {
    variables: Vec<String>,
    grids: Vec<String>,
    procedures: Vec<String>,
    /// By address of the step: its number at its first visit.
    steps: FxHashMap<*const Step, u32>,
}

impl ProgramNames {
    pub(super) fn of(program: &Program) -> ProgramNames {
        ProgramNames {
            variables: unique(program.variables.iter().map(|v| v.name.as_str()), "v"),
            grids: unique(program.grids.iter().map(|g| g.name.as_str()), "g"),
            procedures: unique(program.procedures.iter().map(|p| p.name.as_str()), "p"),
            steps: first_visits(program),
        }
    }

    pub(super) fn variable(&self, id: VarId) -> &str {
        name(&self.variables, id.index())
    }

    pub(super) fn grid(&self, id: GridId) -> &str {
        name(&self.grids, id.index())
    }

    pub(super) fn procedure(&self, id: ProcId) -> &str {
        name(&self.procedures, id.index())
    }

    /// The number of a step at its first visit, in the numbering that live ranges use; `None` for steps that nothing calls.
    pub(super) fn step(&self, step: &Step) -> Option<u32> {
        self.steps.get(&std::ptr::from_ref(step)).copied()
    }
}

fn name(names: &[String], index: usize) -> &str {
    names.get(index).map_or("?", String::as_str)
}

fn unique<'n>(names: impl Iterator<Item = &'n str>, unnamed: &str) -> Vec<String> {
    let mut identifiers = Identifiers::default();
    names
        .map(|n| identifiers.claim(if n.is_empty() { unnamed } else { n }, &[""])[0].clone())
        .collect()
}

fn first_visits(program: &Program) -> FxHashMap<*const Step, u32> {
    let mut steps = FxHashMap::default();
    if crate::verify::program::calls(program).is_err() {
        return steps;
    }
    let mut number = 0;
    program.walk(&mut |step, _| {
        steps.entry(std::ptr::from_ref(step)).or_insert(number);
        number += 1;
    });
    steps
}
