//! Pure problems: nothing here knows of tensors, tiles or machines.

pub mod fit;
pub mod offsets;
pub mod stage_split;
