//! Rounding of sizes and counts: the one place that says how things are divided.

/// `⌈a / b⌉`; `b` must not be 0.
pub const fn ceil_div(a: usize, b: usize) -> usize {
    a.div_ceil(b)
}

/// Smallest multiple of `to` that is at least `a`.
pub const fn align_up(a: usize, to: usize) -> usize {
    a.div_ceil(to) * to
}

/// Clock cycles of a tile.
pub type Cycles = u64;
/// Bytes of tile memory or of traffic.
pub type Bytes = u64;
