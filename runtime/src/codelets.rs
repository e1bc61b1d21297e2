//! Codelets: the arithmetic of one vertex on the bytes of its own tile.
//!
//! A [`Codelet`] of the program becomes a [`Kernel`] when the program is loaded: the element types are resolved then, and every
//! vertex is checked once. A kernel sees the bytes of its operands; the hot loops below it are free
//! functions over slices. One file a family.

mod at_random;
mod cast;
mod dropout;
mod fill;
mod half;
mod isa;
mod lanes;
mod layer_norm;
mod loss;
mod map;
mod math;
mod matmul;
mod mixed;
mod reduce;
mod ring;
mod softmax;
mod sum_partials;
mod tables;
mod transpose;
mod turn;
mod vertex;
mod vertex_memory;

#[cfg(test)]
pub(crate) mod testing;

use smallvec::SmallVec;
use superstep_ir::program::Codelet;
use superstep_ir::types::DType;

use crate::exchange::Pieces;

pub(crate) use half::widen;
pub use isa::Isa;
pub use matmul::{Old, Product, multiply};
pub(crate) use vertex::{Mismatch, Operand, Vertex};
pub(crate) use vertex_memory::{AtRandom, VertexMemory, apart};

/// Work space of one thread; contents mean nothing between two vertices.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) floats: Vec<f32>,
    pub(crate) doubles: Vec<f64>,
    /// A sum beside the result that it is added to.
    pub(crate) sums: Vec<f32>,
    /// Operands that are stored as halves.
    pub(crate) wide: Vec<f32>,
    /// By input of the last vertex with such operands: what of other tiles' memory is in `wide`.
    pub(crate) held: SmallVec<[Option<Held>; 4]>,
    /// Number of the superstep that runs.
    pub(crate) superstep: u64,
}

/// Halves of another tile, which nobody writes in a superstep, as floats in work space: vertices that share them come one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) superstep: u64,
    /// Address and number of the halves.
    pub(crate) halves: (usize, usize),
    /// First byte in work space.
    pub(crate) offset: usize,
}

/// A codelet made ready for the element types of one vertex group.
pub(crate) trait Kernel: Send + Sync {
    /// Whether the blocks of one vertex fit together. The runtime asks for every vertex before it runs any.
    fn check(&self, vertex: &Vertex<'_>) -> Result<(), Mismatch>;

    /// About how long a vertex takes on the host, in nanoseconds; decides how tiles are spread over threads, nothing else.
    fn nanoseconds(&self, vertex: &Vertex<'_>) -> f64 {
        vertex
            .outputs
            .iter()
            .chain(&vertex.inputs)
            .map(|o| o.elements() as f64)
            .sum::<f64>()
            * 0.5
    }

    /// Whether [`Kernel::run_on_pieces`] is there.
    fn takes_pieces(&self) -> bool {
        false
    }

    /// Computes one checked vertex whose only input is given in pieces, in ascending order for each column of its result.
    fn run_on_pieces(&self, _: &Pieces<'_>, _: &mut VertexMemory<'_, '_>, _: &mut Scratch) {
        unreachable!("only where `takes_pieces`");
    }

    /// Computes one checked vertex.
    fn run(&self, memory: &mut VertexMemory<'_, '_>, scratch: &mut Scratch);
}

/// Why a codelet cannot work on its operands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeletError {
    #[error(
        "`{codelet}` takes {takes} operands and gives {gives} results, not {inputs} and {outputs}"
    )]
    Arity {
        codelet: &'static str,
        takes: &'static str,
        gives: usize,
        inputs: usize,
        outputs: usize,
    },
    #[error("`{codelet}` has no arithmetic for operands of {inputs:?} and results of {outputs:?}")]
    Types {
        codelet: &'static str,
        inputs: Vec<DType>,
        outputs: Vec<DType>,
    },
    #[error("`{codelet}` holds an expression whose nodes or outputs do not exist")]
    Expression { codelet: &'static str },
}

