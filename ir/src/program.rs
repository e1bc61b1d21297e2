//! The bulk-synchronous tile program: what the compiler makes and the runtime executes.
//!
//! Everything is symbolic: a [`Grid`] is a tile function, a [`Variable`] says which grid axes cut which of its dimensions,
//! a [`VertexGroup`] is one vertex on every tile of a grid, a [`Move`] is one tensor put into another layout. What a single tile
//! holds, computes or receives is derived from these when needed ([`exchange::expand`], [`Variable::block`]).

pub mod codelet;
pub mod cost;
pub mod exchange;
pub mod footprint;
pub mod grid;
pub mod variable;

use fixedbitset::FixedBitSet;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::graph::Phase;
use crate::ids::{GridId, IpuId, OriginId, ProcId, VarId};
use crate::machine::Machine;
use crate::op::StateKind;
use crate::types::Shape;
pub use codelet::Codelet;
pub use grid::{Axis, Grid};
pub use variable::{Block, Category, Cut, Variable};

/// A compiled program: what every replica runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub machine: Machine,
    /// IPUs of a replica; grids name `0..ipus`.
    pub ipus: u32,
    /// Replicas that run the program in step, each on IPUs and data of its own.
    pub replicas: u32,
    pub grids: Vec<Grid>,
    pub variables: Vec<Variable>,
    /// By IPU, the address from which variables lie on its tiles. Below is what [`footprint`] counts: code, vertex state, exchange programs, stacks.
    pub variables_from: Vec<u32>,
    pub states: Vec<State>,
    pub streams: Vec<Stream>,
    pub procedures: Vec<Procedure>,
    /// The procedure that one host call runs (a whole optimiser step, or one inference).
    pub entry: ProcId,
    /// Procedures that the host may also run by themselves, in any order and as often as it likes: each needs state and input only. An
    /// inference with a cache has `prefill` and `decode`; the entry runs both once.
    pub parts: Vec<ProcId>,
    /// How vertices round what they store as f16.
    pub rounding: Rounding,
    /// The graph ops that steps serve, for reports.
    pub origins: Vec<Origin>,
}

/// How a vertex rounds a float that it stores as f16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Rounding {
    /// To the nearest half, to even where two are as near.
    #[default]
    Nearest,
    /// Up or down at random, so that the mean is the float: with the random numbers of the tile, which [`Step::SetSeed`] sets. A half stays
    /// what it is. Beyond the largest finite half, and for constants that a program fills memory with, to nearest.
    ///
    /// The random number of an element is a function of the seed, the step, the vertex group, the output and the element's row-major index in
    /// its variable: copies of a block on several tiles round alike, and a step that is repeated without a new seed rounds as before.
    Stochastic,
}

/// A piece of state that survives a host call: its variable holds it all the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub kind: StateKind,
    pub variable: VarId,
    /// Every replica holds another part: the whole is theirs one after the other.
    pub sharded: bool,
    /// It rests in streaming memory: the variable has it from a load to a store.
    pub remote: bool,
}

/// Which way a state of streaming memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RemoteDirection {
    /// From streaming memory to its variable.
    Load,
    /// Back.
    Store,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    HostToDevice,
    DeviceToHost,
}

/// A named flow of tensors between host and tiles; each transfer step moves one tensor of the variable's type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub name: String,
    pub direction: Direction,
    pub variable: VarId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Procedure {
    pub name: String,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// One vertex a tile of each group, all groups at once.
    Compute(ComputeSet),
    /// Moves between tiles of one IPU, or, when a move crosses IPUs, over the links.
    Exchange(Exchange),
    /// Barrier over these IPUs (all tiles of each).
    Sync(Sync),
    /// One tensor of `streams[stream]` between host and its variable.
    Host {
        stream: u32,
        origin: OriginId,
    },
    /// One state between streaming memory and its variable, in every replica its own.
    Remote {
        state: u32,
        direction: RemoteDirection,
        origin: OriginId,
    },
    /// The random number generators of the tiles that hold `seed`, a `u32[2]` whole on each, start from it. They start from 0 in every run
    /// of the entry.
    SetSeed {
        seed: VarId,
        origin: OriginId,
    },
    Repeat {
        count: u32,
        body: ProcId,
    },
    Call(ProcId),
    /// Between the replicas, each with its own copy of both variables.
    Collective(Collective),
    /// Procedures of disjoint IPUs, all at the same time: it ends when the last of them does.
    Parallel(Vec<ProcId>),
}

