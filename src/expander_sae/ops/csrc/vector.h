// Fixed-width float vectors and per-thread scratch, compiled once per instruction set (namespace ISA).
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace expander::ISA {

template <int lanes>
struct VectorOf {
  typedef float type __attribute__((vector_size(lanes * 4)));
  typedef int32_t ints __attribute__((vector_size(lanes * 4)));
};
template <int lanes>
using Vector = typename VectorOf<lanes>::type;
using Vector16 = Vector<16>;
using Vector16i = VectorOf<16>::ints;

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

// |a| and the larger of a and b, lane by lane. A comparison and a blend would do, but wait for each other.
inline Vector16 size_of(const Vector16& a) {
  typedef int32_t I __attribute__((vector_size(64)));
  return (Vector16)((I)a & 0x7fffffff);
}
inline Vector16 larger(const Vector16& a, const Vector16& b) {
#if defined(__AVX512F__)
  return (Vector16)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  __m256 a2[2], b2[2];
  std::memcpy(a2, &a, 64);
  std::memcpy(b2, &b, 64);
  a2[0] = _mm256_max_ps(a2[0], b2[0]);
  a2[1] = _mm256_max_ps(a2[1], b2[1]);
  Vector16 result;
  std::memcpy(&result, a2, 64);
  return result;
#else
  return a > b ? a : b;
#endif
}

inline Vector16 square_root(const Vector16& a) {
#if defined(__AVX512F__)
  return (Vector16)_mm512_maskz_sqrt_ps(0xffff, (__m512)a);
#elif defined(__AVX2__)
  __m256 a2[2];
  std::memcpy(a2, &a, 64);
  a2[0] = _mm256_sqrt_ps(a2[0]);
  a2[1] = _mm256_sqrt_ps(a2[1]);
  Vector16 result;
  std::memcpy(&result, a2, 64);
  return result;
#else
  Vector16 result;
  for (int t = 0; t < 16; ++t) result[t] = __builtin_sqrtf(a[t]);
  return result;
#endif
}

// Sum of the lanes, as a tree.
inline float sum_of(const Vector16& a) {
  float part[16];
  std::memcpy(part, &a, 64);
  for (int step = 8; step; step /= 2)
    for (int t = 0; t < step; ++t) part[t] += part[t + step];
  return part[0];
}

inline float largest_of(const Vector16& a) {
  float part[16];
  std::memcpy(part, &a, 64);
  for (int step = 8; step; step /= 2)
    for (int t = 0; t < step; ++t) part[t] = part[t] > part[t + step] ? part[t] : part[t + step];
  return part[0];
}

// Bit t is set where a[t] > b[t].
template <int lanes>
inline uint32_t greater_mask(const Vector<lanes>& a, const Vector<lanes>& b) {
#if defined(__AVX512VL__)
  if constexpr (lanes == 16) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
  if constexpr (lanes == 8) return _mm256_cmp_ps_mask((__m256)a, (__m256)b, _CMP_GT_OQ);
  if constexpr (lanes == 4) return _mm_cmp_ps_mask((__m128)a, (__m128)b, _CMP_GT_OQ);
#elif defined(__AVX2__)
  if constexpr (lanes == 16) {
    __m256 a2[2], b2[2];
    std::memcpy(a2, &a, 64);
    std::memcpy(b2, &b, 64);
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a2[0], b2[0], _CMP_GT_OQ))) |
           static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a2[1], b2[1], _CMP_GT_OQ))) << 8;
  }
  if constexpr (lanes == 8)
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)));
  if constexpr (lanes == 4) return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpgt_ps((__m128)a, (__m128)b)));
#endif
  uint32_t mask = 0;
  for (int t = 0; t < lanes; ++t) mask |= static_cast<uint32_t>(a[t] > b[t]) << t;
  return mask;
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
  static constexpr int most = 32;
  static constexpr size_t too_large = size_t{1} << 48;  // bytes: more than any machine maps
  void** targets_[most];
  size_t offsets_[most];
  size_t total_ = 0;
  int used_ = 0;
};

}  // namespace expander::ISA
