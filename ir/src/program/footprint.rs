//! What a program takes of each tile besides its variables: code, vertex state, exchange programs, stacks, by the categories of a Poplar
//! memory report.
//!
//! Everything follows from the program and does not depend on addresses. Counted is what lies there: a step that runs many times, in a repeat
//! or a procedure, once; a codelet once a tile and combination of element types. **What repeats is assumed to be outlined**: exchanges of
//! the same form on the same tiles share their code, and vertices of the same form on the same tiles their state; each further use pays a few
//! instructions that set base addresses, or is part of a sequence of steps that repeats, whose control code lies there once (`outline.rs`).
//! A strided region is received, or sent, by a loop around one fragment. All this makes the account smaller than it would be if every step of
//! the program had its own code. `account.rs` walks the program.

use serde::{Deserialize, Serialize};

use self::account::Account;
use super::cost::moves::DistinctMoves;
use super::{Program, Variable};
use crate::ids::{IpuId, TileId};
use crate::units::{Bytes, align_up};

/// What else than variables lies on a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeKind {
    /// Codelets.
    VertexCode,
    /// Operand pointers, sizes and worklists of vertices.
    VertexState,
    /// What a tile sends and receives when in an exchange on its IPU.
    ExchangeCode,
    /// The same over links, with packet headers.
    GlobalExchangeCode,
    /// The same with the host.
    HostExchangeCode,
    /// Descriptors of copies inside the tile.
    CopyDescriptors,
    /// The supervisor's program: starts vertices, calls exchanges, waits.
    ControlCode,
    /// Of supervisor and workers.
    Stack,
    /// The end of the tile, which the loader cannot fill.
    Unloadable,
}

impl CodeKind {
    pub const ALL: [CodeKind; 9] = [
        CodeKind::VertexCode,
        CodeKind::VertexState,
        CodeKind::ExchangeCode,
        CodeKind::GlobalExchangeCode,
        CodeKind::HostExchangeCode,
        CodeKind::CopyDescriptors,
        CodeKind::ControlCode,
        CodeKind::Stack,
        CodeKind::Unloadable,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            CodeKind::VertexCode => "vertex_code",
            CodeKind::VertexState => "vertex_state",
            CodeKind::ExchangeCode => "exchange_code",
            CodeKind::GlobalExchangeCode => "global_exchange_code",
            CodeKind::HostExchangeCode => "host_exchange_code",
            CodeKind::CopyDescriptors => "copy_descriptors",
            CodeKind::ControlCode => "control_code",
            CodeKind::Stack => "stack",
            CodeKind::Unloadable => "unloadable",
        }
    }
}

/// Bytes on one tile by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileFootprint {
    bytes: [u32; CodeKind::ALL.len()],
}

impl TileFootprint {
    pub const fn get(&self, kind: CodeKind) -> Bytes {
        self.bytes[kind as usize] as Bytes
    }

    /// Kinds with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (CodeKind, Bytes)> + '_ {
        CodeKind::ALL.into_iter().map(|kind| (kind, self.get(kind)))
    }

    /// Bytes of all kinds, in whole units of variables' alignment.
    pub fn total(&self) -> Bytes {
        let sum: Bytes = self.bytes.iter().map(|&b| Bytes::from(b)).sum();
        align_up(sum as usize, Variable::ALIGNMENT as usize) as Bytes
    }

    fn add(&mut self, kind: CodeKind, bytes: u32) {
        let sum = &mut self.bytes[kind as usize];
        *sum = sum.saturating_add(bytes);
    }
}

/// The account of all tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    tiles_per_ipu: usize,
    tiles: Vec<TileFootprint>,
}

impl Footprint {
    /// Accounts for a program; `moves` are those of the same program.
    pub fn of<'p>(program: &'p Program, moves: &DistinctMoves<'p>) -> Footprint {
        let mut account = Account::new(program);
        let mut last = None;
        program.walk_procedures(&mut |procedure, index| {
            if last.replace(procedure) != Some(procedure) {
                account.border();
            }
            account.step(&program.procedure(procedure).steps[index], moves);
        });
        account.finish()
    }

    /// Expands the program's moves and accounts for it.
    pub fn of_program(program: &Program) -> Footprint {
        Footprint::of(program, &DistinctMoves::of(program))
    }

    pub fn tile(&self, ipu: IpuId, tile: TileId) -> &TileFootprint {
        &self.of_ipu(ipu)[tile.index()]
    }

    /// The tile of an IPU with most.
    pub fn fullest(&self, ipu: IpuId) -> &TileFootprint {
        let tiles = self.of_ipu(ipu).iter();
        tiles
            .max_by_key(|tile| tile.total())
            .expect("an IPU has tiles")
    }

    /// All tiles of an IPU.
    pub fn of_ipu(&self, ipu: IpuId) -> &[TileFootprint] {
        &self.tiles[ipu.index() * self.tiles_per_ipu..][..self.tiles_per_ipu]
    }
}

mod account;
mod outline;
#[cfg(test)]
mod tests;
