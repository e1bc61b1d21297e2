//! Small numbers of formulae that were chosen, not looked up, and do not matter much. Those that do are fields of the machine, with a row in
//! [`super::ranges`].

/// Worker cycles before and after the blocks of a transpose.
pub const TRANSPOSE_OVERHEAD: u64 = 20;

/// Worker cycles around the loop of a fused elementwise vertex; PopLibs publishes none for generated codelets.
pub const MAP_OVERHEAD: u64 = 30;

/// Worker cycles to pick, compare and place one label of a row: the cost of one row of an embedding look-up of width 1.
pub const LABEL_CYCLES: u64 = 21;
