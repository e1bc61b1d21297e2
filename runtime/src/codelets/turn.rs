//! Matrices of 4-byte words turned: rows become columns.

#![allow(unsafe_code)] // vector loads and stores through pointers, behind `Isa`

use super::Isa;

/// Side of a square that is turned at once.
const SQUARE: usize = 8;

/// `to[c·to_row + r] = from[r·from_row + c]` for `r < rows`, `c < columns`.
///
/// # Panics
/// When a slice is too short, or a row longer than the distance of two.
pub(super) fn turn(
    isa: Isa,
    (rows, columns): (usize, usize),
    (from, from_row): (&[u32], usize),
    (to, to_row): (&mut [u32], usize),
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= from_row && (rows - 1) * from_row + columns <= from.len());
    assert!(rows <= to_row && (columns - 1) * to_row + rows <= to.len());
    #[cfg(target_arch = "x86_64")]
    let done = match isa.has_avx2() {
        // SAFETY: `isa` says that AVX2 is there; both matrices are inside their slices.
        true => unsafe {
            squares::turn(
                rows,
                columns,
                from.as_ptr().cast(),
                from_row,
                to.as_mut_ptr().cast(),
                to_row,
            )
        },
        false => (0, 0),
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = (0, 0);
    let _ = isa;
    for r in 0..rows {
        let first = if r < done.0 { done.1 } else { 0 };
        for c in first..columns {
            to[c * to_row + r] = from[r * from_row + c];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod squares {
    use std::arch::x86_64::*;

    use super::SQUARE;

    /// Turns everything, if a square fits into it; the rows and columns that are done.
    ///
    /// # Safety
    /// `from` holds `rows × columns` words in rows `from_row` apart, `to` the turned ones in rows `to_row` apart.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn turn(
        rows: usize,
        columns: usize,
        from: *const f32,
        from_row: usize,
        to: *mut f32,
        to_row: usize,
    ) -> (usize, usize) {
        if rows < SQUARE || columns < SQUARE {
            return (0, 0);
        }
        // The last square overlaps the one before it.
        let starts = |n: usize| (0..n).step_by(SQUARE).map(move |i| i.min(n - SQUARE));
        for r in starts(rows) {
            for c in starts(columns) {
                // SAFETY: rows r..r + 8 and columns c..c + 8 are inside both.
                unsafe {
                    square(
                        from.add(r * from_row + c),
                        from_row,
                        to.add(c * to_row + r),
                        to_row,
                    )
                }
            }
        }
        (rows, columns)
    }

    /// Eight rows of eight at `from` become eight columns at `to`.
    ///
    /// # Safety
    /// `from` holds `7·from_row + 8` words, `to` `7·to_row + 8`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn square(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // SAFETY: rows 0..8 of eight words.
        let r: [__m256; SQUARE] =
            std::array::from_fn(|i| unsafe { _mm256_loadu_ps(from.add(i * from_row)) });
        // Pairs, then quadruples, then halves change places.
        let t: [__m256; SQUARE] = std::array::from_fn(|i| {
            let (a, b) = (r[i & !1], r[i | 1]);
            if i & 1 == 0 {
                _mm256_unpacklo_ps(a, b)
            } else {
                _mm256_unpackhi_ps(a, b)
            }
        });
        let q: [__m256; SQUARE] = std::array::from_fn(|i| {
            // Quadruple `i % 4` of rows `4·(i / 4) ..`.
            let (a, b) = (t[i / 4 * 4 + i % 4 / 2], t[i / 4 * 4 + 2 + i % 4 / 2]);
            if i & 1 == 0 {
                _mm256_shuffle_ps::<0x44>(a, b)
            } else {
                _mm256_shuffle_ps::<0xee>(a, b)
            }
        });
        for i in 0..4 {
            // SAFETY: rows 0..8 of eight words.
            unsafe {
                let low = _mm256_permute2f128_ps::<0x20>(q[i], q[i + 4]);
                let high = _mm256_permute2f128_ps::<0x31>(q[i], q[i + 4]);
                _mm256_storeu_ps(to.add(i * to_row), low);
                _mm256_storeu_ps(to.add((i + 4) * to_row), high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codelets::testing::isas;

    #[test]
    fn every_shape_is_turned_and_nothing_else_written() {
        for (rows, columns) in [(1, 1), (8, 8), (7, 24), (24, 7), (17, 33), (0, 3), (3, 0)] {
            let (from_row, to_row) = (columns + 3, rows + 2);
            let from: Vec<u32> = (0..rows * from_row).map(|i| i as u32).collect();
            for isa in isas() {
                let mut to = vec![u32::MAX; columns * to_row];
                turn(isa, (rows, columns), (&from, from_row), (&mut to, to_row));
                for (i, &found) in to.iter().enumerate() {
                    let (c, r) = (i / to_row, i % to_row);
                    let expected = if r < rows {
                        from[r * from_row + c]
                    } else {
                        u32::MAX
                    };
                    assert_eq!(found, expected, "{rows} × {columns} at {r}, {c}");
                }
            }
        }
    }
}