impl Step {
    /// The graph op that the step serves.
    pub fn origin(&self) -> Option<OriginId> {
        match self {
            Step::Compute(set) => Some(set.origin),
            Step::Exchange(exchange) => Some(exchange.origin),
            Step::Collective(collective) => Some(collective.origin),
            Step::Remote { origin, .. } => Some(*origin),
            Step::Host { .. }
            | Step::Sync(_)
            | Step::SetSeed { .. }
            | Step::Repeat { .. }
            | Step::Call(_)
            | Step::Parallel(_) => None,
        }
    }

    /// The procedures that the step runs, and how often each.
    pub fn bodies(&self) -> impl Iterator<Item = (ProcId, u64)> + '_ {
        let (bodies, times): (&[ProcId], u64) = match self {
            Step::Repeat { count, body } => (std::slice::from_ref(body), u64::from(*count)),
            Step::Call(body) => (std::slice::from_ref(body), 1),
            Step::Parallel(bodies) => (bodies, 1),
            _ => (&[], 0),
        };
        bodies.iter().map(move |&body| (body, times))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sync {
    /// The tiles of one IPU.
    Ipu(IpuId),
    /// Those of a group of IPUs, one behind the other, which work on one stage together.
    Group { first: IpuId, count: u32 },
    /// All IPUs of the replica.
    Replica,
}

/// What replicas do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CollectiveKind {
    /// `x → x`: the sum over the replicas, in place or into another variable. A block is cut into as many pieces as there are replicas; piece
    /// `i` is summed from replica `i + 1` on round the ring, and rounded to the element type at every step.
    AllReduce,
    /// `[R, ..rest] → [..rest]`: entry `r` of the sum, on replica `r`; each entry is summed as a piece of an all-reduce.
    ReduceScatter,
    /// `[R, ..rest] → [..rest]`: the replica's own entry; nothing is sent.
    Shard,
    /// `[..rest] → [R, ..rest]`.
    AllGather,
}

impl CollectiveKind {
    pub const fn name(self) -> &'static str {
        match self {
            CollectiveKind::AllReduce => "all_reduce",
            CollectiveKind::ReduceScatter => "reduce_scatter",
            CollectiveKind::Shard => "shard",
            CollectiveKind::AllGather => "all_gather",
        }
    }
}

/// Both variables lie on the same grid, cut alike in the dimensions that they share, the leading one of `R` entries uncut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collective {
    pub name: String,
    pub origin: OriginId,
    pub kind: CollectiveKind,
    pub source: VarId,
    pub destination: VarId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComputeSet {
    pub name: String,
    pub origin: OriginId,
    pub groups: SmallVec<[VertexGroup; 1]>,
}

/// The same codelet on every tile of `grid`; every operand lies on that same grid, so a vertex sees its own tile's blocks only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VertexGroup {
    pub codelet: Codelet,
    pub grid: GridId,
    pub inputs: SmallVec<[Operand; 4]>,
    pub outputs: SmallVec<[Operand; 2]>,
}

/// A variable's block on the vertex's tile, or one entry of its (uncut) leading dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Operand {
    pub variable: VarId,
    /// `Some(i)`: the block without its leading dimension, at index `i` of it.
    pub entry: Option<u32>,
}

