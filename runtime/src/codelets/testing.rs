//! Vertices for tests: operands laid out one after another in a tile of their own.

#![allow(unsafe_code)] // a vertex on a tile of its own

use half::f16;
use superstep_ir::types::{DType, Shape};

use super::{AtRandom, Isa, Kernel, Operand, Scratch, Vertex, VertexMemory};
use crate::layout::{Block, Layout};

/// All ways to compile a kernel that the machine has.
pub(crate) fn isas() -> Vec<Isa> {
    Isa::all()
}

/// A block of a tensor with its data: the bits of each element, of 4 bytes or, in the lower half of the word, of 2.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) layout: std::sync::Arc<Layout>,
    pub(crate) words: Vec<u32>,
}

/// A tensor that lies whole on the tile.
pub(crate) fn whole(dims: &[usize], data: &[f32]) -> Data {
    block(dims, &vec![0; dims.len()], dims, data)
}

/// The same block stored as halves, its floats rounded.
pub(crate) fn halves(data: &Data) -> Data {
    let half = |&word: &u32| u32::from(f16::from_f32_const(f32::from_bits(word)).to_bits());
    let block = data.layout.blocks[0];
    let usizes = |extents: &[u32]| extents.iter().map(|&e| e as usize).collect::<Vec<_>>();
    let (start, extent) = (usizes(block.start()), usizes(block.extent()));
    let words = data.words.iter().map(half).collect();
    let dims = data.layout.shape.dims();
    typed(DType::F16, dims, &start, &extent, words)
}

/// The block at `start` with `extent` of a tensor of `dims`.
pub(crate) fn block(dims: &[usize], start: &[usize], extent: &[usize], data: &[f32]) -> Data {
    typed(
        DType::F32,
        dims,
        start,
        extent,
        data.iter().map(|x| x.to_bits()).collect(),
    )
}

/// Whole `i32` or `u32` data.
pub(crate) fn integers(dtype: DType, dims: &[usize], data: &[i32]) -> Data {
    typed(
        dtype,
        dims,
        &vec![0; dims.len()],
        dims,
        data.iter().map(|&x| x as u32).collect(),
    )
}

fn typed(dtype: DType, dims: &[usize], start: &[usize], extent: &[usize], words: Vec<u32>) -> Data {
    assert_eq!(words.len(), extent.iter().product::<usize>());
    let layout = Layout {
        id: 0,
        dtype,
        shape: Shape::new(dims),
        blocks: vec![Block::new(start, extent)],
        max_block_bytes: words.len() * dtype.bytes(),
        first_copies: vec![0],
        first_copy_of: vec![0],
        leading_uncut: true,
    };
    Data {
        layout: std::sync::Arc::new(layout),
        words,
    }
}

impl Data {
    fn bytes(&self) -> Vec<u8> {
        let element = self.layout.dtype.bytes();
        let bytes = self.words.iter().map(|w| w.to_le_bytes());
        bytes.flat_map(|b| b.into_iter().take(element)).collect()
    }

    /// The elements in `bytes` as floats: halves widened, others by their bits.
    fn floats(&self, bytes: &[u8]) -> Vec<f32> {
        match self.layout.dtype {
            DType::F16 => {
                let halves = bytes
                    .chunks_exact(2)
                    .map(|b| u16::from_le_bytes([b[0], b[1]]));
                halves.map(|h| f16::from_bits(h).to_f32_const()).collect()
            }
            _ => {
                let words = bytes.chunks_exact(4);
                words
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect()
            }
        }
    }
}

/// Runs one vertex and gives the outputs' elements. `outputs` say shapes and old contents. Bytes around the operands must not change.
pub(crate) fn run(kernel: &dyn Kernel, inputs: &[Data], outputs: &[Data]) -> Vec<Vec<f32>> {
    let apart: Vec<usize> = (0..outputs.len()).map(|_| usize::MAX).collect();
    run_in_place(kernel, inputs, outputs, &apart)
}

/// As [`run`], with output `o` lying on input `on[o]` (`usize::MAX`: apart).
pub(crate) fn run_in_place(
    kernel: &dyn Kernel,
    inputs: &[Data],
    outputs: &[Data],
    on: &[usize],
) -> Vec<Vec<f32>> {
    run_rounding(kernel, inputs, outputs, on, None)
}

