//! Which instructions kernels use, and how one loop is compiled for each of them.
//!
//! Loops are written once, in plain Rust whose every operation has one exact IEEE result (`mul_add` where a multiplication and an
//! addition round once). [`isa_kernel!`] compiles such a loop for the baseline, for AVX2 with FMA and for AVX-512, where the
//! compiler vectorises it. Since no operation depends on the instruction set, all give the same bits.

#![allow(unsafe_code)] // calls into functions compiled for more than the baseline; see the SAFETY notes in `isa_kernel!`

/// The instruction set kernels may use; more than the portable one only on a machine that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
enum Level {
    Portable,
    /// With FMA and F16C.
    Avx2,
    /// All of that with F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// Nothing beyond what the crate was compiled for.
    pub(crate) const PORTABLE: Isa = Isa(Level::Portable);

    /// The best instruction set of this machine.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match (avx2, avx512) {
                (true, true) => Isa(Level::Avx512),
                (true, false) => Isa(Level::Avx2),
                (false, _) => Isa::PORTABLE,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Isa::PORTABLE
    }

    /// All instruction sets that this machine has, from the portable one up.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Isa> {
        let levels = [Level::Portable, Level::Avx2, Level::Avx512];
        levels
            .map(Isa)
            .into_iter()
            .filter(|&isa| isa <= Isa::detect())
            .collect()
    }

    /// True when AVX2, FMA and F16C are there and may be used.
    pub(crate) fn has_avx2(self) -> bool {
        self.0 >= Level::Avx2
    }

    /// True when AVX-512 (F, BW, DQ, VL) is there and may be used; AVX2, FMA and F16C are, too.
    pub(crate) fn has_avx512(self) -> bool {
        self.0 >= Level::Avx512
    }
}

/// Declares `fn name(isa, args…)`: one body, compiled for the baseline, for AVX2+FMA and for AVX-512, chosen by `isa`.
macro_rules! isa_kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::codelets::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            if isa.has_avx512() {
                // SAFETY: `Isa::detect` is the only source of such an `Isa`, and it has seen AVX-512 on this machine.
                return unsafe { avx512($($arg),*) };
            }
            #[cfg(target_arch = "x86_64")]
            if isa.has_avx2() {
                // SAFETY: `Isa::detect` is the only source of such an `Isa`, and it has seen AVX2 and FMA on this machine.
                return unsafe { avx2($($arg),*) };
            }
            let _ = isa;
            body($($arg),*)
        }
    };
}
pub(crate) use isa_kernel;
