//! Vectors of floats, as the loops of [`blocked`](super::blocked) want them: one trait, an instruction set an implementation.
//!
//! Every function must be inlined into one that is compiled for its instruction set; [`blocked`](super::blocked) starts from such.

#![allow(unsafe_code)] // intrinsics; every function needs the instruction set of its type

use std::arch::x86_64::*;

/// The vectors of one instruction set.
///
/// # Safety
/// All functions: the machine has the instruction set, and pointers hold as many floats as are loaded or stored there.
pub(super) trait Vectors {
    /// Floats of a vector.
    const LANES: usize;
    /// Rows of a register block of two vectors' width, so that the block, a row of the right operand and a factor fill the registers.
    const ROWS: usize;
    type Vector: Copy;
    type Mask: Copy;

    unsafe fn zero() -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, x: Self::Vector);
    /// Asks for a cache line to be brought to L1; any address will do.
    #[inline(always)]
    fn ask_for(line: *const f32) {
        // SAFETY: a prefetch reads nothing that the program could see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    /// One float in all lanes.
    unsafe fn repeat(from: *const f32) -> Self::Vector;
    /// `a·b + c`, rounded once.
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// All lanes are 0 or −0.
    unsafe fn is_zero(x: Self::Vector) -> bool;
    /// No lane is infinite or no number.
    unsafe fn is_finite(x: Self::Vector) -> bool;
    /// A lane is −0.
    unsafe fn has_negative_zero(x: Self::Vector) -> bool;

    #[inline(always)]
    unsafe fn any_negative_zero<const M: usize, const V: usize>(
        block: &[[Self::Vector; V]; M],
    ) -> bool {
        for row in block {
            for &x in row {
                // SAFETY: the contract of the trait.
                if unsafe { Self::has_negative_zero(x) } {
                    return true;
                }
            }
        }
        false
    }

    /// The first `count` lanes.
    unsafe fn first_lanes(count: usize) -> Self::Mask;
    /// Zero in lanes that are not in the mask; these are not read.
    unsafe fn load_some(from: *const f32, mask: Self::Mask) -> Self::Vector;
    /// Lanes that are not in the mask are not written.
    unsafe fn store_some(to: *mut f32, mask: Self::Mask, x: Self::Vector);
}

/// AVX2 and FMA.
pub(super) struct Avx2;

/// AVX-512F.
pub(super) struct Avx512;

// SAFETY (all functions): the contract of the trait.
impl Vectors for Avx2 {
    const LANES: usize = 8;
    const ROWS: usize = 6;
    type Vector = __m256;
    type Mask = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const f32) -> __m256 {
        unsafe { _mm256_set1_ps(*from) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn is_zero(x: __m256) -> bool {
        unsafe {
            let zeros = _mm256_cmp_ps::<_CMP_EQ_OQ>(x, _mm256_setzero_ps());
            _mm256_movemask_ps(zeros) == 0xff
        }
    }

    #[inline(always)]
    unsafe fn is_finite(x: __m256) -> bool {
        unsafe {
            let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
            let finite = _mm256_cmp_ps::<_CMP_LT_OQ>(size, _mm256_set1_ps(f32::INFINITY));
            _mm256_movemask_ps(finite) == 0xff
        }
    }

    #[inline(always)]
    unsafe fn has_negative_zero(x: __m256) -> bool {
        unsafe {
            let zero = _mm256_castps_si256(_mm256_set1_ps(-0.0));
            let equal = _mm256_cmpeq_epi32(_mm256_castps_si256(x), zero);
            _mm256_movemask_epi8(equal) != 0
        }
    }

    #[inline(always)]
    unsafe fn first_lanes(count: usize) -> __m256i {
        unsafe {
            let count = _mm256_set1_epi32(count.min(8) as i32);
            _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
        }
    }

    #[inline(always)]
    unsafe fn load_some(from: *const f32, mask: __m256i) -> __m256 {
        unsafe { _mm256_maskload_ps(from, mask) }
    }

    #[inline(always)]
    unsafe fn store_some(to: *mut f32, mask: __m256i, x: __m256) {
        unsafe { _mm256_maskstore_ps(to, mask, x) }
    }
}

// SAFETY (all functions): the contract of the trait.
impl Vectors for Avx512 {
    const LANES: usize = 16;
    const ROWS: usize = 14;
    type Vector = __m512;
    type Mask = __mmask16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const f32) -> __m512 {
        unsafe { _mm512_set1_ps(*from) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn is_zero(x: __m512) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(x, _mm512_setzero_ps()) == 0xffff }
    }

    #[inline(always)]
    unsafe fn is_finite(x: __m512) -> bool {
        // Quiet and signalling NaNs, both infinities.
        const NOT_FINITE: i32 = 0x01 | 0x80 | 0x08 | 0x10;
        unsafe { _mm512_fpclass_ps_mask::<NOT_FINITE>(x) == 0 }
    }

    #[inline(always)]
    unsafe fn has_negative_zero(x: __m512) -> bool {
        const NEGATIVE_ZERO: i32 = 0x04;
        unsafe { _mm512_fpclass_ps_mask::<NEGATIVE_ZERO>(x) != 0 }
    }

    #[inline(always)]
    unsafe fn first_lanes(count: usize) -> __mmask16 {
        ((1_u32 << count.min(16)) - 1) as __mmask16
    }

    #[inline(always)]
    unsafe fn load_some(from: *const f32, mask: __mmask16) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }

    #[inline(always)]
    unsafe fn store_some(to: *mut f32, mask: __mmask16, x: __m512) {
        unsafe { _mm512_mask_storeu_ps(to, mask, x) }
    }
}
