//! Which instructions kernels use, and how one loop is compiled for each of them.
//!
//! Loops are written once, in plain Rust whose every operation has one exact IEEE result (`mul_add` where a multiplication and an
//! addition round once). [`isa_kernel!`] compiles such a loop twice: for the baseline, and with AVX2 and FMA switched on, where the
//! compiler vectorises it. Since no operation depends on the instruction set, both give the same bits.

#![allow(unsafe_code)] // calls into functions compiled for AVX2+FMA; see the SAFETY note in `isa_kernel!`

/// The instruction set kernels may use. The wide one exists only on a machine that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa {
    wide: bool,
}

impl Isa {
    /// Nothing beyond what the crate was compiled for.
    pub(crate) const PORTABLE: Isa = Isa { wide: false };

    /// The best instruction set of this machine.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        let wide = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        #[cfg(not(target_arch = "x86_64"))]
        let wide = false;
        Isa { wide }
    }

    /// True when AVX2, FMA and F16C are there and may be used.
    pub(crate) const fn is_wide(self) -> bool {
        self.wide
    }
}

/// Declares `fn name(isa, args…)`: one body, compiled for the baseline and for AVX2+FMA, chosen by `isa`.
macro_rules! isa_kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::codelets::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn wide($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            if isa.is_wide() {
                // SAFETY: `Isa::detect` is the only source of a wide `Isa`, and it has seen AVX2 and FMA on this machine.
                return unsafe { wide($($arg),*) };
            }
            let _ = isa;
            body($($arg),*)
        }
    };
}
pub(crate) use isa_kernel;
