//! The product in register blocks: two vectors of columns and as many rows as registers hold stay there while `k` runs.
//!
//! Whole panels of columns are read where they lie; what is stored transposed, or narrower than a panel, is packed first (and turned there).
//! `k` is cut into stretches that keep a panel in L1; between two stretches the chains are stored to `out` and loaded again, which
//! changes no bit. What is added to the old `out` is one stretch, and is added before it is stored. Columns beyond the last are zeros in the panel and are never stored.

#![allow(unsafe_code)] // vector loads and stores through pointers; every function states its bounds
#![allow(clippy::needless_range_loop)] // `sums[i][v]` is a register; the numbers are what the reader needs

use super::vectors::{Avx2, Avx512, Vectors};
use super::{Old, Product, STRETCH};
use crate::codelets::Isa;
use crate::codelets::turn::turn;

/// Floats of work space.
pub(super) const PANEL: usize = STRETCH * 2 * Avx512::LANES;

/// `out (+)= a·b` with the vectors of `isa`; false when it has none. The lengths of the slices are those of `product`, that of `panel` is
/// [`PANEL`].
pub(super) fn multiply(
    isa: Isa,
    product: &Product,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    panel: &mut [f32],
) -> bool {
    if !isa.has_avx2() {
        return false;
    }
    if out.is_empty() {
        return true;
    }
    if product.k == 0 && product.old == Old::Gone {
        out.fill(0.0);
    }
    debug_assert!(product.old != Old::Term || (1..=STRETCH).contains(&product.k));
    // SAFETY: `isa` says that the instructions are there.
    unsafe {
        if isa.has_avx512() {
            multiply_avx512(isa, product, a, b, out, panel);
        } else {
            multiply_avx2(isa, product, a, b, out, panel);
        }
    }
    true
}

