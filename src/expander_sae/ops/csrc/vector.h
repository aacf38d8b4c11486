// Fixed-width float vectors and per-thread scratch, compiled once per instruction set (namespace ISA).
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

namespace expander::ISA {

template <int lanes>
struct VectorOf {
  typedef float type __attribute__((vector_size(lanes * 4)));
  typedef int32_t ints __attribute__((vector_size(lanes * 4)));
  typedef uint32_t words __attribute__((vector_size(lanes * 4)));
  typedef uint16_t halves __attribute__((vector_size(lanes * 2)));
};
template <int lanes>
using Vector = typename VectorOf<lanes>::type;

// Kernels are written in vectors of the machine's own width. A wider one is no register: the compiler keeps it in memory,
// and every multiply-add goes through there.
#if defined(__AVX512F__)
constexpr int native_lanes = 16;
#elif defined(__AVX2__)
constexpr int native_lanes = 8;
#else
constexpr int native_lanes = 4;  // SSE2 and NEON, which every x86-64 and every aarch64 has
#endif
using Native = Vector<native_lanes>;
using NativeInts = VectorOf<native_lanes>::ints;

// Accumulators that a loop may keep in registers beside what it loads: AVX2 and SSE2 have sixteen registers, the others 32.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int most_accumulators = 16;
#else
constexpr int most_accumulators = 8;
#endif

template <int lanes>
inline Vector<lanes> broadcast(float value) {
  return Vector<lanes>{} + value;
}

template <class V>
inline V load_unaligned(const float* from) {
  V result;
  std::memcpy(&result, from, sizeof(V));
  return result;
}
template <class V>
inline void store_unaligned(float* to, const V& value) {
  std::memcpy(to, &value, sizeof(V));
}

// a b + c in one rounding where the machine has an instruction for it, as the compiler does with vectors.
inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// |a| and the larger of a and b, lane by lane. A comparison and a blend would do, but wait for each other.
inline Native size_of(const Native& a) { return (Native)((NativeInts)a & 0x7fffffff); }
inline Native larger(const Native& a, const Native& b) {
#if defined(__AVX512F__)
  return (Native)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Native)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Native)_mm_max_ps((__m128)a, (__m128)b);
#elif defined(__aarch64__)
  return (Native)vmaxnmq_f32((float32x4_t)a, (float32x4_t)b);
#else
  return a > b ? a : b;
#endif
}

inline Native square_root(const Native& a) {
#if defined(__AVX512F__)
  return (Native)_mm512_maskz_sqrt_ps(0xffff, (__m512)a);
#elif defined(__AVX2__)
  return (Native)_mm256_sqrt_ps((__m256)a);
#elif defined(__x86_64__)
  return (Native)_mm_sqrt_ps((__m128)a);
#elif defined(__aarch64__)
  return (Native)vsqrtq_f32((float32x4_t)a);
#else
  Native root;
  for (int t = 0; t < native_lanes; ++t) root[t] = __builtin_sqrtf(a[t]);
  return root;
#endif
}

inline float largest_of(const Native& a) {
  float part[native_lanes];
  std::memcpy(part, &a, sizeof(a));
  for (int step = native_lanes / 2; step; step /= 2)
    for (int t = 0; t < step; ++t) part[t] = part[t] > part[t + step] ? part[t] : part[t + step];
  return part[0];
}

// A sum kept in sixteen parts, whatever the machine's width, so that its order is the same on all of them.
struct Sum16 {
  static constexpr int pieces = 16 / native_lanes;
  Native piece[pieces] = {};

  // Adds a[i] b[i] for i < 16.
  void add_products(const float* a, const float* b) {
    for (int p = 0; p < pieces; ++p)
      piece[p] += load_unaligned<Native>(a + p * native_lanes) * load_unaligned<Native>(b + p * native_lanes);
  }
  void parts(float* to) const { std::memcpy(to, piece, 64); }
  // As a tree.
  float total() const {
    float part[16];
    parts(part);
    for (int step = 8; step; step /= 2)
      for (int t = 0; t < step; ++t) part[t] += part[t + step];
    return part[0];
  }
};

// Bit t is set where a[t] > b[t].
template <int lanes>
inline uint32_t greater_mask(const Vector<lanes>& a, const Vector<lanes>& b) {
#if defined(__AVX512VL__)
  if constexpr (lanes == 16) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
  if constexpr (lanes == 8) return _mm256_cmp_ps_mask((__m256)a, (__m256)b, _CMP_GT_OQ);
  if constexpr (lanes == 4) return _mm_cmp_ps_mask((__m128)a, (__m128)b, _CMP_GT_OQ);
#elif defined(__AVX2__)
  if constexpr (lanes == 8)
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)));
  if constexpr (lanes == 4) return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpgt_ps((__m128)a, (__m128)b)));
#elif defined(__x86_64__)
  if constexpr (lanes == 4) return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpgt_ps((__m128)a, (__m128)b)));
#elif defined(__aarch64__)
  if constexpr (lanes == 4) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgtq_f32((float32x4_t)a, (float32x4_t)b), bits));
  }
#endif
  uint32_t mask = 0;
  for (int t = 0; t < lanes; ++t) mask |= static_cast<uint32_t>(a[t] > b[t]) << t;
  return mask;
}

