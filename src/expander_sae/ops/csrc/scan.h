// Finding the candidates for the k largest scores of a tile of tokens without keeping the scores.
//
// A threshold per token, estimated from a sample of the latents, keeps almost every score out of the bookkeeping: only
// those above it become candidates. It rises to the k-th best whenever a token has twice as many candidates. The estimate is
// never trusted: a token that ends with fewer than k candidates is scanned again from its floor.
#pragma once
#include <algorithm>
#include <cmath>

#include "candidates.h"
#include "tile.h"

namespace expander::ISA {

struct SamplePlan {
  int64_t count = 0, stride = 1, rank = 0, groups = 0;
};

// How many latents to sample, and which of their order statistics to use as the first threshold. Only the best of each group
// of neighbours in the sample is kept. With sixteen groups for each that belongs above the threshold, two of those rarely meet
// in one; where they do, the threshold is a little low, never too high.
inline SamplePlan plan_sample(int64_t n, int64_t k) {
  SamplePlan plan;
  if (n < 512 || k * 8 > n) return plan;
  const int64_t wanted = std::min<int64_t>(std::max<int64_t>({n / 16, n / k, 256}), n / 4);
  plan.stride = n / wanted;
  plan.count = n / plan.stride;
  const double expected = static_cast<double>(k) * static_cast<double>(plan.count) / static_cast<double>(n);
  plan.rank = static_cast<int64_t>(std::ceil(expected + 3.0 * std::sqrt(expected) + 1.0));
  plan.groups = std::min(plan.count, 16 * plan.rank);
  return plan;
}

constexpr int64_t block = 64;  // latents between two looks at a threshold

inline int64_t capacity_for(int64_t k) { return std::max<int64_t>((2 * k + 15) / 16 * 16, 32); }
inline int64_t slots_for(int64_t k) { return (capacity_for(k) + block + 15) / 16 * 16; }

// Scans latents [first, last) for one token; `found` has room for `slots_for(k)` candidates. The score is the pre-activation,
// or its size when `absolute`.
void scan_token(const Dictionary& w, const float* bias, bool absolute, const float* x, int64_t first, int64_t last,
                float threshold, int64_t k, Candidates& found, int32_t* rank);

// One tile of `width` tokens against latents [first, last): the candidates for the k largest scores above a floor per token.
// What depends on the degree and the kind of score is compiled in scan.cpp, once for all that scan.
template <int width_>
struct TileScan {
  static constexpr int width = width_, lanes = lanes_for<width>, Q = width / lanes;
  using V = Vector<lanes>;

  const Dictionary& w;
  const float* bias;
  const bool absolute;
  const int64_t k, capacity, slots;
  const SamplePlan plan;
  V* tile;           // [d_in, Q]
  V* sample;         // [groups, Q]
  V* scores;         // [block, Q]
  float* values;     // [width, slots]
  int32_t* latents;  // [width, slots]
  int32_t* rank;     // [slots]
  float* token;      // [d_in]
  uint64_t above[block];  // for each latent of a block, the lanes whose score exceeds their threshold
  Candidates found[width];
  alignas(64) float floor[width];
  alignas(64) float threshold[width];

  TileScan(const Dictionary& dictionary, const float* latent_bias, bool by_size, int64_t wanted, const SamplePlan& sampling,
           Scratch& scratch)
      : w(dictionary), bias(latent_bias), absolute(by_size), k(wanted), capacity(capacity_for(wanted)), slots(slots_for(wanted)),
        plan(sampling) {
    Pieces pieces;
    pieces.add(tile, w.d_in * Q);
    pieces.add(sample, plan.groups * Q);
    pieces.add(scores, block * Q);
    pieces.add(values, width * slots);
    pieces.add(latents, width * slots);
    pieces.add(rank, slots);
    pieces.add(token, w.d_in);
    pieces.place(scratch);
  }

  // Fills `found` for lanes below `count`; a lane whose floor is infinite wants nothing.
  void scan(int count, int64_t first, int64_t last);
  // The single best score of each lane, without any bookkeeping.
  void scan_best(int count);
};

}  // namespace expander::ISA
