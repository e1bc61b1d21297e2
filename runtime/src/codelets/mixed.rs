//! Operands stored as halves: any kernel over floats, with f16 operands widened before it runs and narrowed after.
//!
//! Computed: what the inner kernel computes, in f32; the blocks of f16 operands lie in work space meanwhile.
//! Rounding: once, when an output is stored, to nearest or at random as the program says; what an output held before is widened first where the kernel adds onto it.

use smallvec::SmallVec;
use superstep_ir::types::DType;

use super::at_random::{Stretch, round_at_random};
use super::{Held, Isa, Kernel, Mismatch, Operand, Scratch, Vertex, VertexMemory, half};
use crate::exchange::Pieces;

/// Floats between the blocks of two operands in work space start at multiples of a cache line.
const ALIGNMENT: usize = 16;

pub(super) struct Mixed {
    pub(super) inner: Box<dyn Kernel>,
    /// The kernel also reads what its outputs held before.
    pub(super) reads_output: bool,
    pub(super) isa: Isa,
}

fn is_half(operand: &Operand<'_>) -> bool {
    operand.dtype() == DType::F16
}

/// The operands with those of halves moved to work space, and the floats that takes.
fn widened<'v>(vertex: &Vertex<'v>) -> (Vertex<'v>, usize) {
    let mut next = 0;
    let mut place = |operand: &Operand<'v>| {
        if !is_half(operand) {
            return *operand;
        }
        let at = next;
        next += operand.elements().next_multiple_of(ALIGNMENT);
        operand.in_work_space(at * size_of::<f32>(), DType::F32)
    };
    let inputs: SmallVec<_> = vertex.inputs.iter().map(&mut place).collect();
    let outputs: SmallVec<_> = vertex.outputs.iter().map(&mut place).collect();
    let vertex = Vertex {
        inputs,
        outputs,
        adds: vertex.adds,
    };
    (vertex, next)
}

/// The floats of an operand in work space.
fn floats<'w>(work: &'w mut [f32], operand: &Operand<'_>) -> &'w mut [f32] {
    &mut work[operand.offset / size_of::<f32>()..][..operand.elements()]
}

impl Kernel for Mixed {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        self.inner.check(vertex)
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        let operands = vertex.inputs.iter().chain(&vertex.outputs);
        let halves = operands.filter(|o| is_half(o)).map(Operand::elements);
        self.inner.nanoseconds(vertex) + halves.sum::<usize>() as f64 * 0.2
    }

    fn takes_pieces(&self) -> bool {
        self.inner.takes_pieces()
    }

    fn run_on_pieces(
        &self,
        pieces: &Pieces<'_>,
        memory: &mut VertexMemory<'_, '_>,
        scratch: &mut Scratch,
    ) {
        self.around(memory, scratch, false, &mut |memory, scratch| {
            self.inner.run_on_pieces(pieces, memory, scratch);
        });
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        self.around(memory, scratch, true, &mut |memory, scratch| {
            self.inner.run(memory, scratch);
        });
    }
}

/// Runs the kernel inside.
type Inner<'i> = &'i mut dyn FnMut(&mut VertexMemory<'_, '_>, &mut Scratch);

impl Mixed {
    /// `inner` between widening and narrowing; `with_inputs` when it reads inputs from the memory that it is given.
    fn around(
        &self,
        memory: &mut VertexMemory<'_, '_>,
        scratch: &mut Scratch,
        with_inputs: bool,
        inner: Inner<'_>,
    ) {
        let vertex = memory.vertex();
        let (wide, total) = widened(vertex);
        let mut work = std::mem::take(&mut scratch.wide);
        if work.len() < total {
            work.resize(total, 0.0);
        }
        let held = std::mem::take(&mut scratch.held);
        for (i, operand) in vertex.inputs.iter().enumerate() {
            let known = held.get(i).copied().flatten();
            let now = memory.on_neighbour(i).map(|address| Held {
                superstep: scratch.superstep,
                halves: (address, operand.elements()),
                offset: wide.inputs[i].offset,
            });
            let now = now.filter(|_| with_inputs && is_half(operand));
            scratch.held.push(now);
            if with_inputs && is_half(operand) && (now.is_none() || now != known) {
                let to = floats(&mut work, &wide.inputs[i]);
                half::widen(self.isa, memory.input(i), to);
            }
        }
        for (o, operand) in vertex.outputs.iter().enumerate() {
            if self.reads_output && is_half(operand) {
                let to = floats(&mut work, &wide.outputs[o]);
                half::widen(self.isa, memory.output(o), to);
            }
        }
        inner(&mut memory.with_work_space(&wide, &mut work), scratch);
        for (o, operand) in vertex.outputs.iter().enumerate() {
            if is_half(operand) {
                let from = floats(&mut work, &wide.outputs[o]);
                if let Some(at_random) = memory.at_random() {
                    let mut stretches: SmallVec<[Stretch; 64]> = SmallVec::new();
                    operand.stretches(|first, len| stretches.push(Stretch { first, len }));
                    round_at_random(self.isa, at_random.numbers(o), &stretches, from);
                }
                half::narrow(self.isa, from, memory.output(o));
            }
        }
        scratch.wide = work;
    }
}

#[cfg(test)]
mod tests;