/// As [`run_in_place`], with halves rounded at random.
pub(crate) fn run_rounding(
    kernel: &dyn Kernel,
    inputs: &[Data],
    outputs: &[Data],
    on: &[usize],
    at_random: Option<AtRandom>,
) -> Vec<Vec<f32>> {
    run_vertex(kernel, inputs, outputs, on, (at_random, false))
}

/// As [`run`], with the results added to what the outputs held.
pub(crate) fn run_adding(kernel: &dyn Kernel, inputs: &[Data], outputs: &[Data]) -> Vec<Vec<f32>> {
    let apart = vec![usize::MAX; outputs.len()];
    run_vertex(kernel, inputs, outputs, &apart, (None, true))
}

fn run_vertex(
    kernel: &dyn Kernel,
    inputs: &[Data],
    outputs: &[Data],
    on: &[usize],
    (at_random, adds): (Option<AtRandom>, bool),
) -> Vec<Vec<f32>> {
    const GUARD: u8 = 0xde;
    let mut tile: Vec<u128> = Vec::new();
    let room = |data: &Data| data.bytes().len().next_multiple_of(16) + 16;
    let total: usize = inputs.iter().chain(outputs).map(room).sum();
    tile.resize(total / 16, 0);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut tile);
    bytes.fill(GUARD);
    let mut next = 0;
    let mut place = |data: &Data, bytes: &mut [u8]| {
        let own = data.bytes();
        bytes[next..next + own.len()].copy_from_slice(&own);
        next += room(data);
        next - room(data)
    };
    let input_at: Vec<usize> = inputs.iter().map(|d| place(d, bytes)).collect();
    let output_at: Vec<usize> = outputs
        .iter()
        .zip(on)
        .map(|(d, &i)| {
            if i == usize::MAX {
                place(d, bytes)
            } else {
                input_at[i]
            }
        })
        .collect();
    let before = bytes.to_vec();
    let operands = |data: &'_ [Data], at: &[usize]| -> Vec<(usize, std::sync::Arc<Layout>)> {
        data.iter()
            .zip(at)
            .map(|(d, &at)| (at, d.layout.clone()))
            .collect()
    };
    let (ins, outs) = (operands(inputs, &input_at), operands(outputs, &output_at));
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut tile);
    let start = bytes.as_mut_ptr();
    fn operand(start: *mut u8, (at, layout): &(usize, std::sync::Arc<Layout>)) -> Operand<'_> {
        Operand::new(start.wrapping_add(*at), true, None, layout, 0)
    }
    let vertex = Vertex {
        inputs: ins.iter().map(|o| operand(start, o)).collect(),
        outputs: outs.iter().map(|o| operand(start, o)).collect(),
        adds,
    };
    kernel.check(&vertex).expect("operands fit");
    // SAFETY: the operands were laid out inside `tile`, which nobody else holds.
    let mut memory = unsafe { VertexMemory::new(&vertex, at_random) };
    kernel.run(&mut memory, &mut Scratch::default());
    let after: &[u8] = bytemuck::cast_slice(&tile);
    let range = |d: &Data, at: usize| at..at + d.words.len() * d.layout.dtype.bytes();
    let written = |b: usize| {
        let mut outputs = outputs.iter().zip(&output_at);
        outputs.any(|(d, &at)| range(d, at).contains(&b))
    };
    for b in 0..after.len() {
        assert!(after[b] == before[b] || written(b), "byte {b} is no output");
    }
    let output = |(d, &at): (&Data, &usize)| d.floats(&after[range(d, at)]);
    outputs.iter().zip(&output_at).map(output).collect()
}

/// Reproducible numbers in −1..1.
pub(crate) fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / 8_388_608.0 - 1.0
        })
        .collect()
}

/// Asserts that `found` is within `tolerance · (1 + |expected|)` of `expected`.
pub(crate) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let same = f64::from(f) == e || (f64::from(f) - e).abs() <= tolerance * (1.0 + e.abs());
        assert!(
            same || (f.is_nan() && e.is_nan()),
            "{what}[{i}]: {f} is not {e}"
        );
    }
}

/// The same bits, NaN or not.
pub(crate) fn bits(outputs: &[Vec<f32>]) -> Vec<Vec<u32>> {
    outputs
        .iter()
        .map(|o| o.iter().map(|x| x.to_bits()).collect())
        .collect()
}