impl Operand {
    pub const fn whole(variable: VarId) -> Operand {
        Operand {
            variable,
            entry: None,
        }
    }

    pub const fn entry(variable: VarId, i: u32) -> Operand {
        Operand {
            variable,
            entry: Some(i),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    pub name: String,
    pub origin: OriginId,
    pub moves: Vec<Move>,
}

/// `destination[at .. at + shape] ← views(source)`, every copy of the destination included.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Move {
    pub source: VarId,
    /// Applied in order to the source tensor; the result has the shape that is written.
    pub views: Vec<View>,
    pub destination: VarId,
    /// First written index in each dimension of the destination.
    pub at: SmallVec<[usize; 4]>,
}

/// A renaming of elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum View {
    /// Same row-major order, other extents.
    Reshape(Shape),
    /// Axis `i` of the result is axis `perm[i]`.
    Transpose(SmallVec<[usize; 4]>),
    Slice {
        axis: usize,
        start: usize,
        len: usize,
    },
}

impl View {
    /// Shape after the view, or `None` when it does not apply to `shape`.
    pub fn apply(&self, shape: &Shape) -> Option<Shape> {
        match self {
            View::Reshape(to) => (to.elements() == shape.elements()).then(|| to.clone()),
            View::Transpose(perm) => {
                let mut seen: SmallVec<[usize; 4]> = perm.clone();
                seen.sort_unstable();
                let is_permutation = seen.iter().copied().eq(0..shape.rank());
                is_permutation.then(|| Shape(perm.iter().map(|&p| shape[p]).collect()))
            }
            View::Slice { axis, start, len } => {
                let fits = *axis < shape.rank()
                    && start.checked_add(*len).is_some_and(|e| e <= shape[*axis]);
                fits.then(|| {
                    let mut s = shape.clone();
                    s.0[*axis] = *len;
                    s
                })
            }
        }
    }
}

/// The graph op that a step serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The op's name in the graph, `h.3.mlp.c_fc`.
    pub name: String,
    /// The op's mnemonic, `matmul`.
    pub kind: String,
    pub ipu: IpuId,
    pub phase: Phase,
    /// Arithmetic of one execution, in floating-point operations (a multiply-add counts 2).
    pub flops: u64,
}

impl Program {
    pub fn variable(&self, id: VarId) -> &Variable {
        &self.variables[id.index()]
    }

    pub fn grid(&self, id: GridId) -> &Grid {
        &self.grids[id.index()]
    }

    /// The tiles of every grid.
    pub fn tile_sets(&self) -> Vec<FixedBitSet> {
        let sets = self.grids.iter().map(|grid| {
            let mut tiles = FixedBitSet::with_capacity(grid.tiles as usize);
            grid.tile_ids().for_each(|tile| tiles.insert(tile.index()));
            tiles
        });
        sets.collect()
    }

    pub fn grid_of(&self, id: VarId) -> &Grid {
        self.grid(self.variable(id).grid)
    }

    pub fn procedure(&self, id: ProcId) -> &Procedure {
        &self.procedures[id.index()]
    }

    /// Whether the variables of a collective exist and lie as its kind asks for.
    pub fn collective_fits(&self, c: &Collective) -> bool {
        let variables = &self.variables;
        let (Some(source), Some(destination)) = (
            variables.get(c.source.index()),
            variables.get(c.destination.index()),
        ) else {
            return false;
        };
        let whole_of = |all: &Variable, entry: &Variable| {
            let leads = all.ty.shape.dims().first() == Some(&(self.replicas as usize));
            leads
                && all.ty.shape.dims()[1..] == *entry.ty.shape.dims()
                && all.cuts.first().is_some_and(|cut| cut.axes.is_empty())
                && all.cuts[1..] == entry.cuts[..]
        };
        let lies = match c.kind {
            CollectiveKind::AllReduce => {
                source.ty.shape == destination.ty.shape && source.cuts == destination.cuts
            }
            CollectiveKind::AllGather => whole_of(destination, source),
            CollectiveKind::ReduceScatter | CollectiveKind::Shard => whole_of(source, destination),
        };
        let dtype = source.ty.dtype;
        lies && dtype == destination.ty.dtype && dtype.is_float() && source.grid == destination.grid
    }

