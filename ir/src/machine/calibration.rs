//! The few numbers that were fitted or chosen, not looked up, apart from the documented facts. Each says what it stands on.

/// Worker cycles to turn one 4 × 4 block of f16 or one 2 × 2 block of f32, both operands streaming.
///
/// A block is loaded and stored 64 bits at a time with its words exchanged in registers in between; no vendor figure is public.
/// Four issues a block make 0.25 (f16) and 1 (f32) tile cycles an element; independent kernels measured 1 to 10 (mk2.md §3.5, §8).
pub const TRANSPOSE_CYCLES_PER_BLOCK: u64 = 4;

/// Worker cycles before and after the blocks of a transpose.
pub const TRANSPOSE_OVERHEAD: u64 = 20;

/// Worker cycles around the loop of a fused elementwise vertex; PopLibs publishes none for generated codelets.
pub const MAP_OVERHEAD: u64 = 30;

/// Factor on the summed instruction costs of a fused elementwise vertex, in sixteenths (16 = as summed). Plausible: 0.7 to 1.5.
pub const MAP_SIXTEENTHS: u64 = 16;

/// Worker cycles to pick, compare and place one label of a row: the cost of one row of an embedding look-up of width 1.
pub const LABEL_CYCLES: u64 = 21;
