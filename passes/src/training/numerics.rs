//! In which element types training keeps its state, and how gradients are kept inside the range of a half.

use superstep_ir::types::DType;

/// Types and guards of training. The default is f32 throughout, with no loss scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numerics {
    /// Accumulators and first moments are f16, and so is what lies between them and the weights:
    ///
    /// - an accumulator is the mean over the micro-batches so far, not their sum: it does not grow with their number;
    /// - the gradient is rounded when the loss scale is taken out, before the moments;
    /// - `m̂` and the direction `m̂ / (√v̂ + ε)` are rounded, then decay is added and the weight moved.
    ///
    /// Second moments and scalars stay f32.
    pub half_moments: bool,
    /// The gradient of the loss starts with the f32 scalar of stream `loss_scale`, read by both graphs, and the update divides by it.
    pub loss_scale: bool,
    /// A gradient that is not finite changes nothing: neither weights, nor moments, nor the step counter.
    pub skip_overflow: bool,
}

impl Numerics {
    /// Type of accumulators, first moments, and gradients in the update.
    pub const fn moments(&self) -> DType {
        match self.half_moments {
            true => DType::F16,
            false => DType::F32,
        }
    }
}
