//! Bytes on a tile of what is not a variable: vertex code and state, exchange programs, control code.
//!
//! A codelet's code lies once on a tile that runs it, a variant for each combination of element types; state lies once a vertex; exchange and
//! control code once a step of the program, however often it runs. Sizes by standing (mk2.md §5): *derived* from the fields of PopLibs
//! vertices and from the encoding of exchange instructions, *estimated* for code, since no listing of it is public.

use super::codelet_cost::BlockShape;
use crate::program::Codelet;
use crate::types::DType;

/// Derived: receiving a region sets source and pointer (8 bytes) and waits (4).
pub const RECEIVED_REGION: u32 = 12;
/// Derived: sending a region is an absolute send and a wait.
pub const SENT_REGION: u32 = 8;
/// Estimated: a strided region repeats one fragment at a constant distance, which is a loop around its instructions: a counter and a step
/// for each level.
pub const REGION_LOOP: u32 = 8;
/// Estimated: a step whose code lies there already sets the base addresses of one move, or one operand, for it.
pub const BASE_ADDRESS: u32 = 8;
/// Derived: the header of a packet to another IPU or the host.
pub const PACKET_HEADER: u32 = 8;
/// Estimated: what a packet between tile and host takes besides, one send or receive.
pub const PACKET_CODE: u32 = 12;
/// Estimated: bytes of data in a packet.
pub const PACKET_BYTES: u64 = 1024;
/// Derived: descriptor of a copy inside a tile: from, to, size, stride.
pub const COPY_DESCRIPTOR: u32 = 16;

/// Estimated: the supervisor's stack.
pub const SUPERVISOR_STACK: u32 = 512;
/// Estimated: the stack of a worker, between 0.1 and 0.3 KiB.
pub const WORKER_STACK: u32 = 192;
/// Derived: the last 0x450 bytes of a tile cannot be filled by the loader.
pub const UNLOADABLE: u32 = 0x450;

/// Estimated: starting the vertices of a group: base of the state, entry, run, wait.
pub const START_VERTICES: u32 = 16;
/// Estimated: calling the exchange code of a step.
pub const CALL_EXCHANGE: u32 = 12;
/// Derived: a sync is one instruction.
pub const SYNC: u32 = 4;
/// Estimated: a call, or a loop around one, with saving the return address.
pub const CALL: u32 = 12;
/// Derived: an address, or a constant, that a call of a sequence of steps gives to it.
pub const TABLE_ENTRY: u32 = 4;
/// Derived: an address that a sequence passes on to one that it calls: a load and a store.
pub const PASSED_ADDRESS: u32 = 8;

/// Estimated bytes of a codelet's code for one combination of element types: between 0.2 KiB for a loop over elements and 1.5 KiB for the
/// matrix unit with its supervisor part.
pub fn vertex_code(codelet: &Codelet) -> u32 {
    match codelet {
        Codelet::Matmul {
            transpose_a,
            transpose_b,
            ..
        } => 1024 + 192 * (u32::from(*transpose_a) + u32::from(*transpose_b)),
        // A prologue for misaligned ends, then load, operate, store.
        Codelet::Map(expr) => 128 + 24 * expr.nodes.len() as u32,
        Codelet::Fill { .. } | Codelet::PickLabel { .. } => 128,
        Codelet::Stash | Codelet::Restore | Codelet::Cast | Codelet::CausalMask => 160,
        Codelet::MaskBeyond | Codelet::WriteRows => 192,
        Codelet::Gather { .. } | Codelet::RowLoss => 192,
        Codelet::JoinLogSumExp | Codelet::ScatterAdd { .. } => 256,
        Codelet::Transpose
        | Codelet::Reduce { .. }
        | Codelet::SumPartials { .. }
        | Codelet::Dropout { .. } => 320,
        Codelet::SoftmaxGrad { .. }
        | Codelet::RowMaxSum { .. }
        | Codelet::CrossEntropyGrad { .. } => 384,
        Codelet::LayerNormParamGrad => 448,
        Codelet::LayerNorm { .. } | Codelet::LayerNormGrad | Codelet::Softmax { .. } => 512,
        Codelet::Advance => 32,
    }
}

/// Derived bytes of a vertex's state: a pointer an operand and its sizes; for the matrix unit pointer tables over channel groups and a
/// worklist of three 16-bit fields for each of six workers.
pub fn vertex_state(codelet: &Codelet, inputs: &[BlockShape], outputs: &[BlockShape]) -> u32 {
    match (codelet, inputs, outputs) {
        (Codelet::Matmul { transpose_a, .. }, [a, ..], [out, ..]) => {
            matmul_state(*transpose_a, a, out)
        }
        (Codelet::Map(_), ..) => 4 + 4 * (inputs.len() + outputs.len()) as u32,
        _ => 8 + 4 * (inputs.len() + outputs.len()) as u32,
    }
}

fn matmul_state(transpose_a: bool, a: &BlockShape, out: &BlockShape) -> u32 {
    const FIELDS: u64 = 32;
    const WORKLIST: u64 = 36;
    const OUTPUT_CHANNELS: u64 = 16;
    let input_channels = if a.dtype == DType::F16 { 16 } else { 8 };
    let (rank, n) = (a.shape.rank(), out.shape.last() as u64);
    let depth = if transpose_a && rank >= 2 {
        a.shape[rank - 2]
    } else {
        a.shape.last()
    };
    let out_rank = out.shape.rank();
    let matrix: usize = out.shape.dims()[out_rank.saturating_sub(2)..]
        .iter()
        .product();
    let groups = (out.shape.elements() / matrix.max(1)) as u64;
    let ig = (depth as u64).div_ceil(input_channels);
    let og = n.div_ceil(OUTPUT_CHANNELS);
    let tables = 4 * groups * (ig + ig * og + og);
    (FIELDS + WORKLIST + tables).try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Real, Shape};

    fn block(dims: &[usize]) -> BlockShape {
        BlockShape {
            dtype: DType::F32,
            shape: Shape::new(dims),
        }
    }

    #[test]
    fn a_product_has_tables_over_channel_groups() {
        let product = |transpose_a| Codelet::Matmul {
            transpose_a,
            transpose_b: false,
            accumulate: false,
        };
        let (b, out) = (block(&[24, 40]), block(&[7, 40]));
        // Three groups of 8 rows of weights, three of 16 columns (the last not full).
        let expected = 32 + 36 + 4 * (3 + 9 + 3);
        let state = |product: &Codelet, a| {
            vertex_state(product, &[a, b.clone()], std::slice::from_ref(&out))
        };
        assert_eq!(state(&product(false), block(&[7, 24])), expected);
        assert_eq!(state(&product(true), block(&[24, 7])), expected);
        assert_eq!(
            vertex_code(&product(true)) - vertex_code(&product(false)),
            192
        );
    }

    #[test]
    fn elementwise_state_is_a_few_words() {
        let fill = Codelet::Fill { value: Real(0.0) };
        assert_eq!(vertex_state(&fill, &[], &[block(&[7])]), 12);
    }
}