/// The kernel of `codelet` for operands of these element types.
pub(crate) fn kernel(
    codelet: &Codelet,
    inputs: &[DType],
    outputs: &[DType],
    isa: Isa,
) -> Result<Box<dyn Kernel>, CodeletError> {
    check_arity(codelet, inputs.len(), outputs.len())?;
    let unsupported = || CodeletError::Types {
        codelet: codelet.name(),
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
    };
    if let Codelet::Fill { value } = codelet {
        return fill::kernel(value.0, outputs[0]).ok_or_else(unsupported);
    }
    if let Some(kernel) = ring_kernel(codelet) {
        let fits = ring::takes_types(inputs, outputs);
        return fits.then_some(kernel).ok_or_else(unsupported);
    }
    if let Codelet::Cast = codelet
        && !(inputs[0].is_float() && outputs[0].is_float())
    {
        return cast::kernel(inputs[0], outputs[0]).ok_or_else(unsupported);
    }
    if !takes_types(codelet, inputs, outputs) {
        return Err(unsupported());
    }
    if let Codelet::WriteRows = codelet {
        let fits = inputs[1] == outputs[0];
        return fits
            .then(|| tables::write_rows(outputs[0]))
            .ok_or_else(unsupported);
    }
    if let Codelet::Gather { first } = codelet
        && inputs[0] == outputs[0]
    {
        return Ok(tables::gather(inputs[0], *first));
    }
    let inner = float_kernel(codelet, isa).ok_or_else(unsupported)?;
    if !inputs.iter().chain(outputs).any(|&d| d == DType::F16) {
        return Ok(inner);
    }
    Ok(Box::new(mixed::Mixed {
        inner,
        reads_output: codelet.reads_output(),
        isa,
    }))
}

/// The kernel for operands whose floats are all `f32`.
fn float_kernel(codelet: &Codelet, isa: Isa) -> Option<Box<dyn Kernel>> {
    Some(match codelet {
        Codelet::Matmul {
            transpose_a,
            transpose_b,
            accumulate,
        } => {
            let (transpose_a, transpose_b, accumulate) = (*transpose_a, *transpose_b, *accumulate);
            Box::new(matmul::Matmul {
                transpose_a,
                transpose_b,
                accumulate,
                isa,
            })
        }
        Codelet::Map(expression) => Box::new(map::Map::new(expression, isa)),
        Codelet::Reduce { kind } => Box::new(reduce::Reduce { kind: *kind, isa }),
        Codelet::SumPartials { accumulate } => Box::new(sum_partials::SumPartials {
            accumulate: *accumulate,
            isa,
        }),
        Codelet::LayerNorm { epsilon } => Box::new(layer_norm::LayerNorm {
            epsilon: epsilon.0,
            isa,
        }),
        Codelet::LayerNormGrad => Box::new(layer_norm::LayerNormGrad { isa }),
        Codelet::LayerNormParamGrad => Box::new(layer_norm::LayerNormParamGrad { isa }),
        Codelet::Softmax { scale, causal } => Box::new(softmax::Softmax {
            scale: scale.0 as f32,
            causal: *causal,
            isa,
        }),
        Codelet::CausalMask => Box::new(softmax::CausalMask),
        Codelet::MaskBeyond => Box::new(softmax::MaskBeyond),
        Codelet::SoftmaxGrad { scale } => Box::new(softmax::SoftmaxGrad {
            scale: scale.0 as f32,
            isa,
        }),
        Codelet::RowMaxSum { padding } => Box::new(loss::RowMaxSum {
            padding: *padding as usize,
            isa,
        }),
        Codelet::JoinLogSumExp => Box::new(loss::JoinLogSumExp),
        Codelet::PickLabel { first } => Box::new(loss::PickLabel { first: *first }),
        Codelet::RowLoss => Box::new(loss::RowLoss),
        Codelet::CrossEntropyGrad { first, padding } => Box::new(loss::CrossEntropyGrad {
            first: *first,
            padding: *padding as usize,
            isa,
        }),
        Codelet::Gather { first } => tables::gather(DType::F32, *first),
        Codelet::Cast => cast::kernel(DType::F32, DType::F32)?,
        Codelet::ScatterAdd { first } => Box::new(tables::ScatterAdd { first: *first }),
        Codelet::WriteRows => tables::write_rows(DType::F32),
        Codelet::Dropout { p, key } => Box::new(dropout::Dropout { p: p.0, key: *key }),
        Codelet::Transpose => Box::new(transpose::Transpose { isa }),
        Codelet::Fill { .. } | Codelet::Stash | Codelet::Restore | Codelet::Advance => {
            return None;
        }
    })
}

