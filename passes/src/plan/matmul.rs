//! The matmul planner: how `[g] × [m,k]·[k,n]` is split over tiles and over time, and how its operands come.
//!
//! Two styles of execution compete (mk2.md §4, §6). *Gather*: every tile brings the blocks it needs, multiplies, and partial sums are
//! reduce-scattered; serial slices of m and k bound the temporary memory. *Shift*: a block stays cut into pieces that rotate over a ring of
//! tiles, one piece resident at a time. Every candidate is costed with the machine's formulae ([`cost`]), the search is exhaustive
//! over distinct block sizes ([`search`]), and what survives is a Pareto front of temporary memory against cycles ([`front`]).

pub mod cost;
pub mod front;
pub mod search;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use superstep_ir::machine::Machine;
use superstep_ir::machine::codelet_cost::matmul::peak_macs;
use superstep_ir::types::DType;
use superstep_ir::units::{Bytes, Cycles};

use super::book::PlanBook;
pub use cost::PlanCost;
pub use front::Front;

/// Which styles of execution may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanStyle {
    /// Whatever costs least.
    #[default]
    Auto,
    Gather,
    /// Rotating operands wherever the shapes allow it.
    Shift,
}

impl PlanStyle {
    pub const ALL: [PlanStyle; 3] = [PlanStyle::Auto, PlanStyle::Gather, PlanStyle::Shift];

    pub const fn name(self) -> &'static str {
        match self {
            PlanStyle::Auto => "auto",
            PlanStyle::Gather => "gather",
            PlanStyle::Shift => "shift",
        }
    }

    /// The style of this name.
    pub fn named(name: &str) -> Option<PlanStyle> {
        PlanStyle::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// Where the second operand is when the product starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operand {
    Elsewhere,
    /// It is state whose resting place this plan decides: each tile holds `1/m` of what it needs.
    RestsHere,
    /// It lies without copies in blocks of this many parts, and the product is made where it lies.
    Stays {
        /// Parts of the contraction, by an outer and an inner axis of the grid (1 if there is none).
        depth_parts: [usize; 2],
        column_parts: usize,
        /// Neighbouring tiles hold blocks of the same depth, and so share rows of the first operand.
        pairs_share_depth: bool,
    },
}

/// Where the result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It stays where it is made.
    Stays,
    /// It is added to a tensor that lies elsewhere.
    Travels,
    /// It is added to a tensor on the tiles of that tensor, which is cut into this many parts.
    Fixed {
        row_parts: usize,
        column_parts: usize,
        /// Which of the two is innermost.
        inner: Inner,
    },
}

/// What is to be multiplied, as far as the cost depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatmulProblem {
    pub groups: usize,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub transpose_a: bool,
    pub transpose_b: bool,
    pub input: DType,
    /// Element type of partial sums; the result is rounded if it is narrower.
    pub partials: DType,
    pub b: Operand,
    pub out: Outcome,
}

impl MatmulProblem {
    /// `[m,k]·[k,n]` with operands that lie elsewhere and a result that stays.
    pub fn plain([m, k, n]: [usize; 3], input: DType, partials: DType) -> Self {
        MatmulProblem {
            groups: 1,
            m,
            k,
            n,
            transpose_a: false,
            transpose_b: false,
            input,
            partials,
            b: Operand::Elsewhere,
            out: Outcome::Stays,
        }
    }

    /// Multiply-adds.
    pub fn macs(&self) -> u64 {
        [self.groups, self.m, self.k, self.n]
            .iter()
            .fold(1u64, |product, &extent| {
                product.saturating_mul(extent as u64)
            })
    }

    /// Cycles of the multiplications alone, on so many tiles at the peak of the matrix unit: no plan on them is faster.
    pub fn arithmetic_cycles(&self, machine: &Machine, tiles: u64) -> Cycles {
        self.macs()
            .div_ceil(tiles * peak_macs(machine, self.input, self.partials))
    }

    /// Whether its parts follow from where its second operand or its result lies: there is one split to look at.
    pub const fn gives_split(&self) -> bool {
        matches!(self.b, Operand::Stays { .. }) || matches!(self.out, Outcome::Fixed { .. })
    }

    /// Input channels of a coefficient block of the matrix unit.
    pub const fn grain_k(&self) -> usize {
        match self.input {
            DType::F16 => 16,
            _ => GRAIN_K,
        }
    }
}

