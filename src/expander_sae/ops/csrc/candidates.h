// The few latents per token that may be among its k best, and their exact order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
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
  for (int64_t start = 0; start < count; start += native_lanes) {
    const Native own = load_unaligned<Native>(values + start);
    NativeInts sum{};
    const int64_t stop = std::min(start + native_lanes, count);
    for (int64_t j = 0; j < start; ++j) count_above<true>(sum, values[j], own);
    for (int64_t j = stop; j < count; ++j) count_above<false>(sum, values[j], own);
    for (int64_t j = start; j < stop; ++j)
      for (int64_t i = start; i < stop; ++i)
        sum[i - start] += values[j] > values[i] || (values[j] == values[i] && j < i);
    std::memcpy(rank + start, &sum, sizeof(sum));
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
      if (rank[i] >= k) continue;
      if (rank[i] == k - 1) least = values[i];
      values[kept] = values[i];
      latents[kept++] = latents[i];
    }
    count = kept;
    return least;
  }
};

}  // namespace expander::ISA
