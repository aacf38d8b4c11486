// The few latents per token that may be among its k best, and their exact order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "vector.h"

namespace expander::ISA {

// A candidate as one integer: greater means a larger value, then a lower latent.
inline int64_t make_key(float value, int32_t latent) {
  value += 0.0f;  // -0 ties with +0
  int32_t bits;
  std::memcpy(&bits, &value, 4);
  bits ^= (bits >> 31) & 0x7fffffff;
  return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(bits)) << 32 |
                              (0xffffffffu - static_cast<uint32_t>(latent)));
}

// Adds one to each lane of `rank` where other > own, or, with ties, other >= own.
template <bool ties>
inline void count_above(NativeInts& rank, float other, const Native& own) {
#if defined(__AVX512F__)
  constexpr int predicate = ties ? _CMP_GE_OQ : _CMP_GT_OQ;
  const __mmask16 above = _mm512_cmp_ps_mask(_mm512_set1_ps(other), (__m512)own, predicate);
  rank = (NativeInts)_mm512_mask_sub_epi32((__m512i)rank, above, (__m512i)rank, _mm512_set1_epi32(-1));
#else
  const Native all = broadcast<native_lanes>(other);
  rank -= ties ? all >= own : all > own;
#endif
}

// The same where `other` stands in lane `at` of `own`: of equal ones, those in the lanes after it come later.
inline void count_above_within(NativeInts& rank, float other, const Native& own, int at) {
#if defined(__AVX512F__)
  const __m512 all = _mm512_set1_ps(other);
  const uint32_t more = _mm512_cmp_ps_mask(all, (__m512)own, _CMP_GT_OQ), equal = _mm512_cmp_ps_mask(all, (__m512)own, _CMP_EQ_OQ);
  const auto above = static_cast<__mmask16>(more | (equal & (0xfffeu << at)));
  rank = (NativeInts)_mm512_mask_sub_epi32((__m512i)rank, above, (__m512i)rank, _mm512_set1_epi32(-1));
#else
  NativeInts lane;
  for (int t = 0; t < native_lanes; ++t) lane[t] = t;
  const Native all = broadcast<native_lanes>(other);
  rank -= (all > own) | ((all == own) & (lane > at));
#endif
}

// Ranks of the candidates in `vectors` vectors from `start` on: each other value is broadcast once for all of them.
template <int vectors>
inline void rank_vectors(const float* values, int64_t start, int64_t count, int32_t* rank) {
  Native own[vectors];
  NativeInts sum[vectors] = {};
  for (int v = 0; v < vectors; ++v) own[v] = load_unaligned<Native>(values + start + v * native_lanes);
  for (int64_t j = 0; j < start; ++j)
    for (int v = 0; v < vectors; ++v) count_above<true>(sum[v], values[j], own[v]);
  // Among themselves, vector by vector; which one is a constant, or the sums would be kept in memory.
  [&]<int... b>(std::integer_sequence<int, b...>) {
    ([&] {
      const int64_t first = start + b * native_lanes, last = std::min(first + native_lanes, count);
      for (int64_t j = first; j < last; ++j) {
        for (int v = 0; v < b; ++v) count_above<false>(sum[v], values[j], own[v]);
        count_above_within(sum[b], values[j], own[b], static_cast<int>(j - first));
        for (int v = b + 1; v < vectors; ++v) count_above<true>(sum[v], values[j], own[v]);
      }
    }(), ...);
  }(std::make_integer_sequence<int, vectors>{});
  for (int64_t j = start + vectors * native_lanes; j < count; ++j)
    for (int v = 0; v < vectors; ++v) count_above<false>(sum[v], values[j], own[v]);
  for (int v = 0; v < vectors; ++v) std::memcpy(rank + start + v * native_lanes, &sum[v], sizeof(sum[v]));
}

// rank[i] = how many candidates come before i: larger ones, and equal ones that stand before it. Latents are pushed in
// rising order, so that is the order of the codes. Quadratic, but without a branch: at the sizes met here far cheaper
// than sorting. `values` is padded to whole vectors.
inline void rank_candidates(const float* values, int64_t count, int32_t* rank) {
  if (count > 1024) {
    std::vector<int64_t> keys(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) keys[static_cast<size_t>(i)] = make_key(values[i], static_cast<int32_t>(i));
    std::sort(keys.begin(), keys.end(), std::greater<int64_t>());
    for (int64_t r = 0; r < count; ++r)
      rank[0xffffffffu - static_cast<uint32_t>(keys[static_cast<size_t>(r)])] = static_cast<int32_t>(r);
    return;
  }
  for (int64_t start = 0; start < count; start += 4 * native_lanes) {
    switch (std::min<int64_t>((count - start + native_lanes - 1) / native_lanes, 4)) {
      case 1: rank_vectors<1>(values, start, count, rank); break;
      case 2: rank_vectors<2>(values, start, count, rank); break;
      case 3: rank_vectors<3>(values, start, count, rank); break;
      default: rank_vectors<4>(values, start, count, rank);
    }
  }
}

// The candidates of one token in rising order of latents; cut back to the best k when they become too many.
struct Candidates {
  float* values;
  int32_t* latents;
  int64_t count;

  void push(float value, int64_t latent) {
    values[count] = value;
    latents[count++] = static_cast<int32_t>(latent);
  }
  // Keeps the best k and returns the least of them: later latents must exceed it.
  float cut(int64_t k, int32_t* rank) {
    rank_candidates(values, count, rank);
    float least = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      // Without a branch: which of them stay is as good as random.
      least = rank[i] == k - 1 ? values[i] : least;
      values[kept] = values[i];
      latents[kept] = latents[i];
      kept += rank[i] < k;
    }
    count = kept;
    return least;
  }
};

}  // namespace expander::ISA
