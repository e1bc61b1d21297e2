//! The road of a graph as a list of passes, with the reason for its order.

use crate::accumulate_into::AccumulateInto;
use crate::cse::Cse;
use crate::dead_code::DeadCode;
use crate::fold_constants::FoldConstants;
use crate::fuse_elementwise::FuseElementwise;
use crate::pass::Pass;
use crate::simplify::Simplify;

/// Every pass that needs no further settings, by name; `-` and `_` are the same.
pub fn pass_by_name(name: &str) -> Option<Box<dyn Pass>> {
    let name = name.replace('-', "_");
    all().into_iter().find(|pass| pass.name() == name)
}

/// One of each pass that needs no further settings, in alphabetical order.
pub fn all() -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(AccumulateInto),
        Box::new(Cse),
        Box::new(DeadCode),
        Box::new(FoldConstants),
        Box::new(FuseElementwise),
        Box::new(Simplify),
    ]
}

/// What every graph goes through between its construction and planning.
pub fn standard() -> Vec<Box<dyn Pass>> {
    vec![
        // Constants to the right and as scalars: the passes after it look for them there.
        Box::new(FoldConstants),
        // Equal ops as one and no dead readers: later passes ask who reads a value, and count.
        Box::new(Cse),
        Box::new(DeadCode),
        // Fewer and larger ops: what is left is worth placing, and worth fusing.
        Box::new(Simplify),
        // Products take additions before the elementwise ops do.
        Box::new(AccumulateInto),
        Box::new(FuseElementwise),
        // Copies that were made for a map and found none become one with their source again.
        Box::new(Cse),
        Box::new(DeadCode),
    ]
}
