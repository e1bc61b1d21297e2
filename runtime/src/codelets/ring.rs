//! Rings of entries at an index that a counter in tile memory gives: what a pipeline keeps of the micro-batches on their way.

use superstep_ir::types::DType;

use super::vertex_memory::{numbers, numbers_mut};
use super::{Kernel, Mismatch, Operand, Scratch, Vertex, VertexMemory};

/// `(count: u32[1], x) → ring: [d, ..]` in place.
pub(super) struct Stash;

/// `(count: u32[1], ring: [d, ..]) → x`.
pub(super) struct Restore;

/// `() → count: u32[1]` in place.
pub(super) struct Advance;

/// Counters are `u32`, an entry is of its ring's type.
pub(super) fn takes_types(inputs: &[DType], outputs: &[DType]) -> bool {
    match inputs {
        [] => outputs == [DType::U32],
        [count, x] => *count == DType::U32 && outputs == [*x],
        _ => false,
    }
}

fn check(ring: &Operand<'_>, x: &Operand<'_>, count: &Operand<'_>) -> Result<(), Mismatch> {
    let mismatch = |reason: String| {
        let operand = "the ring".into();
        Err(Mismatch { operand, reason })
    };
    if count.elements() != 1 {
        return mismatch(format!("its counter has {} elements", count.elements()));
    }
    let (ring, x) = (ring.elements(), x.elements());
    match ring.checked_rem(x) {
        _ if ring == 0 && x == 0 => Ok(()),
        Some(0) if ring > 0 => Ok(()),
        _ => mismatch(format!("{ring} elements for entries of {x}")),
    }
}

/// Where in a ring of `ring` bytes the entry of `entry` bytes lies.
fn slot(count: u32, ring: usize, entry: usize) -> std::ops::Range<usize> {
    let entries = ring.checked_div(entry).unwrap_or(0).max(1);
    let start = count as usize % entries * entry;
    start..start + entry
}

impl Kernel for Stash {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        check(&vertex.outputs[0], &vertex.inputs[1], &vertex.inputs[0])
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let ([count, x], [ring]) = memory.split();
        let count = numbers::<u32>(count)[0];
        let at = slot(count, ring.len(), x.len());
        ring[at].copy_from_slice(x);
    }
}

impl Kernel for Restore {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        check(&vertex.inputs[1], &vertex.outputs[0], &vertex.inputs[0])
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let ([count, ring], [x]) = memory.split();
        let count = numbers::<u32>(count)[0];
        x.copy_from_slice(&ring[slot(count, ring.len(), x.len())]);
    }
}

impl Kernel for Advance {
    fn check(&self, _: &Vertex<'_>) -> Result<(), Mismatch> {
        Ok(())
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let ([], [count]) = memory.split();
        for count in numbers_mut::<u32>(count) {
            *count = count.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codelets::testing::{integers, run, whole};

    #[test]
    fn an_entry_comes_back_as_many_rounds_later_as_the_ring_has_entries() {
        let mut ring = whole(&[3, 2], &[0.0; 6]);
        for round in 0..7 {
            let count = integers(DType::U32, &[1], &[round]);
            let entry = whole(&[2], &[round as f32, -(round as f32)]);
            let held = run(&Stash, &[count.clone(), entry], &[ring.clone()])[0].clone();
            ring = whole(&[3, 2], &held);
            if round >= 2 {
                let count = integers(DType::U32, &[1], &[round - 2]);
                let back = run(&Restore, &[count, ring.clone()], &[whole(&[2], &[9.0; 2])]);
                assert_eq!(back[0], [(round - 2) as f32, -((round - 2) as f32)]);
            }
        }
    }

    #[test]
    fn counters_go_up_by_one() {
        let count = run(&Advance, &[], &[integers(DType::U32, &[1], &[41])]);
        assert_eq!(count[0][0].to_bits(), 42);
    }

    #[test]
    fn rings_hold_whole_entries() {
        assert_eq!(slot(5, 24, 8), 16..24);
        assert_eq!(slot(5, 0, 0), 0..0);
    }
}