// Where Q vectors' masks are better made together than one by one: NEON has no instruction that gathers the signs of a vector.
#if defined(__aarch64__)
template <int Q>
constexpr bool masks_together = Q >= 8;
#else
template <int Q>
constexpr bool masks_together = false;
#endif

// Bit q * native_lanes + t is set where a[q][t] > b[q][t].
template <int Q>
inline uint64_t greater_masks(const Native* a, const Native* b) {
#if defined(__aarch64__)
  // Two vectors make a byte, and sums of neighbours bring the bytes together, in half the instructions of a sum across each.
  static_assert(Q == 8 || Q == 16);
  const uint32x4_t low = {1, 2, 4, 8}, high = {16, 32, 64, 128};
  uint32x4_t bytes[Q / 8];
  for (int e = 0; e < Q / 8; ++e) {
    uint32x4_t part[4];
    for (int p = 0; p < 4; ++p) {
      const int q = 8 * e + 2 * p;
      const uint32x4_t upper = vandq_u32(vcgtq_f32((float32x4_t)a[q + 1], (float32x4_t)b[q + 1]), high);
      part[p] = vbslq_u32(low, vcgtq_f32((float32x4_t)a[q], (float32x4_t)b[q]), upper);
    }
    bytes[e] = vpaddq_u32(vpaddq_u32(part[0], part[1]), vpaddq_u32(part[2], part[3]));
  }
  const uint16x8_t all = vuzp1q_u16(vreinterpretq_u16_u32(bytes[0]), vreinterpretq_u16_u32(bytes[Q / 8 - 1]));
  const uint64_t mask = vget_lane_u64(vreinterpret_u64_u8(vmovn_u16(all)), 0);
  return Q == 8 ? mask & 0xffffffffu : mask;
#else
  uint64_t mask = 0;
  for (int q = 0; q < Q; ++q) mask |= static_cast<uint64_t>(greater_mask<native_lanes>(a[q], b[q])) << (q * native_lanes);
  return mask;
#endif
}

inline float from_bfloat16(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

inline float from_float16(uint16_t bits) {
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#elif defined(__aarch64__)
  __fp16 half;
  std::memcpy(&half, &bits, 2);
  return half;
#else
  uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu, wide;
  if (magnitude >= 0x7c00u) {
    wide = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
  } else if (magnitude >= 0x400u) {
    wide = sign | ((magnitude << 13) + 0x38000000u);
  } else {
    float tiny = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&wide, &tiny, 4);
    wide |= sign;
  }
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
#endif
}

// Row `token` of the activations as float32, the center subtracted, into to[d_in].
inline void read_token(const Activations& x, int64_t d_in, int64_t token, float* to) {
  if (x.element == Element::float32) {
    const float* from = static_cast<const float*>(x.data) + token * d_in;
    std::memcpy(to, from, static_cast<size_t>(d_in) * 4);
  } else if (x.element == Element::bfloat16) {
    const uint16_t* from = static_cast<const uint16_t*>(x.data) + token * d_in;
    for (int64_t i = 0; i < d_in; ++i) to[i] = from_bfloat16(from[i]);
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(x.data) + token * d_in;
    for (int64_t i = 0; i < d_in; ++i) to[i] = from_float16(from[i]);
  }
  if (x.center)
    for (int64_t i = 0; i < d_in; ++i) to[i] -= x.center[i];
}

// Scratch memory that a thread keeps between calls, so that no call pays for fresh pages. What an earlier call left in it is
// no result: every piece is written before it is read, and `poison` (kernels.h) makes a test of that.
class Scratch {
 public:
  Scratch() = default;
  Scratch(Scratch&& other) noexcept : memory_(other.memory_), size_(other.size_) {
    other.memory_ = nullptr;
    other.size_ = 0;
  }
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch() { std::free(memory_); }
  void* reserve(size_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      size_ = 0;
      const size_t whole = (bytes + 4095) / 4096 * 4096;
      memory_ = std::aligned_alloc(4096, whole);
      if (!memory_) throw std::bad_alloc();
      size_ = whole;
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

// Hands out 64-byte aligned pieces of one allocation.
class Pieces {
 public:
  template <class T>
  void add(T*& pointer, int64_t count) {
    size_t bytes;
    if (used_ == most || count < 0 || __builtin_mul_overflow(static_cast<size_t>(count), sizeof(T), &bytes) ||
        bytes > too_large - total_)
      throw std::bad_alloc();
    offsets_[used_] = total_;
    targets_[used_++] = reinterpret_cast<void**>(&pointer);
    total_ += (bytes + 63) / 64 * 64;
  }
  void place(Scratch& scratch) {
    char* base = static_cast<char*>(scratch.reserve(total_));
    if (poisoned()) std::memset(base, 0xff, total_);
    for (int i = 0; i < used_; ++i) *targets_[i] = base + offsets_[i];
  }

 private:
  static constexpr int most = 96;
  static constexpr size_t too_large = size_t{1} << 48;  // bytes: more than any machine maps
  void** targets_[most];
  size_t offsets_[most];
  size_t total_ = 0;
  int used_ = 0;
};

}  // namespace expander::ISA
