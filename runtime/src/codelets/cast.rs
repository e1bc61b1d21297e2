//! `(x) → y`: element type conversion. Between floats it is a copy: loads widen and stores round.

use superstep_ir::types::DType;

use super::vertex::expect_elements;
use super::vertex_memory::{numbers, numbers_mut};
use super::{Kernel, Mismatch, Scratch, Vertex, VertexMemory};

/// Converts element by element.
struct Cast<F, T>(fn(F) -> T);

/// `None` for pairs of types that have no conversion.
pub(super) fn kernel(from: DType, to: DType) -> Option<Box<dyn Kernel>> {
    use DType::{Bool, F32, I32, U16, U32};
    Some(match (from, to) {
        (F32, F32) | (I32, I32) | (U32, U32) | (I32, U32) | (U32, I32) => {
            Box::new(Cast(|x: u32| x))
        }
        (U16, U16) => Box::new(Cast(|x: u16| x)),
        (Bool, Bool) => Box::new(Cast(|x: u8| x)),
        (I32, F32) => Box::new(Cast(|x: i32| x as f32)),
        (U32, F32) => Box::new(Cast(|x: u32| x as f32)),
        (F32, I32) => Box::new(Cast(|x: f32| x.round_ties_even() as i32)),
        (F32, U32) => Box::new(Cast(|x: f32| x.round_ties_even() as u32)),
        _ => return None,
    })
}

impl<F: bytemuck::Pod + Send + Sync, T: bytemuck::Pod + Send + Sync> Kernel for Cast<F, T> {
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch> {
        expect_elements(
            "the result",
            &vertex.outputs[0],
            vertex.inputs[0].elements(),
        )
    }

    fn run(&self, memory: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        let ([x], [y]) = memory.split();
        let (x, y): (&[F], &mut [T]) = (numbers(x), numbers_mut(y));
        for (y, &x) in y.iter_mut().zip(x) {
            *y = self.0(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use superstep_ir::types::DType;

    use super::*;
    use crate::codelets::testing::{integers, run, whole};

    #[test]
    fn between_floats_and_integers() {
        let to_int = kernel(DType::F32, DType::I32).expect("f32 to i32");
        let out = run(
            &*to_int,
            &[whole(&[4], &[0.5, 1.5, -2.5, 3.0])],
            &[integers(DType::I32, &[4], &[0; 4])],
        );
        assert_eq!(
            out[0]
                .iter()
                .map(|x| x.to_bits() as i32)
                .collect::<Vec<_>>(),
            [0, 2, -2, 3]
        );
        let to_float = kernel(DType::I32, DType::F32).expect("i32 to f32");
        let out = run(
            &*to_float,
            &[integers(DType::I32, &[3], &[-7, 0, 24])],
            &[whole(&[3], &[9.0; 3])],
        );
        assert_eq!(out[0], [-7.0, 0.0, 24.0]);
        assert!(kernel(DType::Bool, DType::F16).is_none());
    }
}
