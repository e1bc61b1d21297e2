//! Blocks of halves to floats and back: what a codelet's loads and stores do with f16 operands.
//!
//! Widening is exact. Narrowing rounds to nearest even; what is too large becomes infinite; a NaN stays one, quiet, with the upper bits
//! of its payload. The portable conversions give the bits that F16C gives.

#![allow(unsafe_code)] // vector conversions through pointers, behind `Isa`

use half::f16;

use super::Isa;

/// `to[i] = from[i]`, exactly.
pub(crate) fn widen(isa: Isa, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "a block keeps its size");
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() {
        // SAFETY: `isa` says that AVX-512 is there.
        return unsafe { wide::widen_more(from, to) };
    }
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx2() {
        // SAFETY: `isa` says that F16C and AVX are there.
        return unsafe { wide::widen(from, to) };
    }
    let _ = isa;
    widen_one_by_one(from, to);
}

/// `to[i]` is the half nearest to `from[i]`.
pub(super) fn narrow(isa: Isa, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len(), "a block keeps its size");
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx2() {
        // SAFETY: `isa` says that F16C and AVX are there.
        return unsafe { wide::narrow(from, to) };
    }
    let _ = isa;
    narrow_one_by_one(from, to);
}

fn widen_one_by_one(from: &[u16], to: &mut [f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f16::from_bits(from).to_f32_const();
    }
}

fn narrow_one_by_one(from: &[f32], to: &mut [u16]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f16::from_f32_const(from).to_bits();
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    const LANES: usize = 8;

    #[target_feature(enable = "avx512f")]
    pub(super) fn widen_more(from: &[u16], to: &mut [f32]) {
        const LANES: usize = 16;
        let (mut chunks, mut into) = (from.chunks_exact(LANES), to.chunks_exact_mut(LANES));
        for (from, to) in (&mut chunks).zip(&mut into) {
            // SAFETY: sixteen halves are 32 bytes, sixteen floats 64; neither needs to be aligned.
            unsafe {
                let halves = _mm256_loadu_si256(from.as_ptr().cast());
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(halves));
            }
        }
        super::widen_one_by_one(chunks.remainder(), into.into_remainder());
    }

    #[target_feature(enable = "avx,f16c")]
    pub(super) fn widen(from: &[u16], to: &mut [f32]) {
        let (mut chunks, mut into) = (from.chunks_exact(LANES), to.chunks_exact_mut(LANES));
        for (from, to) in (&mut chunks).zip(&mut into) {
            // SAFETY: eight halves are 16 bytes, eight floats 32; neither needs to be aligned.
            unsafe {
                let halves = _mm_loadu_si128(from.as_ptr().cast());
                _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(halves));
            }
        }
        super::widen_one_by_one(chunks.remainder(), into.into_remainder());
    }

    #[target_feature(enable = "avx,f16c")]
    pub(super) fn narrow(from: &[f32], to: &mut [u16]) {
        let (mut chunks, mut into) = (from.chunks_exact(LANES), to.chunks_exact_mut(LANES));
        for (from, to) in (&mut chunks).zip(&mut into) {
            // SAFETY: as above.
            unsafe {
                let floats = _mm256_loadu_ps(from.as_ptr());
                let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats);
                _mm_storeu_si128(to.as_mut_ptr().cast(), halves);
            }
        }
        super::narrow_one_by_one(chunks.remainder(), into.into_remainder());
    }
}

#[cfg(test)]
mod tests {
    use superstep_ir::half::nearest;

    use super::*;
    use crate::codelets::testing::isas;

    fn narrowed(isa: Isa, from: &[f32]) -> Vec<u16> {
        let mut to = vec![0; from.len()];
        narrow(isa, from, &mut to);
        to
    }

    #[test]
    fn every_half_comes_back() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let mut first: Option<Vec<u32>> = None;
        for isa in isas() {
            let mut floats = vec![0.0; all.len()];
            widen(isa, &all, &mut floats);
            for (&bits, &x) in all.iter().zip(&floats) {
                let quiet = if f16::from_bits(bits).is_nan() {
                    0x200
                } else {
                    0
                };
                assert_eq!(narrowed(isa, &[x; 9]), [bits | quiet; 9]);
            }
            let bits: Vec<u32> = floats.iter().map(|x| x.to_bits()).collect();
            assert_eq!(*first.get_or_insert(bits.clone()), bits);
        }
    }

    #[test]
    fn floats_become_the_nearest_half_on_every_instruction_set() {
        // All exponents and signs; fractions around every place where rounding turns.
        let fractions = [
            0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x3000, 0x2f_ffff, 0x7f_ffff,
        ];
        let floats: Vec<f32> = (0..512_u32)
            .flat_map(|top| fractions.map(|fraction| f32::from_bits(top << 23 | fraction)))
            .collect();
        let portable = narrowed(Isa::PORTABLE, &floats);
        for isa in isas() {
            assert_eq!(narrowed(isa, &floats), portable);
        }
        for (&x, &bits) in floats.iter().zip(&portable) {
            let (found, expected) = (f16::from_bits(bits).to_f64(), nearest(f64::from(x)));
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && x.is_nan(),
                "{x:e} became {found:e}, not {expected:e}"
            );
        }
    }
}
