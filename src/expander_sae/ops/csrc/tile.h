// A tile of tokens, transposed to [d_in, width]: one non-zero of the dictionary is one contiguous multiply-add.
#pragma once
#include <algorithm>

#include "vector.h"

namespace expander::ISA {

// The degree as a compile-time number where that pays (0: read it at run time).
template <int degree_>
struct Degree {
  static constexpr int64_t of(int64_t) { return degree_; }
};
template <>
struct Degree<0> {
  static int64_t of(int64_t degree) { return degree; }
};

// Calls run(Degree<d>{}) for the degrees compiled in, and run(Degree<0>{}) for any other.
template <class Run>
void with_degree(int64_t degree, Run&& run) {
  switch (degree) {
    case 4: return run(Degree<4>{});
    case 7: return run(Degree<7>{});
    case 8: return run(Degree<8>{});
    case 16: return run(Degree<16>{});
    default: return run(Degree<0>{});
  }
}

// Pre-activations of latent j for a tile of Q vectors.
template <int lanes, int Q, class D>
[[gnu::always_inline]] inline void pre_activations(const Dictionary& w, const float* bias, const Vector<lanes>* tile, int64_t j,
                            Vector<lanes>* sum) {
  const int64_t degree = D::of(w.degree);
  const uint16_t* rows = w.rows + j * degree;
  const float* values = w.values + j * degree;
  for (int q = 0; q < Q; ++q) sum[q] = Vector<lanes>{};
  for (int64_t e = 0; e < degree; ++e) {
    const Vector<lanes>* row = tile + static_cast<int64_t>(rows[e]) * Q;
    for (int q = 0; q < Q; ++q) sum[q] += values[e] * row[q];
  }
  if (bias)
    for (int q = 0; q < Q; ++q) sum[q] += bias[j];
}

// Loads 16 coordinates of one token as float32.
inline Vector16 load_coordinates(const Activations& x, int64_t at) {
  if (x.element == Element::float32) return load_unaligned<Vector16>(static_cast<const float*>(x.data) + at);
  const uint16_t* from = static_cast<const uint16_t*>(x.data) + at;
  Vector16 result;
  float* to = reinterpret_cast<float*>(&result);
  if (x.element == Element::bfloat16)
    for (int i = 0; i < 16; ++i) to[i] = from_bfloat16(from[i]);
  else
    for (int i = 0; i < 16; ++i) to[i] = from_float16(from[i]);
  return result;
}

// Transposes 16 vectors of 16 in place, a block of half the size at a time.
inline void transpose16(Vector16* v) {
#define EXPANDER_STAGE(step)                                                  \
  for (int i = 0; i < 16; ++i)                                                \
    if (!(i & step)) {                                                        \
      const Vector16 a = v[i], b = v[i | step];                               \
      v[i] = __builtin_shufflevector(a, b, EXPANDER_LOW_##step);              \
      v[i | step] = __builtin_shufflevector(a, b, EXPANDER_HIGH_##step);      \
    }
#define EXPANDER_LOW_1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define EXPANDER_HIGH_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define EXPANDER_LOW_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define EXPANDER_HIGH_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define EXPANDER_LOW_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define EXPANDER_HIGH_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define EXPANDER_LOW_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define EXPANDER_HIGH_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
  EXPANDER_STAGE(1)
  EXPANDER_STAGE(2)
  EXPANDER_STAGE(4)
  EXPANDER_STAGE(8)
#undef EXPANDER_STAGE
}

// Loads up to `count` tokens from `start` into flat [d_in, width]; missing lanes are zero. `token` is scratch [d_in].
template <int width>
void load_tile(const Activations& x, int64_t d_in, int64_t start, int count, float* flat, float* token) {
  int64_t i0 = 0;
  if constexpr (width % 16 == 0) {
    for (; i0 + 16 <= d_in; i0 += 16) {
      const Vector16 center = x.center ? load_unaligned<Vector16>(x.center + i0) : Vector16{};
      for (int t0 = 0; t0 < width; t0 += 16) {
        Vector16 part[16];
        for (int t = 0; t < 16; ++t)
          part[t] = t0 + t < count ? load_coordinates(x, (start + t0 + t) * d_in + i0) - center : Vector16{};
        transpose16(part);
        for (int i = 0; i < 16; ++i) store_unaligned(flat + (i0 + i) * width + t0, part[i]);
      }
    }
  }
  if (i0 == d_in) return;
  for (int t = 0; t < width; ++t) {
    if (t < count) read_token(x, d_in, start + t, token);
    for (int64_t i = i0; i < d_in; ++i) flat[i * width + t] = t < count ? token[i] : 0.0f;
  }
}

}  // namespace expander::ISA