#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(
    isa: Isa,
    product: &Product,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    panel: &mut [f32],
) {
    // SAFETY: compiled for these instructions.
    unsafe { panels::<Avx2>(isa, product, a, b, out, panel) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn multiply_avx512(
    isa: Isa,
    product: &Product,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    panel: &mut [f32],
) {
    // SAFETY: compiled for these instructions.
    unsafe { panels::<Avx512>(isa, product, a, b, out, panel) }
}

/// `a[i, p]` is at `start + i·row + p·step`.
#[derive(Clone, Copy)]
struct Left {
    start: *const f32,
    row: usize,
    step: usize,
}

/// `b[p, j]` is at `start + p·step + j`.
#[derive(Clone, Copy)]
struct Right {
    start: *const f32,
    step: usize,
}

/// One register block: its first `columns` are stored; `fresh` chains start from 0, and what they come to is added where it `adds`.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    row: usize,
    columns: usize,
    fresh: bool,
    adds: bool,
}

/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
unsafe fn panels<S: Vectors>(
    isa: Isa,
    product: &Product,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    panel: &mut [f32],
) {
    let width = 2 * S::LANES;
    let &Product {
        m,
        k,
        n,
        transpose_a,
        transpose_b,
        old,
    } = product;
    let (row, step) = if transpose_a { (1, m) } else { (k, 1) };
    for (first, depth) in parts(k, STRETCH) {
        for column in (0..n).step_by(width) {
            let columns = width.min(n - column);
            let whole = columns.is_multiple_of(S::LANES);
            let right = if whole && !transpose_b {
                Right {
                    start: b[first * n + column..].as_ptr(),
                    step: n,
                }
            } else {
                if transpose_b {
                    if columns < width {
                        panel[..depth * width].fill(0.0);
                    }
                    let b = bytemuck::cast_slice(&b[column * k + first..]);
                    let packed = bytemuck::cast_slice_mut(&mut *panel);
                    turn(isa, (columns, depth), (b, k), (packed, width));
                } else {
                    let rows = b[first * n..][..depth * n].chunks_exact(n);
                    for (from, to) in rows.zip(panel.chunks_exact_mut(width)) {
                        to[..columns].copy_from_slice(&from[column..column + columns]);
                        to[columns..].fill(0.0);
                    }
                }
                Right {
                    start: panel.as_ptr(),
                    step: width,
                }
            };
            let left = Left {
                start: a[first * step..].as_ptr(),
                row,
                step,
            };
            let target = Target {
                start: out[column..].as_mut_ptr(),
                row: n,
                columns,
                fresh: first == 0 && old != Old::Start,
                adds: old == Old::Term,
            };
            // SAFETY: `a` holds rows 0..m at `row` and stretch `first..first + depth` at `step`; `right` holds `depth` rows of as many whole
            // vectors as have columns (unpacked rows end inside `b`); `out` holds rows 0..m of `n`, from `column` on `columns`.
            unsafe { rows::<S>(m, depth, left, right, target) };
        }
    }
}

/// `0..n` in as few parts of at most `limit` as there can be, nearly equal: `(first, length)`.
#[inline(always)]
fn parts(n: usize, limit: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = n.div_ceil(limit);
    let at = move |i: usize| i * n / count;
    (0..count).map(move |i| (at(i), at(i + 1) - at(i)))
}

/// All rows of one panel, in register blocks of nearly equal height: fewer chains than two for each stage of the multiply-add pipes
/// do not fill them.
///
/// # Safety
/// `left` holds `m × depth`, `right` `depth` rows of whole vectors for `columns`, `target` `m × columns` elements.
#[inline(always)]
unsafe fn rows<S: Vectors>(m: usize, depth: usize, left: Left, right: Right, target: Target) {
    for (i, block) in parts(m, S::ROWS) {
        // SAFETY: row `i + block ≤ m`.
        unsafe {
            let left = Left {
                start: left.start.add(i * left.row),
                ..left
            };
            let target = Target {
                start: target.start.add(i * target.row),
                ..target
            };
            if target.columns > S::LANES {
                height::<S, 2>(block, depth, left, right, target);
            } else {
                height::<S, 1>(block, depth, left, right, target);
            }
        }
    }
}

/// [`block`] of the right height.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
unsafe fn height<S: Vectors, const V: usize>(
    rows: usize,
    depth: usize,
    left: Left,
    right: Right,
    target: Target,
) {
    // SAFETY: the contract of this function.
    unsafe {
        match rows {
            1 => block::<S, 1, V>(depth, left, right, target),
            2 => block::<S, 2, V>(depth, left, right, target),
            3 => block::<S, 3, V>(depth, left, right, target),
            4 => block::<S, 4, V>(depth, left, right, target),
            5 => block::<S, 5, V>(depth, left, right, target),
            6 => block::<S, 6, V>(depth, left, right, target),
            7 => block::<S, 7, V>(depth, left, right, target),
            8 => block::<S, 8, V>(depth, left, right, target),
            9 => block::<S, 9, V>(depth, left, right, target),
            10 => block::<S, 10, V>(depth, left, right, target),
            11 => block::<S, 11, V>(depth, left, right, target),
            12 => block::<S, 12, V>(depth, left, right, target),
            13 => block::<S, 13, V>(depth, left, right, target),
            _ => block::<S, 14, V>(depth, left, right, target),
        }
    }
}

/// Floats of a cache line.
const LINE: usize = 16;

/// Blocks of so many rows ask for the left operand's next rows, which would come one line after another from beyond L2: 1 to 2 % of a step of
/// the narrow model.
const ASKING: usize = 8;

/// Rows at multiples of so many floats fall on each other in L1, where there is no room for more of them.
const ALIASED: usize = 1024;

/// True when so many rows and steps of the left operand are all 0, from `a` on.
///
/// # Safety
/// `a` holds `rows × depth` elements as `left` does.
#[inline(always)]
unsafe fn only_zeros<S: Vectors>((rows, depth): (usize, usize), a: *const f32, left: Left) -> bool {
    // Elements that lie one after another, and how far one such line is from the next.
    let (lines, line, distance) = match left.step {
        1 => (rows, depth, left.row),
        step => (depth, rows, step),
    };
    for i in 0..lines {
        for first in (0..line).step_by(S::LANES) {
            // SAFETY: lanes beyond the line are not read.
            unsafe {
                let mask = S::first_lanes(line - first);
                if !S::is_zero(S::load_some(a.add(i * distance + first), mask)) {
                    return false;
                }
            }
        }
    }
    true
}

/// True when no element of so many rows of the right operand, from `b` on, is infinite or no number.
///
/// # Safety
/// `b` holds `depth` rows of `V` vectors as `right` does.
#[inline(always)]
unsafe fn all_finite<S: Vectors, const V: usize>(
    depth: usize,
    b: *const f32,
    right: Right,
) -> bool {
    for p in 0..depth {
        for v in 0..V {
            // SAFETY: the contract of this function.
            if unsafe { !S::is_finite(S::load(b.add(p * right.step + S::LANES * v))) } {
                return false;
            }
        }
    }
    true
}

/// `M` rows × `V` vectors of `out` in registers.
///
/// Where the left operand is 0, as probabilities are beyond the diagonal of causal attention, multiplying is skipped: to add `±0 · b` changes a
/// sum only if `b` is no finite number, or the sum is −0.
///
/// # Safety
/// `left` holds `M × depth`, `right` `depth` rows of `V` vectors, `target` `M × columns` elements, `columns` at most `V` vectors.
#[inline(always)]
unsafe fn block<S: Vectors, const M: usize, const V: usize>(
    depth: usize,
    left: Left,
    right: Right,
    target: Target,
) {
    debug_assert!(target.columns <= S::LANES * V && M <= S::ROWS);
    // SAFETY: row `i < M` of `target` has `columns` elements; masked lanes are not touched; `p < depth`.
    unsafe {
        let full = target.columns == S::LANES * V;
        let mut sums = [[S::zero(); V]; M];
        let at = |i: usize, v: usize| target.start.wrapping_add(i * target.row + S::LANES * v);
        let mask = |v: usize| S::first_lanes(target.columns.saturating_sub(S::LANES * v));
        let old = |i: usize, v: usize| match full {
            true => S::load(at(i, v)),
            false => S::load_some(at(i, v), mask(v)),
        };
        if !target.fresh {
            for i in 0..M {
                for v in 0..V {
                    sums[i][v] = old(i, v);
                }
            }
        }
        let (mut a, mut b) = (left.start, right.start);
        let asks = M >= ASKING && left.step == 1 && !left.row.is_multiple_of(ALIASED);
        let mut rest = depth;
        while rest > 0 {
            let part = if M < ASKING { rest } else { rest.min(LINE) };
            if asks {
                for i in 0..M {
                    S::ask_for(a.wrapping_add((M + i) * left.row));
                }
            }
            if *a == 0.0
                && only_zeros::<S>((M, part), a, left)
                && all_finite::<S, V>(part, b, right)
                && !S::any_negative_zero(&sums)
            {
                a = a.wrapping_add(part * left.step);
                b = b.wrapping_add(part * right.step);
                rest -= part;
                continue;
            }
            for _ in 0..part {
                let mut columns = [S::zero(); V];
                for v in 0..V {
                    columns[v] = S::load(b.add(S::LANES * v));
                }
                for i in 0..M {
                    let x = S::repeat(a.add(i * left.row));
                    for v in 0..V {
                        sums[i][v] = S::multiply_add(x, columns[v], sums[i][v]);
                    }
                }
                a = a.wrapping_add(left.step);
                b = b.wrapping_add(right.step);
            }
            rest -= part;
        }
        if target.adds {
            for i in 0..M {
                for v in 0..V {
                    sums[i][v] = S::add(old(i, v), sums[i][v]);
                }
            }
        }
        for i in 0..M {
            for v in 0..V {
                if full {
                    S::store(at(i, v), sums[i][v]);
                } else {
                    S::store_some(at(i, v), mask(v), sums[i][v]);
                }
            }
        }
    }
}