fn ring_kernel(codelet: &Codelet) -> Option<Box<dyn Kernel>> {
    Some(match codelet {
        Codelet::Stash => Box::new(ring::Stash),
        Codelet::Restore => Box::new(ring::Restore),
        Codelet::Advance => Box::new(ring::Advance),
        _ => return None,
    })
}

/// Numbers of operands and results.
fn check_arity(codelet: &Codelet, inputs: usize, outputs: usize) -> Result<(), CodeletError> {
    let (takes, gives) = match codelet {
        Codelet::Map(expression) => {
            if !expression.is_well_formed() {
                return Err(CodeletError::Expression {
                    codelet: codelet.name(),
                });
            }
            ("as many as its expression", expression.outputs.len())
        }
        Codelet::Fill { .. } | Codelet::Advance => ("no", 1),
        Codelet::LayerNorm { .. } => ("3", 3),
        Codelet::LayerNormGrad => ("5", 1),
        Codelet::LayerNormParamGrad => ("4", 2),
        Codelet::RowMaxSum { .. } => ("1", 2),
        Codelet::CrossEntropyGrad { .. } => ("4", 1),
        Codelet::RowLoss => ("3", 1),
        Codelet::Matmul { .. }
        | Codelet::SoftmaxGrad { .. }
        | Codelet::JoinLogSumExp
        | Codelet::PickLabel { .. }
        | Codelet::Gather { .. }
        | Codelet::ScatterAdd { .. }
        | Codelet::WriteRows
        | Codelet::MaskBeyond
        | Codelet::Stash
        | Codelet::Restore
        | Codelet::Dropout { .. } => ("2", 1),
        Codelet::Reduce { .. }
        | Codelet::SumPartials { .. }
        | Codelet::Softmax { .. }
        | Codelet::CausalMask
        | Codelet::Transpose
        | Codelet::Cast => ("1", 1),
    };
    let enough = match codelet {
        Codelet::Map(expression) => inputs == expression.operands as usize,
        Codelet::Fill { .. } | Codelet::Advance => inputs == 0,
        _ => takes.parse() == Ok(inputs),
    };
    if enough && outputs == gives {
        return Ok(());
    }
    Err(CodeletError::Arity {
        codelet: codelet.name(),
        takes,
        gives,
        inputs,
        outputs,
    })
}

/// Whether there is arithmetic for these element types: ids and labels are `i32`, seeds `u32`, all others floats of either width. The two
/// operands of a product have the same.
fn takes_types(codelet: &Codelet, inputs: &[DType], outputs: &[DType]) -> bool {
    let fits = |(i, &d): (usize, &DType)| match (codelet, i) {
        (
            Codelet::PickLabel { .. } | Codelet::CrossEntropyGrad { .. } | Codelet::Gather { .. },
            1,
        ) => d == DType::I32,
        (Codelet::RowLoss, 2) | (Codelet::ScatterAdd { .. } | Codelet::WriteRows, 0) => {
            d == DType::I32
        }
        (Codelet::MaskBeyond, 1) => d == DType::I32,
        (Codelet::Dropout { .. }, 1) => d == DType::U32,
        (Codelet::Matmul { .. }, _) => d == inputs[0] && d.is_float(),
        _ => d.is_float(),
    };
    inputs.iter().enumerate().all(fits) && outputs.iter().all(|d| d.is_float())
}
