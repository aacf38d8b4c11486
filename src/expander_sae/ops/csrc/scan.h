// Finding the candidates for the k largest scores of a tile of tokens without keeping the scores.
//
// A threshold per token, estimated from a sample of the latents, keeps almost every score out of the bookkeeping: only
// those above it are logged. The estimate is never trusted: a token that ends with fewer than k candidates is scanned
// again from its floor.
#pragma once
#include <algorithm>
#include <cmath>

#include "candidates.h"
#include "tile.h"

namespace expander::ISA {

struct SamplePlan {
  int64_t count = 0, stride = 1, rank = 0;
};

// How many latents to sample, and which of their order statistics to use as the first threshold.
inline SamplePlan plan_sample(int64_t n, int64_t k) {
  SamplePlan plan;
  if (n < 512 || k * 8 > n) return plan;
  const int64_t wanted = std::clamp<int64_t>(std::max<int64_t>(n / 16, n / k), 256, n / 4);
  plan.stride = n / wanted;
  plan.count = n / plan.stride;
  const double expected = static_cast<double>(k) * static_cast<double>(plan.count) / static_cast<double>(n);
  plan.rank = static_cast<int64_t>(std::ceil(expected + 3.0 * std::sqrt(expected) + 1.0));
  return plan;
}

// Per lane a threshold with at least `rank` of the sampled values above it (or `base` if there are not as many).
template <int lanes>
Vector<lanes> sample_threshold(const Vector<lanes>* sample, int64_t count, int64_t step, int64_t rank,
                               const Vector<lanes>& base) {
  using V = Vector<lanes>;
  using I = typename VectorOf<lanes>::ints;
  V high = sample[0], low = sample[0];
  for (int64_t s = 0; s < count; ++s) {
    const V value = sample[s * step];
    high = value > high ? value : high;
    low = value < low ? value : low;
  }
  low = low > base ? low : base;
  I at_low{};
  for (int64_t s = 0; s < count; ++s) at_low -= sample[s * step] > low;
  for (int round = 0; round < 12; ++round) {
    const V middle = low + 0.5f * (high - low);
    I above{};
    for (int64_t s = 0; s < count; ++s) above -= sample[s * step] > middle;
    const I enough = above >= static_cast<int32_t>(rank);
    low = enough ? middle : low;
    high = enough ? high : middle;
    const I close = enough & (above <= static_cast<int32_t>(rank + 1 + rank / 8));
    bool all = true;
    for (int t = 0; t < lanes; ++t) all &= close[t] != 0;
    if (all) break;
  }
  // Where even the lowest value has too few above it there is nothing to gain: start from the floor.
  return at_low >= static_cast<int32_t>(rank) ? low : base;
}

template <class D>
inline float pre_activation(const Dictionary& w, const float* bias, const float* x, int64_t j) {
  const int64_t degree = D::of(w.degree);
  const uint16_t* rows = w.rows + j * degree;
  const float* values = w.values + j * degree;
  float sum = 0;
  for (int64_t e = 0; e < degree; ++e) sum = multiply_add(values[e], x[rows[e]], sum);
  return bias ? sum + bias[j] : sum;
}

// Scans latents [first, last) for one token; `found` has room for `capacity` candidates and one block more.
constexpr int64_t block = 64;

template <class D, bool absolute>
void scan_token(const Dictionary& w, const float* bias, const float* x, int64_t first, int64_t last, float threshold,
                int64_t k, int64_t capacity, Candidates& found, int32_t* rank) {
  float pre[block];
  for (int64_t start = first; start < last; start += block) {
    const int64_t size = std::min(block, last - start);
    for (int64_t i = 0; i < size; ++i) {
      pre[i] = pre_activation<D>(w, bias, x, start + i);
      if (absolute) pre[i] = std::fabs(pre[i]);
    }
    for (int64_t i = 0; i < size; ++i)
      if (pre[i] > threshold) found.push(pre[i], start + i);
    if (found.count > capacity) threshold = found.cut(k, rank);
  }
}

inline int64_t capacity_for(int64_t k) { return std::max<int64_t>(2 * k + 32, 128); }
inline int64_t slots_for(int64_t k) { return (capacity_for(k) + block + 15) / 16 * 16; }

// One tile of `width_` tokens against latents [first, last): the candidates for the k largest scores above a floor per
// token. The score is the pre-activation, or its size when `absolute`.
template <int width_, class D, bool absolute = false>
struct TileScan {
  static constexpr int width = width_, lanes = lanes_for<width>, Q = width / lanes;
  using V = Vector<lanes>;
  static constexpr int log_capacity = 32;

  const Dictionary& w;
  const float* bias;
  const int64_t k, capacity, slots;
  const SamplePlan plan;
  V* tile;           // [d_in, Q]
  V* sample;         // [count, Q]
  V* log;            // [log_capacity + 1, Q]
  float* values;     // [width, slots]
  int32_t* latents;  // [width, slots]
  int32_t* rank;     // [slots]
  float* token;      // [d_in]
  int64_t log_latent[log_capacity + 1];
  uint64_t log_mask[log_capacity + 1];
  Candidates found[width];
  alignas(64) float floor[width];
  alignas(64) float threshold[width];

