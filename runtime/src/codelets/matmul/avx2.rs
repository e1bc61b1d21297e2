//! The product with AVX2 and FMA: panels of 16 columns of `b` are packed into L1 (and turned there when `b` is stored transposed), blocks of 6 rows × 16 columns of `out` stay in
//! twelve registers while `k` runs.
//!
//! `k` is cut into stretches that keep a panel in L1; between two stretches the chains are stored to `out` and loaded again, which
//! changes no bit. Columns beyond the last are zeros in the panel and are never stored.

#![allow(unsafe_code)] // vector loads and stores through pointers; every function states its bounds
#![allow(clippy::needless_range_loop)] // `sums[i][v]` is a register; the numbers are what the reader needs

use std::arch::x86_64::*;

use super::Product;
use crate::codelets::Isa;

/// Columns of a panel: two vectors.
const PANEL: usize = 16;
/// Rows of a register block.
const ROWS: usize = 6;
/// Longest stretch of `k`: a panel of it takes half of a 32 KiB L1.
const STRETCH: usize = 256;
/// Up to this many rows a panel would be packed for too little work.
const ROWS_UNPACKED: usize = 3;

/// Proof that the machine has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Wide(());

impl Wide {
    pub(super) fn of(isa: Isa) -> Option<Wide> {
        isa.is_wide().then_some(Wide(()))
    }

    /// `out (+)= a·b`; the lengths of the slices are those of `product`.
    pub(super) fn multiply(
        self,
        product: &Product,
        a: &[f32],
        b: &[f32],
        out: &mut [f32],
        work: &mut Vec<f32>,
    ) {
        if out.is_empty() {
            return;
        }
        if product.k == 0 && !product.accumulate {
            out.fill(0.0);
        }
        if work.len() < STRETCH * PANEL {
            work.resize(STRETCH * PANEL, 0.0);
        }
        // SAFETY: `Wide` exists only where AVX2 and FMA do.
        unsafe { multiply(product, a, b, out, work) }
    }
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

/// One register block: `columns` of the 16 are stored; `fresh` chains start from 0.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    row: usize,
    columns: usize,
    fresh: bool,
}

#[target_feature(enable = "avx2,fma")]
fn multiply(product: &Product, a: &[f32], b: &[f32], out: &mut [f32], panel: &mut [f32]) {
    let &Product {
        m,
        k,
        n,
        transpose_a,
        transpose_b,
        accumulate,
    } = product;
    let (row, step) = if transpose_a { (1, m) } else { (k, 1) };
    for first in (0..k).step_by(STRETCH) {
        let depth = STRETCH.min(k - first);
        for column in (0..n).step_by(PANEL) {
            let columns = PANEL.min(n - column);
            let direct = m <= ROWS_UNPACKED && columns == PANEL && !transpose_b;
            let right = if direct {
                Right {
                    start: b[first * n + column..].as_ptr(),
                    step: n,
                }
            } else if transpose_b {
                pack_transposed(&b[column * k..], k, first, depth, columns, panel);
                Right {
                    start: panel.as_ptr(),
                    step: PANEL,
                }
            } else {
                pack(&b[first * n..][..depth * n], n, column, columns, panel);
                Right {
                    start: panel.as_ptr(),
                    step: PANEL,
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
                fresh: first == 0 && !accumulate,
            };
            // SAFETY: `a` holds rows 0..m at `row` and stretch `first..first + depth` at `step`; `right` holds `depth` rows of 16
            // (unpacked rows end inside `b`, because `column + 16 ≤ n`); `out` holds rows 0..m of `n`, from `column` on `columns`.
            unsafe { rows(m, depth, left, right, target) };
        }
    }
}

/// Copies `columns` columns of `b: [.., n]` from `column` on into rows of 16, zeros after them.
#[target_feature(enable = "avx2")]
fn pack(b: &[f32], n: usize, column: usize, columns: usize, panel: &mut [f32]) {
    let rows = b.chunks_exact(n).zip(panel.chunks_exact_mut(PANEL));
    if columns == PANEL {
        for (from, to) in rows {
            to.copy_from_slice(&from[column..column + PANEL]);
        }
        return;
    }
    let masks = [lanes_below(columns), lanes_below(columns.saturating_sub(8))];
    for (from, to) in rows {
        let from = &from[column..column + columns];
        // SAFETY: the masks leave out everything from `columns` on; `to` is a row of 16.
        unsafe {
            let low = _mm256_maskload_ps(from.as_ptr(), masks[0]);
            let high = _mm256_maskload_ps(from.as_ptr().wrapping_add(8), masks[1]);
            _mm256_storeu_ps(to.as_mut_ptr(), low);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), high);
        }
    }
}

/// Turns elements `first .. first + depth` of `columns` rows of `b: [.., k]` into rows of 16, zeros after them.
#[target_feature(enable = "avx2")]
fn pack_transposed(
    b: &[f32],
    k: usize,
    first: usize,
    depth: usize,
    columns: usize,
    panel: &mut [f32],
) {
    if columns < PANEL {
        panel[..depth * PANEL].fill(0.0);
    }
    let whole = depth / 8 * 8;
    let squares = columns / 8 * 8;
    for column in (0..squares).step_by(8) {
        for p in (0..whole).step_by(8) {
            let from = &b[column * k + first + p..][..7 * k + 8];
            let to = &mut panel[p * PANEL + column..][..7 * PANEL + 8];
            // SAFETY: eight rows of eight, `k` and 16 apart, are inside the two slices.
            unsafe { transpose_square(from.as_ptr(), k, to.as_mut_ptr()) };
        }
    }
    for column in 0..columns {
        let done = if column < squares { whole } else { 0 };
        let from = &b[column * k + first..][done..depth];
        for (p, &x) in from.iter().enumerate() {
            panel[(done + p) * PANEL + column] = x;
        }
    }
}

