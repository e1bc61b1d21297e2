//! What the user decides about the placement of a module.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use superstep_ir::types::Real;

use crate::plan::matmul::PlanStyle;
use crate::recompute::Again;
use crate::serialise::Serialise;

/// What the user decides about the placement of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementOptions {
    /// Decoder layers on each IPU, or each group of them; absent: as many as the model needs, evenly filled.
    pub layers_per_ipu: Option<Vec<u32>>,
    /// Micro-batches of an optimiser step, or of an inference; 0 counts as 1.
    pub gradient_accumulation_steps: u32,
    /// Which styles of execution products may choose from.
    pub matmul_plan: PlanStyle,
    /// IPUs over which a layer is divided; 0 counts as 1. Then every entry of `layers_per_ipu` is a group of so many.
    pub tensor_parallel: u32,
    /// All IPUs work at the same time, each on another micro-batch; else one after the other on the same.
    pub pipelined: bool,
    pub recompute: Recompute,
    /// Partial sums of products of f16 operands are f16, else f32.
    pub half_partials: bool,
    /// Stores to f16 round at random; the seed is stream `rounding_seed`. Replicas are to be given the same seeds: then they round alike
    /// what they have alike, and keep equal weights.
    pub stochastic_rounding: bool,
    /// Copies of the model, each with its own IPUs and micro-batches; 0 counts as 1.
    pub replicas: u32,
    /// Least elements of a weight whose optimiser state is shared out over the replicas; absent: every replica has all of it.
    pub sharded: Option<usize>,
    /// Optimiser state rests in streaming memory.
    pub offchip: bool,
    /// IPUs that a replica has, where `layers_per_ipu` is absent; without either as few as the model needs.
    pub ipus_per_replica: Option<u32>,
    /// Products to make in slices.
    pub serialise: Vec<Serialise>,
    /// Share of tile memory that an op may use for its temporaries: none given, one for all IPUs, or one each.
    pub matmul_proportion: Vec<Real>,
}

/// Layers whose forward ops run again before their backward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    #[default]
    Nothing,
    EveryLayer,
    Layers(BTreeSet<u32>),
    /// Every layer; these keep what their products gave, other than scores.
    ButProducts(BTreeSet<u32>),
}

impl PlacementOptions {
    /// IPUs of a group.
    pub fn members(&self) -> u32 {
        self.tensor_parallel.max(1)
    }
}

impl Recompute {
    /// The last layer that is named.
    pub(super) fn last_named(&self) -> Option<u32> {
        match self {
            Recompute::Nothing | Recompute::EveryLayer => None,
            Recompute::Layers(layers) | Recompute::ButProducts(layers) => layers.last().copied(),
        }
    }

    /// What of a layer runs again.
    pub fn of(&self, layer: u32) -> Again {
        match self {
            Recompute::Nothing => Again::Nothing,
            Recompute::EveryLayer => Again::Everything,
            Recompute::Layers(layers) if layers.contains(&layer) => Again::Everything,
            Recompute::Layers(_) => Again::Nothing,
            Recompute::ButProducts(kept) if kept.contains(&layer) => Again::ButProducts,
            Recompute::ButProducts(_) => Again::Everything,
        }
    }
}