  TileScan(const Dictionary& dictionary, const float* latent_bias, int64_t wanted, const SamplePlan& sampling,
           Scratch& scratch)
      : w(dictionary), bias(latent_bias), k(wanted), capacity(capacity_for(wanted)), slots(slots_for(wanted)),
        plan(sampling) {
    Pieces pieces;
    pieces.add(tile, w.d_in * Q);
    pieces.add(sample, plan.count * Q);
    pieces.add(log, (log_capacity + 1) * Q);
    pieces.add(values, width * slots);
    pieces.add(latents, width * slots);
    pieces.add(rank, slots);
    pieces.add(token, w.d_in);
    pieces.place(scratch);
  }

  static V score(const V& pre) {
    if constexpr (absolute) return pre < 0 ? -pre : pre;
    return pre;
  }

  void flush(int entries, int count) {
    for (int entry = 0; entry < entries; ++entry) {
      const float* logged = reinterpret_cast<const float*>(log + entry * Q);
      for (uint64_t mask = log_mask[entry]; mask; mask &= mask - 1) {
        const int t = __builtin_ctzll(mask);
        found[t].push(logged[t], log_latent[entry]);
      }
    }
    for (int t = 0; t < count; ++t)
      if (found[t].count > capacity) threshold[t] = found[t].cut(k, rank);
  }

  void first_thresholds(int64_t first) {
    std::memcpy(threshold, floor, sizeof(threshold));
    if (!plan.count) return;
    for (int64_t s = 0; s < plan.count; ++s) {
      V* sum = sample + s * Q;
      pre_activations<lanes, Q, D>(w, bias, tile, first + s * plan.stride, sum);
      for (int q = 0; q < Q; ++q) sum[q] = score(sum[q]);
    }
    for (int q = 0; q < Q; ++q) {
      V base;
      std::memcpy(&base, floor + q * lanes, sizeof(V));
      const V estimate = sample_threshold<lanes>(sample + q, plan.count, Q, plan.rank, base);
      std::memcpy(threshold + q * lanes, &estimate, sizeof(V));
    }
  }

  // Fills `found` for lanes below `count`; a lane whose floor is infinite wants nothing.
  void scan(int count, int64_t first, int64_t last) {
    first_thresholds(first);
    bool estimated[width];
    for (int t = 0; t < width; ++t) {
      estimated[t] = threshold[t] > floor[t];
      found[t] = {values + t * slots, latents + t * slots, 0};
    }
    int entries = 0;
    V limit[Q];
    std::memcpy(limit, threshold, sizeof(limit));
    for (int64_t j = first; j < last; ++j) {
      V sum[Q];
      pre_activations<lanes, Q, D>(w, bias, tile, j, sum);
      uint64_t mask = 0;
      for (int q = 0; q < Q; ++q) {
        sum[q] = score(sum[q]);
        mask |= static_cast<uint64_t>(greater_mask<lanes>(sum[q], limit[q])) << (q * lanes);
      }
      // Logged without a branch: an entry that nobody wants is overwritten by the next one.
      for (int q = 0; q < Q; ++q) log[entries * Q + q] = sum[q];
      log_latent[entries] = j;
      log_mask[entries] = mask;
      entries += mask != 0;
      if (entries == log_capacity) {
        flush(entries, count);
        entries = 0;
        std::memcpy(limit, threshold, sizeof(limit));
      }
    }
    flush(entries, count);
    for (int t = 0; t < count; ++t)
      // The estimate was too high for this token: scan it again from the floor.
      if (estimated[t] && found[t].count < std::min(k, last - first)) scan_again(t, first, last);
  }

  // The single best score of each lane, without any bookkeeping.
  void scan_best(int count) {
    typedef typename VectorOf<lanes>::ints I;
    V best[Q];
    I latent[Q];
    for (int q = 0; q < Q; ++q) {
      std::memcpy(&best[q], floor + q * lanes, sizeof(V));
      latent[q] = I{} - 1;
    }
    for (int64_t j = 0; j < w.n_latents; ++j) {
      V sum[Q];
      pre_activations<lanes, Q, D>(w, bias, tile, j, sum);
      for (int q = 0; q < Q; ++q) {
        sum[q] = score(sum[q]);
        const I above = sum[q] > best[q];
        best[q] = above ? sum[q] : best[q];
        latent[q] = above ? I{} + static_cast<int32_t>(j) : latent[q];
      }
    }
    for (int t = 0; t < count; ++t) {
      found[t] = {values + t * slots, latents + t * slots, 0};
      const int32_t j = latent[t / lanes][t % lanes];
      if (j >= 0) found[t].push(best[t / lanes][t % lanes], j);
    }
  }

  void scan_again(int t, int64_t first, int64_t last) {
    const float* flat = reinterpret_cast<const float*>(tile);
    for (int64_t i = 0; i < w.d_in; ++i) token[i] = flat[i * width + t];
    found[t].count = 0;
    scan_token<D, absolute>(w, bias, token, first, last, floor[t], k, capacity, found[t], rank);
  }
};

}  // namespace expander::ISA
