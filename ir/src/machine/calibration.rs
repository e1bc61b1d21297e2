//! The few numbers that were fitted or chosen, not looked up, apart from the documented facts. Each says what it stands on.

/// Worker cycles to turn one 4 × 4 block of f16: four loads and four stores of 64 bits, two in an issue, words exchanged in registers
/// in between. No vendor figure is public; the figure is that of mk2.md §3.5.
pub const TRANSPOSE_BLOCK_CYCLES: u64 = 4;

/// Worker cycles, and so tile cycles, to turn one element of anything else. Independent kernels measured 3 to 4 for packed panels and
/// 10 for indexed ones (ipu-stack). Plausible: 1 to 10 (mk2.md §8).
pub const TRANSPOSE_ELEMENT_CYCLES: u64 = 3;

/// Worker cycles before and after the blocks of a transpose.
pub const TRANSPOSE_OVERHEAD: u64 = 20;

/// Worker cycles around the loop of a fused elementwise vertex; PopLibs publishes none for generated codelets.
pub const MAP_OVERHEAD: u64 = 30;

/// Factor on the summed instruction costs of a fused elementwise vertex, in sixteenths (16 = as summed). Plausible: 0.7 to 1.5.
pub const MAP_SIXTEENTHS: u64 = 16;

/// Worker cycles to pick, compare and place one label of a row: the cost of one row of an embedding look-up of width 1.
pub const LABEL_CYCLES: u64 = 21;

/// Cycles that a tile of an exchange loses for every fragment it sends or receives: where the address jumps or the source changes, control
/// words ride between the data words. ipu-stack finds 0 to 2 words a fragment. Plausible: 0 to 2.
pub const EXCHANGE_FRAGMENT_CYCLES: u64 = 1;

/// Cycles around a copy inside a tile: starting six workers and waiting for them (ipu-stack measured 288). Plausible: 60 to 590 (PopLibs'
/// regression of rearrangements has 587).
pub const COPY_OVERHEAD: u64 = 288;

/// Cycles of a copy inside a tile for every fragment, beside those of its bytes: finding the next pair of addresses. Plausible: 1 to 12
/// (PopLibs' regression: 0.44 cycles a byte in atoms of 8 bytes, 3.1 in atoms of 4).
pub const COPY_FRAGMENT_CYCLES: u64 = 3;

/// Seconds from asking streaming memory for something to its first byte. Plausible: 2 to 5 µs (mk2.md §1.5).
pub const STREAMING_LATENCY_SECONDS: f64 = 3e-6;
