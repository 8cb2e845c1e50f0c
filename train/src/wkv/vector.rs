//! Eight f32 values at a time: plain arrays on any machine, AVX2 registers with fused multiply-add where the
//! CPU has them. Both types have the same functions, and [`kernel`](super::kernel) is written once for both.

/// Values that are treated together.
pub(super) const LANES: usize = 8;

/// Eight values in an array: the compiler makes of it what every machine of the target has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain([f32; LANES]);

impl Plain {
    /// The same value in every lane.
    #[inline(always)]
    pub(super) fn splat(value: f32) -> Self {
        Plain([value; LANES])
    }

    /// The values at a place.
    #[inline(always)]
    pub(super) fn load(from: &[f32; LANES]) -> Self {
        Plain(*from)
    }

    /// Puts the values at a place.
    #[inline(always)]
    pub(super) fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    /// self · y
    #[inline(always)]
    pub(super) fn times(self, y: Self) -> Self {
        Plain(std::array::from_fn(|l| self.0[l] * y.0[l]))
    }

    /// self · y + z
    #[inline(always)]
    pub(super) fn times_plus(self, y: Self, z: Self) -> Self {
        // Not `mul_add`: where there is no instruction for it, that is a slow function call.
        Plain(std::array::from_fn(|l| self.0[l] * y.0[l] + z.0[l]))
    }

    /// The sum over the lanes of each of eight.
    #[inline(always)]
    pub(super) fn sums(all: [Self; LANES]) -> Self {
        Plain(all.map(|Plain([a, b, c, d, e, f, g, h])| ((a + b) + (c + d)) + ((e + f) + (g + h))))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #![expect(unsafe_code, reason = "registers are made of arrays and arrays of registers")]

    use std::arch::x86_64::{
        __m256, _mm256_add_ps, _mm256_fmadd_ps, _mm256_hadd_ps, _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_ps,
    };

    use super::LANES;

    /// Eight values in a register; the functions are those of [`super::Plain`].
    #[derive(Clone, Copy, Debug)]
    pub(in crate::wkv) struct Avx2(__m256);

    impl Avx2 {
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::wkv) fn splat(value: f32) -> Self {
            Avx2(_mm256_set1_ps(value))
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::wkv) fn load(from: &[f32; LANES]) -> Self {
            // SAFETY: a register is eight f32 values. (The load intrinsic checks its pointer in builds with
            // debug assertions, which costs more than the load.)
            Avx2(unsafe { std::mem::transmute::<[f32; LANES], __m256>(*from) })
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::wkv) fn store(self, to: &mut [f32; LANES]) {
            // SAFETY: as in `load`.
            *to = unsafe { std::mem::transmute::<__m256, [f32; LANES]>(self.0) };
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::wkv) fn times(self, y: Self) -> Self {
            Avx2(_mm256_mul_ps(self.0, y.0))
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::wkv) fn times_plus(self, y: Self, z: Self) -> Self {
            Avx2(_mm256_fmadd_ps(self.0, y.0, z.0))
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::wkv) fn sums([a, b, c, d, e, f, g, h]: [Self; LANES]) -> Self {
            let first = _mm256_hadd_ps(_mm256_hadd_ps(a.0, b.0), _mm256_hadd_ps(c.0, d.0));
            let second = _mm256_hadd_ps(_mm256_hadd_ps(e.0, f.0), _mm256_hadd_ps(g.0, h.0));
            // Each 128-bit half of these two holds the sums over one half of the lanes.
            let low = _mm256_permute2f128_ps::<0x20>(first, second);
            let high = _mm256_permute2f128_ps::<0x31>(first, second);
            Avx2(_mm256_add_ps(low, high))
        }
    }
}
