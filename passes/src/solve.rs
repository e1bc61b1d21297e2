//! Pure problems: nothing here knows of tensors, tiles or machines.

pub mod offsets;
pub mod stage_split;