/// Eight rows of eight at `from`, `row` apart, become eight columns at `to`, whose rows are 16 apart.
///
/// # Safety
/// `from` holds `7·row + 8` elements, `to` `7·16 + 8`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_square(from: *const f32, row: usize, to: *mut f32) {
    // SAFETY: rows 0..8 of eight elements.
    let r: [__m256; 8] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(from.add(i * row)) });
    // Pairs, then quadruples, then halves change places.
    let t: [__m256; 8] = std::array::from_fn(|i| {
        let (a, b) = (r[i & !1], r[i | 1]);
        if i & 1 == 0 {
            _mm256_unpacklo_ps(a, b)
        } else {
            _mm256_unpackhi_ps(a, b)
        }
    });
    let q: [__m256; 8] = std::array::from_fn(|i| {
        // Quadruple `i % 4` of rows `4·(i / 4) ..`.
        let (a, b) = (t[i / 4 * 4 + i % 4 / 2], t[i / 4 * 4 + 2 + i % 4 / 2]);
        if i & 1 == 0 {
            _mm256_shuffle_ps::<0x44>(a, b)
        } else {
            _mm256_shuffle_ps::<0xee>(a, b)
        }
    });
    for i in 0..4 {
        // SAFETY: rows 0..8 of eight elements.
        unsafe {
            _mm256_storeu_ps(
                to.add(i * PANEL),
                _mm256_permute2f128_ps::<0x20>(q[i], q[i + 4]),
            );
            _mm256_storeu_ps(
                to.add((i + 4) * PANEL),
                _mm256_permute2f128_ps::<0x31>(q[i], q[i + 4]),
            );
        }
    }
}

/// All rows of one panel, in register blocks of 6; the last rows in blocks that keep at least three rows in flight where there are
/// so many, because fewer chains than that do not fill the multiply-add pipes.
///
/// # Safety
/// `left` holds `m × depth`, `right` `depth × 16`, `target` `m × columns` elements.
#[target_feature(enable = "avx2,fma")]
unsafe fn rows(m: usize, depth: usize, left: Left, right: Right, target: Target) {
    let narrow = target.columns <= PANEL / 2;
    let mut i = 0;
    while i < m {
        let block = match m - i {
            7 => 4,
            8 => 4,
            rest => rest.min(ROWS),
        };
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
            match (block, narrow) {
                (6, false) => tile::<6, 2>(depth, left, right, target),
                (5, false) => tile::<5, 2>(depth, left, right, target),
                (4, false) => tile::<4, 2>(depth, left, right, target),
                (3, false) => tile::<3, 2>(depth, left, right, target),
                (2, false) => tile::<2, 2>(depth, left, right, target),
                (_, false) => tile::<1, 2>(depth, left, right, target),
                (6, true) => tile::<6, 1>(depth, left, right, target),
                (5, true) => tile::<5, 1>(depth, left, right, target),
                (4, true) => tile::<4, 1>(depth, left, right, target),
                (3, true) => tile::<3, 1>(depth, left, right, target),
                (2, true) => tile::<2, 1>(depth, left, right, target),
                (_, true) => tile::<1, 1>(depth, left, right, target),
            }
        }
        i += block;
    }
}

/// `M` rows × `V` vectors of `out` in registers.
///
/// # Safety
/// `left` holds `M × depth`, `right` `depth × 8·V`, `target` `M × columns` elements, `columns ≤ 8·V`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const M: usize, const V: usize>(
    depth: usize,
    left: Left,
    right: Right,
    target: Target,
) {
    debug_assert!(target.columns <= 8 * V);
    let mut sums = [[_mm256_setzero_ps(); V]; M];
    let masks: [__m256i; V] =
        std::array::from_fn(|v| lanes_below(target.columns.saturating_sub(8 * v)));
    let full = target.columns == 8 * V;
    // SAFETY: row `i < M` of `target` has `columns` elements; masked lanes are not touched.
    unsafe {
        if !target.fresh {
            for i in 0..M {
                for v in 0..V {
                    let at = target.start.add(i * target.row + 8 * v);
                    sums[i][v] = if full {
                        _mm256_loadu_ps(at)
                    } else {
                        _mm256_maskload_ps(at, masks[v])
                    };
                }
            }
        }
        // SAFETY: `p < depth`.
        let (mut a, mut b) = (left.start, right.start);
        for _ in 0..depth {
            let mut columns = [_mm256_setzero_ps(); V];
            for v in 0..V {
                columns[v] = _mm256_loadu_ps(b.add(8 * v));
            }
            for i in 0..M {
                let x = _mm256_broadcast_ss(&*a.add(i * left.row));
                for v in 0..V {
                    sums[i][v] = _mm256_fmadd_ps(x, columns[v], sums[i][v]);
                }
            }
            a = a.wrapping_add(left.step);
            b = b.wrapping_add(right.step);
        }
        for i in 0..M {
            for v in 0..V {
                let at = target.start.add(i * target.row + 8 * v);
                if full {
                    _mm256_storeu_ps(at, sums[i][v]);
                } else {
                    _mm256_maskstore_ps(at, masks[v], sums[i][v]);
                }
            }
        }
    }
}

/// A mask of the first `count` lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes_below(count: usize) -> __m256i {
    let count = _mm256_set1_epi32(count.min(8) as i32);
    _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}
