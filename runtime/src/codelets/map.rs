//! Elementwise expressions in one sweep: the block is cut into chunks that stay in L1, and each node is one vectorised loop over a
//! chunk.
//!
//! Operands that have the output's extents are read where they lie; scalars and trailing-axes operands are repeated into a register
//! (a buffer of one chunk). Outputs are written after all nodes of a chunk, so an output may lie on an operand of its own extents.

mod ops;
mod schedule;

use smallvec::SmallVec;
use superstep_ir::op::MapExpr;

use super::{Isa, Kernel, Mismatch, Operand, Scratch, Vertex, VertexMemory};
use schedule::{Instruction, Schedule, Source};

/// Elements of a chunk: a register takes 2 KiB, so a dozen of them fit into L1.
const CHUNK: usize = 512;

pub(super) struct Map {
    schedule: Schedule,
    nanoseconds_per_element: f64,
    isa: Isa,
}

impl Map {
    /// `expression` must be well formed.
    pub(super) fn new(expression: &MapExpr, isa: Isa) -> Map {
        let schedule = Schedule::of(expression);
        let nanoseconds_per_element = 0.3
            + schedule
                .instructions
                .iter()
                .map(ops::nanoseconds)
                .sum::<f64>();
        Map {
            schedule,
            nanoseconds_per_element,
            isa,
        }
    }
}

/// How an operand's block becomes as large as the output's.
#[derive(Clone, Copy)]
enum Extent {
    Full,
    Scalar,
    /// This many elements, again and again.
    Trailing(usize),
}

fn without_leading_ones(dims: &[u32]) -> &[u32] {
    &dims[dims.iter().take_while(|&&e| e == 1).count()..]
}

/// `None` when the operand does not broadcast to `dims`.
fn extent(operand: &Operand<'_>, dims: &[u32]) -> Option<Extent> {
    let own = without_leading_ones(operand.dims());
    let dims = without_leading_ones(dims);
    if own == dims {
        return Some(Extent::Full);
    }
    if own.is_empty() {
        return Some(Extent::Scalar);
    }
    dims.ends_with(own)
        .then_some(Extent::Trailing(operand.elements()))
}

impl Kernel for Map {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        let dims = vertex.outputs[0].dims();
        for output in &vertex.outputs[1..] {
            super::vertex::expect_elements("an output", output, vertex.outputs[0].elements())?;
        }
        for (i, operand) in vertex.inputs.iter().enumerate() {
            if extent(operand, dims).is_none() {
                let reason = format!(
                    "has extents {:?}, which do not broadcast to {dims:?}",
                    operand.dims()
                );
                return Err(Mismatch {
                    operand: format!("operand {i}"),
                    reason,
                });
            }
        }
        Ok(())
    }

    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex.outputs[0].elements() as f64 * self.nanoseconds_per_element
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch) {
        let vertex = memory.vertex();
        let total = vertex.outputs[0].elements();
        let dims = vertex.outputs[0].dims();
        let registers = &mut scratch.floats;
        if registers.len() < self.schedule.registers * CHUNK {
            registers.resize(self.schedule.registers * CHUNK, 0.0);
        }
        for &(value, register) in &self.schedule.constants {
            register_mut(registers, register)[..CHUNK.min(total)].fill(value);
        }
        let extents: SmallVec<[Extent; 4]> = vertex
            .inputs
            .iter()
            .map(|o| extent(o, dims).unwrap_or(Extent::Scalar))
            .collect();
        let mut windows: SmallVec<[Window; 4]> = SmallVec::new();
        for first in (0..total).step_by(CHUNK) {
            let len = CHUNK.min(total - first);
            windows.clear();
            for (i, &extent) in extents.iter().enumerate() {
                let register = self.schedule.operand_registers[i];
                let own = register_mut(registers, register);
                let at = window(memory.input(i), extent, first, len, own);
                windows.push(at.map_or(Window::Register(register), Window::Operand));
            }
            for instruction in &self.schedule.instructions {
                execute(self.isa, instruction, memory, registers, &windows, len);
            }
            for (o, &register) in self.schedule.outputs.iter().enumerate() {
                let to: &mut [f32] = &mut memory.output(o)[first..first + len];
                to.copy_from_slice(&registers[register as usize * CHUNK..][..len]);
            }
        }
    }
}

/// Where the elements of an operand for the current chunk are.
#[derive(Clone, Copy)]
enum Window {
    /// In the operand, from this element on.
    Operand(usize),
    Register(u16),
}

/// Finds elements `first .. first + len` of an operand that is repeated to the output's extents: `Some(at)` when they lie one after
/// another in the operand, else they are written to `register`.
fn window(
    operand: &[f32],
    extent: Extent,
    first: usize,
    len: usize,
    register: &mut [f32],
) -> Option<usize> {
    match extent {
        Extent::Full => Some(first),
        Extent::Scalar => {
            if first == 0 {
                register[..len].fill(operand[0]);
            }
            None
        }
        Extent::Trailing(period) => {
            let at = first % period;
            if at + len <= period {
                return Some(at);
            }
            // The same for every chunk, where a chunk is a whole number of periods.
            if first == 0 || !CHUNK.is_multiple_of(period) {
                repeat(&operand[..period], at, &mut register[..len]);
            }
            None
        }
    }
}

/// Fills `to` with `period` again and again, from its element `at` on.
fn repeat(period: &[f32], at: usize, to: &mut [f32]) {
    let head = (period.len() - at).min(to.len());
    let (first, rest) = to.split_at_mut(head);
    first.copy_from_slice(&period[at..at + head]);
    for part in rest.chunks_mut(period.len()) {
        part.copy_from_slice(&period[..part.len()]);
    }
}

fn register_mut(registers: &mut [f32], register: u16) -> &mut [f32] {
    &mut registers[register as usize * CHUNK..][..CHUNK]
}

fn execute(
    isa: Isa,
    instruction: &Instruction,
    memory: &VertexMemory<'_, '_>,
    registers: &mut [f32],
    windows: &[Window],
    len: usize,
) {
    let target = instruction.target() as usize * CHUNK;
    let (below, rest) = registers.split_at_mut(target);
    let (to, above) = rest.split_at_mut(CHUNK);
    let from = |register: u16| {
        let at = register as usize * CHUNK;
        // A schedule never reads the register it writes.
        if at < target {
            &below[at..at + len]
        } else {
            &above[at - target - CHUNK..][..len]
        }
    };
    let read = |source: Source| match source {
        Source::Register(register) => from(register),
        Source::Operand(index) => match windows[index as usize] {
            Window::Operand(at) => &memory.input(index as usize)[at..at + len],
            Window::Register(register) => from(register),
        },
    };
    let to = &mut to[..len];
    match *instruction {
        Instruction::Copy { from, .. } => to.copy_from_slice(read(from)),
        Instruction::Unary { op, x, .. } => ops::unary(isa, op, read(x), to),
        Instruction::Binary { op, x, y, .. } => ops::binary(isa, op, read(x), read(y), to),
    }
}

#[cfg(test)]
mod tests;
