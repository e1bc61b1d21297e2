//! What can be wrong with a program, and where.

use std::fmt;

use thiserror::Error;

use crate::ids::{GridId, IpuId, ProcId, TileId, VarId};
use crate::program::exchange::ExchangeError;
use crate::program::{Program, RemoteDirection, Step, Sync};

/// One broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramError {
    pub place: ProgramPlace,
    pub kind: ProgramErrorKind,
}

/// Where in a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramPlace {
    Program,
    Grid(GridId, String),
    Variable(VarId, String),
    State(String),
    Stream(String),
    Procedure(ProcId, String),
    Step {
        procedure: String,
        index: usize,
        /// The step in words: `compute "h.0.mlp.c_fc.multiply"`.
        what: String,
    },
}

/// Which rule.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ProgramErrorKind {
    // --- structure ---------------------------------------------------------------------------------------------
    #[error("there is no {what} {index}, only {count}")]
    IdOutOfRange {
        what: &'static str,
        index: u32,
        count: usize,
    },
    #[error("the procedure calls itself")]
    CallCycle,
    #[error("part `{0}` does not run in the entry")]
    PartNotReached(String),
    #[error("the program has more than {0} steps")]
    TooManySteps(u64),
    #[error("repeats its body 0 times")]
    RepeatsNothing,
    #[error("the modulus is {given}, but an IPU has {tiles} tiles")]
    GridTiles { given: u32, tiles: u32 },
    #[error("axis {0:?} has no points")]
    EmptyAxis(String),
    #[error("has more points than the IPU has tiles ({tiles})")]
    TooManyPoints { tiles: u32 },
    #[error("two points lie on {0}")]
    SharedTile(TileId),
    #[error("{cuts} cuts for {rank} dimensions")]
    CutCount { cuts: usize, rank: usize },
    #[error("dimension {dimension} is cut by axis {axis}, the grid has {axes}")]
    CutAxis {
        dimension: usize,
        axis: u8,
        axes: usize,
    },
    #[error("axis {axis} cuts more than one dimension, or one twice")]
    AxisCutsTwice { axis: u8 },
    #[error("dimension {dimension} is cut in grains of 0 elements")]
    ZeroGrain { dimension: usize },
    #[error("the tensor has no elements, or too many")]
    TensorSize,
    #[error("a second {what} of this name")]
    Repeated { what: &'static str },
    #[error("`{variable}` is no seed: a seed is u32[2], not cut")]
    Seed { variable: String },
    #[error("its variable belongs to another state as well")]
    SharedState,

    // --- memory ------------------------------------------------------------------------------------------------
    #[error("address {0:#x} is not aligned")]
    Misaligned(u32),
    #[error("takes bytes {start}..{end} of a tile, usable are {from}..{tile_memory}")]
    OutsideTile {
        start: u32,
        end: u64,
        from: u32,
        tile_memory: u32,
    },
    #[error("live from step {0} to step {1}")]
    EmptyLiveRange(u32, u32),
    #[error("state that rests on tiles must always be live")]
    StateNotAlwaysLive,
    #[error(
        "overlaps `{other}` on {tile} of {ipu}: bytes {start:#x}..{end:#x}, both live at step {step}"
    )]
    Overlap {
        other: String,
        ipu: IpuId,
        tile: TileId,
        start: u64,
        end: u64,
        step: u32,
    },

    // --- vertices ----------------------------------------------------------------------------------------------
    #[error("`{variable}` lies on {given}, the vertices on {expected}")]
    OperandGrid {
        variable: String,
        given: GridId,
        expected: GridId,
    },
    #[error("`{variable}` has no entry {entry}, or its leading dimension is cut")]
    OperandEntry { variable: String, entry: u32 },
    #[error("{codelet} on {tile}: {what}")]
    Contract {
        codelet: &'static str,
        tile: TileId,
        what: String,
    },
    #[error("`{variable}` is written by two vertices of a tile at once")]
    WrittenTwice { variable: String },
    #[error("`{variable}` is written while another vertex of the tile reads it")]
    ReadWhileWritten { variable: String },
    #[error("{codelet} writes `{variable}` while it reads it, but does not run in place")]
    NotInPlace {
        codelet: &'static str,
        variable: String,
    },

    // --- exchanges ---------------------------------------------------------------------------------------------
    #[error("move of `{source_variable}` to `{destination}`: {error}")]
    Move {
        source_variable: String,
        destination: String,
        error: ExchangeError,
    },
    #[error("a view of `{source_variable}` makes a tensor without elements")]
    EmptyView { source_variable: String },
    #[error("two moves write the same part of `{destination}`")]
    MovesOverlap { destination: String },
    #[error("`{variable}` is read and written by the same exchange")]
    MovesDepend { variable: String },

    // --- flow --------------------------------------------------------------------------------------------------
    #[error("reads `{variable}` (step {step}), of which not all has been written")]
    ReadBeforeWrite { variable: String, step: u32 },
    #[error("uses `{variable}` at step {step}, it is live from {first} to {last}")]
    NotLive {
        variable: String,
        step: u32,
        first: u32,
        last: u32,
    },
    #[error(
        "state `{state}` does not rest in streaming memory, so there is nothing to load or store"
    )]
    NotRemote { state: String },
    #[error("`{source_name}` and `{destination}` do not fit a {kind} over {replicas} replicas")]
    Collective {
        kind: &'static str,
        source_name: String,
        destination: String,
        replicas: u32,
    },
    #[error(
        "`{variable}` is read in the loop of steps {loop_first} to {loop_last} with a value from before or from the last round, \
         but it is live from {first} to {last} only"
    )]
    NotLiveInLoop {
        variable: String,
        loop_first: u32,
        loop_last: u32,
        first: u32,
        last: u32,
    },
}

