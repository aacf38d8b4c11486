// A tile of tokens, transposed to [d_in, width]: one non-zero of the dictionary is one contiguous multiply-add.
#pragma once
#include <algorithm>
#include <utility>

#include "vector.h"

namespace expander::ISA {

// The degree as a compile-time number where that pays (0: read it at run time).
template <int degree_>
struct Degree {
  static constexpr int64_t of(int64_t) { return degree_; }
  static constexpr int64_t length(const Dictionary&, int64_t) { return degree_; }
};
template <>
struct Degree<0> {
  static int64_t of(int64_t degree) { return degree; }
  static int64_t length(const Dictionary& w, int64_t j) { return w.length(j); }
};

// Calls run(Degree<d>{}) for the degrees compiled in, and run(Degree<0>{}) for any other, and for columns of different lengths.
template <class Run>
void with_degree(const Dictionary& w, Run&& run) {
  switch (w.lengths ? 0 : w.degree) {
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
  const int64_t degree = D::of(w.degree), length = D::length(w, j);
  const uint16_t* rows = w.rows + j * degree;
  const float* values = w.values + j * degree;
  for (int q = 0; q < Q; ++q) sum[q] = Vector<lanes>{};
  for (int64_t e = 0; e < length; ++e) {
    const Vector<lanes>* row = tile + static_cast<int64_t>(rows[e]) * Q;
    for (int q = 0; q < Q; ++q) sum[q] += values[e] * row[q];
  }
  if (bias)
    for (int q = 0; q < Q; ++q) sum[q] += bias[j];
}

// Loads some coordinates of one token as float32.
template <int lanes>
inline Vector<lanes> load_coordinates(const Activations& x, int64_t at) {
  if (x.element == Element::float32) return load_unaligned<Vector<lanes>>(static_cast<const float*>(x.data) + at);
  const uint16_t* from = static_cast<const uint16_t*>(x.data) + at;
  if (x.element == Element::bfloat16) {
    typename VectorOf<lanes>::halves bits;
    std::memcpy(&bits, from, sizeof(bits));
    return (Vector<lanes>)(__builtin_convertvector(bits, typename VectorOf<lanes>::words) << 16);
  }
#if defined(__AVX512F__)
  if constexpr (lanes == 16) return (Vector<lanes>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
#if defined(__F16C__)
  if constexpr (lanes == 8) return (Vector<lanes>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#endif
#if defined(__aarch64__)
  if constexpr (lanes == 4) return (Vector<lanes>)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#endif
  Vector<lanes> result{};
  for (int i = 0; i < lanes; ++i) result[i] = from_float16(from[i]);
  return result;
}

// Transposes as many vectors as they have lanes in place, blocks of one, two, four... at a time.
template <int lanes, int step = 1>
[[gnu::always_inline]] inline void transpose(Vector<lanes>* v) {
  [&]<int... i>(std::integer_sequence<int, i...>) {
    for (int row = 0; row < lanes; ++row) {
      if (row & step) continue;
      const Vector<lanes> a = v[row], b = v[row | step];
      v[row] = __builtin_shufflevector(a, b, (i & step ? lanes + i - step : i)...);
      v[row | step] = __builtin_shufflevector(a, b, (i & step ? lanes + i : i + step)...);
    }
  }(std::make_integer_sequence<int, lanes>{});
  if constexpr (2 * step < lanes) transpose<lanes, 2 * step>(v);
}

// The vectors in which a tile of `width` tokens is kept.
template <int width>
constexpr int lanes_for = width < native_lanes ? width : native_lanes;

// Wider tiles would not fit the registers. On x86-64 the second-level cache feeds half of what the units take (32 bytes a cycle
// of 64 on a Zen 4), and of a narrower tile more stays in the first; below 32 tokens what is done per latent costs too much.
#if defined(__x86_64__)
constexpr int largest_tile = 32;
#else
constexpr int largest_tile = most_accumulators * native_lanes < 64 ? most_accumulators * native_lanes : 64;
#endif

// Loads up to `count` tokens from `start` into flat [d_in, width]; missing lanes are zero. `token` is scratch [d_in].
template <int width>
void load_tile(const Activations& x, int64_t d_in, int64_t start, int count, float* flat, float* token) {
  constexpr int lanes = lanes_for<width>;
  using V = Vector<lanes>;
  int64_t i0 = 0;
  for (; i0 + lanes <= d_in; i0 += lanes) {
    const V center = x.center ? load_unaligned<V>(x.center + i0) : V{};
    for (int t0 = 0; t0 < width; t0 += lanes) {
      V part[lanes];
      for (int t = 0; t < lanes; ++t)
        part[t] = t0 + t < count ? load_coordinates<lanes>(x, (start + t0 + t) * d_in + i0) - center : V{};
      transpose<lanes>(part);
      for (int i = 0; i < lanes; ++i) store_unaligned(flat + (i0 + i) * width + t0, part[i]);
    }
  }
  if (i0 == d_in) return;
  for (int t = 0; t < width; ++t) {
    if (t < count) read_token(x, d_in, start + t, token);
    for (int64_t i = i0; i < d_in; ++i) flat[i * width + t] = t < count ? token[i] : 0.0f;
  }
}

// Pre-activations of a block of latents [first, first + block) for a tile of sixteen tokens, by token: to(t, values), a
// vector of `block` numbers; latents from `last` on are zero.
template <class D, class To>
[[gnu::always_inline]] inline void correlate_sixteen(const Dictionary& w, const Native* tile, int64_t first, int64_t last, To&& to) {
  constexpr int block = native_lanes, Q = 16 / native_lanes;
  Native found[Q][block];
  for (int j = 0; j < block; ++j) {
    Native sum[Q] = {};
    if (first + j < last) pre_activations<native_lanes, Q, D>(w, nullptr, tile, first + j, sum);
    for (int q = 0; q < Q; ++q) found[q][j] = sum[q];
  }
  for (int q = 0; q < Q; ++q) {
    transpose<native_lanes>(found[q]);
    for (int t = 0; t < block; ++t) to(q * native_lanes + t, found[q][t]);
  }
}

}  // namespace expander::ISA
