// What every kernel of this package begins with: numbers in bf16, sums over neighbouring lanes, and the product on
// tensor cores. No header of CUDA is needed, so NVRTC alone compiles it.
//
// A kernel takes one struct by value, so that whoever launches it hands over bytes: KERNEL(name, Arguments) { args... }.
// With MIDI_EMULATED the same text is C++ for a processor: see tests/support/emulator.h.

#ifndef MIDI_EMULATED
#define KERNEL(threads, name, Arguments) extern "C" __global__ void __launch_bounds__(threads) name(const Arguments args)
// For arguments that hold a list: it is indexed where it lies, and not copied for each thread.
#define KERNEL_OF_LIST(threads, name, Arguments) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Arguments args)
#define DYNAMIC_SHARED(Type, name)                                   \
  extern __shared__ __align__(16) unsigned char midi_shared_bytes[]; \
  Type& name = *reinterpret_cast<Type*>(midi_shared_bytes)
#endif

typedef unsigned short u16;
typedef unsigned int u32;

// A number in bf16: the upper half of an f32.
struct bf16 {
  u16 bits;
};

__device__ inline float wide(float x) { return x; }
__device__ inline float wide(bf16 x) { return __uint_as_float(static_cast<u32>(x.bits) << 16); }

// The bits of the nearest bf16, ties to even.
__device__ inline u32 rounded(float x) {
  u32 bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// Two numbers as bf16 in one word, `low` first in memory.
__device__ inline u32 packed(float low, float high) {
#ifdef MIDI_EMULATED
  return rounded(low) | rounded(high) << 16;
#else
  u32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#endif
}

template <typename T>
__device__ inline T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 narrow<bf16>(float x) {
  bf16 result;
  result.bits = static_cast<u16>(packed(x, 0.0f));
  return result;
}

// Number n of an array of T.
template <typename T>
__device__ inline float at(const void* from, size_t n) {
  return wide(static_cast<const T*>(from)[n]);
}
template <typename T>
__device__ inline void put(void* to, size_t n, float x) {
  static_cast<T*>(to)[n] = narrow<T>(x);
}

// Writes two neighbouring numbers; `to` is aligned to both together.
__device__ inline void store_pair(float* to, float low, float high) {
  to[0] = low;
  to[1] = high;
}
__device__ inline void store_pair(bf16* to, float low, float high) { *reinterpret_cast<u32*>(to) = packed(low, high); }

// Two neighbouring numbers in one access; n is even.
template <typename T>
__device__ inline void load_pair(const void* from, size_t n, float (&x)[2]);
template <>
__device__ inline void load_pair<float>(const void* from, size_t n, float (&x)[2]) {
  const float* at = static_cast<const float*>(from) + n;
  x[0] = at[0], x[1] = at[1];
}
template <>
__device__ inline void load_pair<bf16>(const void* from, size_t n, float (&x)[2]) {
  const u32 word = *reinterpret_cast<const u32*>(static_cast<const bf16*>(from) + n);
  x[0] = __uint_as_float(word << 16), x[1] = __uint_as_float(word & 0xffff0000u);
}
template <typename T>
__device__ inline void put_pair(void* to, size_t n, float low, float high) {
  store_pair(static_cast<T*>(to) + n, low, high);
}

// Eight neighbouring numbers; n is divisible by 8.
struct alignas(16) Words {
  u32 of[4];
};
template <typename T>
__device__ inline void load_each(const void* from, size_t n, float (&x)[8]);
template <>
__device__ inline void load_each<float>(const void* from, size_t n, float (&x)[8]) {
  const Words* at = reinterpret_cast<const Words*>(static_cast<const float*>(from) + n);
  const Words words[2] = {at[0], at[1]};
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = __uint_as_float(words[i / 4].of[i % 4]);
}
template <>
__device__ inline void load_each<bf16>(const void* from, size_t n, float (&x)[8]) {
  const Words words = *reinterpret_cast<const Words*>(static_cast<const bf16*>(from) + n);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = __uint_as_float(i % 2 ? words.of[i / 2] & 0xffff0000u : words.of[i / 2] << 16);
}
template <typename T>
__device__ inline void store_each(void* to, size_t n, const float (&x)[8]);
template <>
__device__ inline void store_each<float>(void* to, size_t n, const float (&x)[8]) {
  Words* at = reinterpret_cast<Words*>(static_cast<float*>(to) + n);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    at[i] = Words{{__float_as_uint(x[4 * i]), __float_as_uint(x[4 * i + 1]), __float_as_uint(x[4 * i + 2]),
                   __float_as_uint(x[4 * i + 3])}};
  }
}
template <>
__device__ inline void store_each<bf16>(void* to, size_t n, const float (&x)[8]) {
  *reinterpret_cast<Words*>(static_cast<bf16*>(to) + n) =
      Words{{packed(x[0], x[1]), packed(x[2], x[3]), packed(x[4], x[5]), packed(x[6], x[7])}};
}

// The sum of x over groups of `Lanes` neighbouring lanes of a warp (a power of two), in each of them.
template <int Lanes>
__device__ inline float sum_of_lanes(float x) {
#pragma unroll
  for (int step = 1; step < Lanes; step *= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// c += a b for 16x16 a and 16x8 b in bf16. With group = lane / 4 and pair = 2 (lane % 4), a lane holds of
//   a: [group][pair..], [group + 8][pair..], [group][pair + 8..], [group + 8][pair + 8..], two numbers each;
//   b: [pair..][group], [pair + 8..][group];    c: [group][pair], [group][pair + 1], the same of row group + 8.
#ifndef MIDI_EMULATED
__device__ inline void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

__device__ inline u32 word_at(const u16* at) { return *reinterpret_cast<const u32*>(at); }

// The left factor from rows of `stride` bf16 numbers, beginning at `from`.
__device__ inline void load_left(u32 (&a)[4], const u16* from, int stride, int lane) {
  const u16* at = from + (lane >> 2) * stride + 2 * (lane & 3);
  a[0] = word_at(at);
  a[1] = word_at(at + 8 * stride);
  a[2] = word_at(at + 8);
  a[3] = word_at(at + 8 * stride + 8);
}

// The right factor, of which each column is a row of `stride` numbers in memory.
__device__ inline void load_right(u32 (&b)[2], const u16* from, int stride, int lane) {
  const u16* at = from + (lane >> 2) * stride + 2 * (lane & 3);
  b[0] = word_at(at);
  b[1] = word_at(at + 8);
}