/// All broken rules of a program; never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramErrors(pub Vec<ProgramError>);

impl ProgramPlace {
    pub(super) fn variable(program: &Program, id: VarId) -> ProgramPlace {
        ProgramPlace::Variable(id, program.variable(id).name.clone())
    }

    /// A step of a procedure. Streams and procedures it names need not exist.
    pub(super) fn step(program: &Program, procedure: ProcId, index: usize) -> ProgramPlace {
        let procedure = program.procedure(procedure);
        ProgramPlace::Step {
            procedure: procedure.name.clone(),
            index,
            what: what(program, &procedure.steps[index]),
        }
    }
}

fn what(program: &Program, step: &Step) -> String {
    let called = |id: ProcId| -> &str {
        let procedure = program.procedures.get(id.index());
        procedure.map_or("?", |p| p.name.as_str())
    };
    match step {
        Step::Compute(set) => format!("compute {:?}", set.name),
        Step::Exchange(exchange) => format!("exchange {:?}", exchange.name),
        Step::Sync(Sync::Ipu(ipu)) => format!("sync {ipu}"),
        Step::Sync(Sync::Group { first, count }) => {
            let last = first.0.saturating_add(count.saturating_sub(1));
            format!("sync {first} to {}", IpuId(last))
        }
        Step::Sync(Sync::Replica) => "sync replica".into(),
        Step::Host { stream, .. } => {
            let stream = program.streams.get(*stream as usize);
            format!("transfer {:?}", stream.map_or("?", |s| s.name.as_str()))
        }
        Step::Remote {
            direction: RemoteDirection::Load,
            ..
        } => "load".into(),
        Step::Remote { .. } => "store".into(),
        Step::SetSeed { .. } => "set seed".into(),
        Step::Collective(c) => format!("{} {:?}", c.kind.name(), c.name),
        Step::Repeat { count, body } => format!("repeat {count} times {}", called(*body)),
        Step::Call(body) => format!("call {}", called(*body)),
        Step::Parallel(bodies) => {
            let names: Vec<String> = bodies.iter().map(|&b| called(b).to_string()).collect();
            format!("at once {}", names.join(" | "))
        }
    }
}

impl fmt::Display for ProgramPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProgramPlace::Program => f.write_str("program"),
            ProgramPlace::Grid(id, name) => write!(f, "{id} `{name}`"),
            ProgramPlace::Variable(id, name) => write!(f, "variable {id} `{name}`"),
            ProgramPlace::State(name) => write!(f, "state {name:?}"),
            ProgramPlace::Stream(name) => write!(f, "stream {name:?}"),
            ProgramPlace::Procedure(_, name) => write!(f, "procedure {name}"),
            ProgramPlace::Step {
                procedure,
                index,
                what,
            } => write!(f, "{what} (entry {index} of procedure {procedure})"),
        }
    }
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.kind)
    }
}

impl fmt::Display for ProgramErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::verify::list(f, &self.0)
    }
}

impl std::error::Error for ProgramError {}
impl std::error::Error for ProgramErrors {}
