//! What a pipeline beat takes when it is executed as the published runs were, not as this compiler does it: an estimate from the formulae of
//! PopLibs' own estimators, op by op.
//!
//! Choices of those runs (gpt2-recipe.md §2–4, mk2.md §3.9, §4): products by PopLibs' planner within `matmul_proportion`, operands brought whole
//! and rearranged where heads are split and joined; every elementwise op of the traced graph a compute set of its own; softmax in seven of
//! them; the masks and scales of the attention as the framework wrote them; all layers run forward twice. Nothing here is fitted to a run.

mod gpt2;
mod kernels;

use serde::Serialize;
use superstep_ir::machine::Machine;

use crate::frontend::Gpt2Config;
pub use gpt2::{GELU, MASKS, Plans, estimate};

/// Which published graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Transformers' modules as they are: `gelu_new` op by op, its cube a `pow` of two tensors; scores divided, masked by a select, and the
    /// attention mask added.
    Transformers,
    /// Graphcore's examples: one vertex for GELU, scores multiplied by 1/8, masked by a product and a sum.
    Examples,
}

impl Variant {
    pub const ALL: [Variant; 2] = [Variant::Transformers, Variant::Examples];

    pub const fn meaning(self) -> &'static str {
        match self {
            Variant::Transformers => "Transformers' graph: gelu_new op by op, masks by select",
            Variant::Examples => "Graphcore examples' graph: fused GELU, masks by product and sum",
        }
    }
}

/// What is executed.
#[derive(Clone, Debug)]
pub struct Execution<'a> {
    pub machine: &'a Machine,
    pub config: &'a Gpt2Config,
    pub block_size: usize,
    pub batch_size: usize,
    pub layers_per_ipu: &'a [u32],
    /// Share of tile memory that a product may use for temporaries.
    pub matmul_proportion: f64,
    /// Serial slices of the head.
    pub head_slices: usize,
    pub variant: Variant,
    pub recompute: bool,
    pub rearrangement: Rearrangement,
}

/// How an operand that lies otherwise than a product wants it is estimated to be brought into order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rearrangement {
    /// The planner's own figure: 5/4 cycles for each element that is copied, and an exchange.
    Planner,
    /// PopLibs' regression of measured rearrangements, in atoms of 4 bytes: 3.125 cycles a byte, and 587.
    Regression,
}

/// An estimated beat.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Beat {
    pub variant: Variant,
    pub meaning: &'static str,
    pub cycles: u64,
    pub seconds: f64,
    /// The IPU that the others wait for.
    pub busiest_ipu: u32,
    /// By IPU, without the exchange between them.
    pub ipu_cycles: Vec<u64>,
    /// Between IPUs: barrier and links.
    pub exchange_cycles: u64,
    /// What the busiest IPU does, by kind of work, the most cycles first.
    pub parts: Vec<Part>,
}

impl Beat {
    /// Cycles of one kind of work on the busiest IPU.
    pub fn part(&self, name: &str) -> u64 {
        let part = self.parts.iter().find(|part| part.name == name);
        part.map_or(0, |part| part.cycles)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    pub name: &'static str,
    pub cycles: u64,
}