    /// Calls `visit(step, times)` for every step that the entry reaches, each once: in program order, a procedure where it is first called.
    /// `times` is how often the step runs in one run of the entry. The position in this walk is the step's number, which live ranges refer to.
    pub fn walk<'p>(&'p self, visit: &mut impl FnMut(&'p Step, u64)) {
        let times = self.executions();
        self.walk_procedures(&mut |procedure, index| {
            visit(
                &self.procedure(procedure).steps[index],
                times[procedure.index()],
            );
        });
    }

    /// The walk of [`Program::walk`], by procedure and index of the step in it.
    pub fn walk_procedures(&self, visit: &mut impl FnMut(ProcId, usize)) {
        let mut seen = vec![false; self.procedures.len()];
        self.visit_once(self.entry, &mut seen, visit);
    }

    fn visit_once(&self, id: ProcId, seen: &mut [bool], visit: &mut impl FnMut(ProcId, usize)) {
        if std::mem::replace(&mut seen[id.index()], true) {
            return;
        }
        for (index, step) in self.procedure(id).steps.iter().enumerate() {
            visit(id, index);
            for (body, _) in step.bodies() {
                self.visit_once(body, seen, visit);
            }
        }
    }

    /// How often each procedure runs in one run of the entry.
    pub fn executions(&self) -> Vec<u64> {
        self.executions_where(|_, _, _| true)
    }

    /// How often each procedure runs, counting only calls that `counts` accepts: caller, index of the step in it, procedure called.
    pub fn executions_where(&self, counts: impl Fn(ProcId, usize, ProcId) -> bool) -> Vec<u64> {
        let mut called_first = Vec::new();
        self.after_callees(
            self.entry,
            &mut vec![false; self.procedures.len()],
            &mut called_first,
        );
        let mut times = vec![0u64; self.procedures.len()];
        times[self.entry.index()] = 1;
        for &caller in called_first.iter().rev() {
            let runs = times[caller.index()];
            for (index, step) in self.procedure(caller).steps.iter().enumerate() {
                for (body, each) in step
                    .bodies()
                    .filter(|&(body, _)| counts(caller, index, body))
                {
                    let sum = &mut times[body.index()];
                    *sum = sum.saturating_add(runs.saturating_mul(each));
                }
            }
        }
        times
    }

    /// Procedures in an order in which callees come before their callers.
    fn after_callees(&self, id: ProcId, seen: &mut [bool], order: &mut Vec<ProcId>) {
        if std::mem::replace(&mut seen[id.index()], true) {
            return;
        }
        for (body, _) in self.procedure(id).steps.iter().flat_map(Step::bodies) {
            self.after_callees(body, seen, order);
        }
        order.push(id);
    }

    /// The numbers of the steps of every procedure in the walk, called ones that are met there for the first time included; `None` for what the
    /// entry does not reach.
    pub fn step_ranges(&self) -> Vec<Option<std::ops::Range<u32>>> {
        let mut ranges = vec![None; self.procedures.len()];
        self.number(self.entry, &mut 0, &mut ranges);
        ranges
    }

    fn number(&self, id: ProcId, next: &mut u32, ranges: &mut [Option<std::ops::Range<u32>>]) {
        if ranges[id.index()].is_some() {
            return;
        }
        let first = *next;
        ranges[id.index()] = Some(first..first);
        for step in &self.procedure(id).steps {
            *next += 1;
            for (body, _) in step.bodies() {
                self.number(body, next, ranges);
            }
        }
        ranges[id.index()] = Some(first..*next);
    }
}
