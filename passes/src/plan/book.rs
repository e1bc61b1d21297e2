//! What planning and placement found out, for later compilations: fronts of plans by problem, and what placement settled on by module.
//!
//! Both follow from the problem, the machine and the compiler alone, so a compilation gives the same program with a full book as with an empty one,
//! only sooner. A book is about one machine; whoever keeps books from run to run sees to it that the same compiler reads them that wrote them.

use std::hash::{DefaultHasher, Hash, Hasher};

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};
use superstep_ir::graph::Module;
use superstep_ir::machine::Machine;
use superstep_ir::text::print_module;

use super::matmul::{Front, MatmulProblem, PlanStyle, search};
use crate::place::PlacementOptions;
use crate::stage::LayersPerIpu;

/// Plans and placements on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanBook {
    machine: Machine,
    #[serde(with = "indexmap::map::serde_seq")]
    fronts: IndexMap<(PlanStyle, MatmulProblem), Front, FxBuildHasher>,
    #[serde(with = "indexmap::map::serde_seq")]
    choices: IndexMap<u64, Choice, FxBuildHasher>,
    /// Loss chunks with which a program fits, by program.
    #[serde(with = "indexmap::map::serde_seq")]
    chunks: IndexMap<u64, usize, FxBuildHasher>,
    /// Something was added since the book was opened.
    #[serde(skip)]
    is_changed: bool,
}

/// What placement settled on for a module: where its search would end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub layers_per_ipu: LayersPerIpu,
    /// By IPU, the grant with which all fits, counted in the order in which grants are tried.
    pub grants: Vec<usize>,
}

impl PlanBook {
    /// An empty book.
    pub fn new(machine: &Machine) -> PlanBook {
        PlanBook {
            machine: machine.clone(),
            fronts: IndexMap::default(),
            choices: IndexMap::default(),
            chunks: IndexMap::default(),
            is_changed: false,
        }
    }

    /// This book if it is about `machine`, else an empty one that is.
    pub(crate) fn about(self, machine: &Machine) -> PlanBook {
        if self.machine == *machine {
            self
        } else {
            PlanBook::new(machine)
        }
    }

    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Whether it says more than when it was opened.
    pub const fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Whether everything in it can be used: no front is empty.
    pub fn is_sound(&self) -> bool {
        self.fronts.values().all(|front| !front.is_empty())
    }

    /// Forgets the half that it has known for longest; false if there is nothing to forget.
    pub fn forget_half(&mut self) -> bool {
        let knew = self.fronts.len() + self.choices.len() + self.chunks.len();
        self.fronts.drain(..self.fronts.len().div_ceil(2));
        self.choices.drain(..self.choices.len().div_ceil(2));
        self.chunks.drain(..self.chunks.len().div_ceil(2));
        knew > 0
    }

    /// Adds what another book about the same machine knows.
    pub fn merge(&mut self, other: PlanBook) {
        debug_assert_eq!(self.machine, other.machine);
        self.fronts.extend(other.fronts);
        self.choices.extend(other.choices);
        self.chunks.extend(other.chunks);
    }

    /// The plans of a problem that none beats in both memory and cycles, searched for if they are not known.
    pub(in crate::plan) fn front(&mut self, style: PlanStyle, problem: &MatmulProblem) -> &Front {
        let entry = self.fronts.entry((style, problem.clone()));
        entry.or_insert_with(|| {
            self.is_changed = true;
            search::search(&self.machine, problem, style)
        })
    }

    /// What placement settled on for a module.
    pub(crate) fn choice(&self, module: Key) -> Option<&Choice> {
        self.choices.get(&module.0)
    }

    pub(crate) fn choose(&mut self, module: Key, choice: Choice) {
        let known = self.choices.insert(module.0, choice.clone());
        self.is_changed |= known.is_none_or(|known| known != choice);
    }

    /// The number of loss chunks with which a program fits.
    pub fn loss_chunks(&self, program: Key) -> Option<usize> {
        self.chunks.get(&program.0).copied()
    }

    pub fn set_loss_chunks(&mut self, program: Key, chunks: usize) {
        let known = self.chunks.insert(program.0, chunks);
        self.is_changed |= known != Some(chunks);
    }
}

/// Stands for what a search was about. What it leads to is only where the next search starts, so nothing is wrong when two meet by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    pub fn of(what: &str) -> Key {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        Key(hasher.finish())
    }

    /// Of a module and how it is to be placed.
    pub(crate) fn of_module(module: &Module, options: &PlacementOptions) -> Key {
        Key::of(&format!("{}\n{options:?}", print_module(module)))
    }
}
