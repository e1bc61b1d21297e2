//! `() → out`: every element becomes one value.

use half::f16;
use superstep_ir::half::nearest;
use superstep_ir::types::DType;

use super::{Kernel, Mismatch, Scratch, Vertex, VertexMemory};

struct Fill<T>(T);

/// The nearest half; constants are never rounded stochastically.
fn half_bits(value: f64) -> u16 {
    // A half is exact as an f32.
    f16::from_f32_const(nearest(value) as f32).to_bits()
}

/// The value rounded to the element type.
pub(super) fn kernel(value: f64, to: DType) -> Option<Box<dyn Kernel>> {
    Some(match to {
        DType::F32 => Box::new(Fill((value as f32).to_bits())),
        DType::F16 => Box::new(Fill(half_bits(value))),
        DType::I32 => Box::new(Fill(value as i32 as u32)),
        DType::U32 => Box::new(Fill(value as u32)),
        DType::U16 => Box::new(Fill(value as u16)),
        DType::Bool => Box::new(Fill(u8::from(value != 0.0))),
    })
}

impl<T: bytemuck::Pod + Send + Sync> Kernel for Fill<T> {
    fn check(&self, _: &Vertex<'_>) -> Result<(), Mismatch> {
        Ok(())
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        memory.output(0).fill(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codelets::testing::{run, whole};

    #[test]
    fn fills_the_block_alone() {
        let kernel = kernel(0.1, DType::F32).expect("f32 can be filled");
        assert_eq!(
            run(&*kernel, &[], &[whole(&[3, 5], &[7.0; 15])])[0],
            [0.1; 15]
        );
        assert!(run(&*kernel, &[], &[whole(&[0], &[])])[0].is_empty());
    }
}
