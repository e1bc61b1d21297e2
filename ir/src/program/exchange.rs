//! From symbolic moves to region copies: the source layout intersected with the destination layout.

use smallvec::SmallVec;

use crate::ids::IpuId;
use crate::program::{Move, Program};

/// A strided region that goes from one tile to one or many (a multicast); offsets are relative to the variables' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionCopy {
    pub source_tile: u32,
    /// Byte offset in the source variable's block.
    pub source_offset: u32,
    /// Tiles that receive the same bytes at the same offset; may contain the source tile (when both variables are on one IPU).
    pub destination_tiles: SmallVec<[u32; 2]>,
    /// Byte offset in the destination variable's block.
    pub destination_offset: u32,
    /// Outer loops around the contiguous run, outermost first.
    pub loops: SmallVec<[Loop; 3]>,
    /// Contiguous bytes of the innermost run.
    pub run_bytes: u32,
}

/// One loop of a strided region; strides in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    pub extent: u32,
    pub source_stride: u32,
    pub destination_stride: u32,
}

/// All copies of one move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    pub source_ipu: IpuId,
    pub destination_ipu: IpuId,
    pub copies: Vec<RegionCopy>,
}

impl RegionCopy {
    /// Bytes that each destination receives.
    pub fn bytes(&self) -> u64 {
        self.loops.iter().map(|l| u64::from(l.extent)).product::<u64>() * u64::from(self.run_bytes)
    }
}

/// Why a move has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    #[error("view {index} does not apply to shape {shape}")]
    View { index: usize, shape: crate::types::Shape },
    #[error("a view joins or cuts dimensions in a way that is not affine (view {index})")]
    NotAffine { index: usize },
    #[error("{written} written at {at:?} is outside {destination}")]
    Outside { written: crate::types::Shape, at: Vec<usize>, destination: crate::types::Shape },
    #[error("element types differ")]
    Type,
}

/// Expands one move of `program` into region copies, in a canonical order.
pub fn expand(program: &Program, mv: &Move) -> Result<Expanded, ExchangeError> {
    let _ = (program, mv);
    Err(ExchangeError::Type)
}
