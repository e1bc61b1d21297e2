//! Why a program cannot be loaded or a run stopped.

use superstep_ir::ids::{GridId, ProcId, VarId};
use superstep_ir::program::exchange::ExchangeError;

use crate::codelets::CodeletError;

/// An error of [`Engine`](crate::Engine). Everything up to `HostBytes` means that the program is not what a compiler should have
/// made (or that the file was tampered with); the rest is the host's.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{grid} {reason}")]
    Grid { grid: GridId, reason: String },
    #[error("variable {variable} `{name}` {reason}")]
    Variable {
        variable: VarId,
        name: String,
        reason: String,
    },
    #[error("step {step} of procedure `{procedure}` names {what} that does not exist")]
    Dangling {
        procedure: String,
        step: usize,
        what: String,
    },
    #[error("the variables of collective `{name}` do not lie as it needs them")]
    Collective { name: String },
    #[error("{procedure} calls itself")]
    Recursion { procedure: ProcId },
    #[error("compute set `{set}`: {source}")]
    Codelet {
        set: String,
        source: Box<CodeletError>,
    },
    #[error("compute set `{set}`: {operand} of `{codelet}` {reason}")]
    Operand {
        set: String,
        codelet: &'static str,
        operand: String,
        reason: String,
    },
    #[error("exchange `{exchange}`, {source_name} -> {destination_name}: {source}")]
    Move {
        exchange: String,
        source_name: String,
        destination_name: String,
        source: Box<ExchangeError>,
    },
    #[error(
        "exchange `{exchange}`, {source_name} -> {destination_name}: a copy leaves its block on tile {tile}"
    )]
    CopyOutside {
        exchange: String,
        source_name: String,
        destination_name: String,
        tile: u32,
    },
    #[error("exchange `{exchange}` reads and writes byte {byte} of tile {tile}")]
    ExchangeOverlap {
        exchange: String,
        tile: u32,
        byte: u32,
    },
    #[error("cannot reserve {bytes} bytes of tile memory: {source}")]
    Memory { bytes: u64, source: std::io::Error },
    #[error("cannot start {threads} threads: {source}")]
    Threads {
        threads: usize,
        source: rayon::ThreadPoolBuildError,
    },
    #[error("the program has no part `{name}` that runs by itself")]
    NoPart { name: String },
    #[error("the program has no state `{name}`")]
    NoState { name: String },
    #[error("state `{name}` has {expected} bytes, not {found}")]
    StateBytes {
        name: String,
        expected: usize,
        found: usize,
    },
    #[error("stream `{stream}`: {source}")]
    Host { stream: String, source: HostError },
}

/// The host could not serve a stream.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("the host does not know this stream")]
    UnknownStream,
    #[error("the host has {found} bytes where the program moves {expected}")]
    Bytes { expected: usize, found: usize },
    #[error("there is no more data")]
    End,
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + std::marker::Sync>),
}