/// Rows of the weight block that the matrix unit holds at a time (f32), and its output channels.
pub const GRAIN_K: usize = 8;
pub const GRAIN_N: usize = 16;

/// The operand block that neighbouring tiles share: the parts of the other dimension are innermost in the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inner {
    /// Columns are innermost: neighbours share rows of `a`.
    N,
    /// Rows are innermost: neighbours share columns of `b`.
    M,
}

/// Operands that rotate: the contraction of a tile is cut into `length` pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ring {
    pub length: usize,
    /// `a` rotates over a ring of column parts, `length` of them.
    pub a: bool,
    /// `b` rotates over a ring of row parts, `length` of them.
    pub b: bool,
}

/// A point of the search space with its predicted cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatmulPlan {
    pub g: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub inner: Inner,
    /// Serial slices of the rows of `a`; divides m.
    pub serial_m: usize,
    /// Serial slices of the contraction.
    pub serial_k: usize,
    /// A transposed operand is turned once where it lies, before it is gathered, instead of by every vertex.
    pub turn_a: bool,
    pub turn_b: bool,
    pub ring: Option<Ring>,
    pub cost: PlanCost,
}

/// Rows and columns of the share of a result that each part of the contraction keeps after partials are summed. The parts divide the
/// rows; when there are more parts than rows, and they come from two axes, the inner one divides the columns.
pub fn share_of_result(
    [rows, columns]: [usize; 2],
    [outer, inner]: [usize; 2],
) -> ([usize; 2], bool) {
    if inner > 1 && rows < outer * inner {
        return ([rows.div_ceil(outer), columns.div_ceil(inner)], true);
    }
    ([rows.div_ceil(outer * inner), columns], false)
}

impl MatmulPlan {
    /// Unsliced, gathered, without a cost yet; parts of g, m, n, k.
    pub fn split([g, m, n, k]: [usize; 4]) -> MatmulPlan {
        MatmulPlan {
            g,
            m,
            n,
            k,
            inner: Inner::N,
            serial_m: 1,
            serial_k: 1,
            turn_a: false,
            turn_b: false,
            ring: None,
            cost: PlanCost::default(),
        }
    }

    pub const fn tiles(&self) -> usize {
        self.g * self.m * self.n * self.k
    }
}

/// A product of a program and how it was planned: what an explanation starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedProduct {
    /// The op's name in the graph.
    pub op: String,
    pub ipu: u32,
    pub problem: MatmulProblem,
    pub plan: MatmulPlan,
    /// Bytes on a tile that it could use for operands and partials.
    pub budget: Bytes,
}

/// Plans found so far, by problem: identical layers are planned once, and what is in the book is not planned again.
pub struct MatmulPlans {
    style: PlanStyle,
    half_partials: bool,
    book: PlanBook,
    /// Fronts of problems that give their split, which are many and found at once.
    given: FxHashMap<MatmulProblem, Front>,
}

impl MatmulPlans {
    /// Plans in a style, for the machine of the book; with `half_partials`, products of f16 operands with f16 results have f16 partial sums.
    pub fn new(style: PlanStyle, half_partials: bool, book: PlanBook) -> MatmulPlans {
        MatmulPlans {
            style,
            half_partials,
            book,
            given: FxHashMap::default(),
        }
    }

    /// The book with all that was found.
    pub fn into_book(self) -> PlanBook {
        self.book
    }

    pub const fn style(&self) -> PlanStyle {
        self.style
    }

    /// Element type of the partial sums of a product.
    pub const fn partials(&self, input: DType, result: DType) -> DType {
        match (input, result) {
            (DType::F16, DType::F16) if self.half_partials => DType::F16,
            _ => DType::F32,
        }
    }

    /// The plans of a problem that none beats in both memory and cycles.
    pub fn front(&mut self, problem: &MatmulProblem) -> &Front {
        if !problem.gives_split() {
            return self.book.front(self.style, problem);
        }
        let found = self.given.entry(problem.clone());
        found.or_insert_with(|| search::search(self.book.machine(), problem, self.style))
    }

    /// The fastest plan with at most `budget` bytes of temporary memory on a tile; if there is none, the one with the least.
    pub fn plan(&mut self, problem: &MatmulProblem, budget: Bytes) -> MatmulPlan {
        self.front(problem).best_within(budget)
    }
}

#[cfg(test)]
mod tests;
