// The scans of scan.h, for the degrees compiled in and both kinds of score.
#include <limits>
#include <type_traits>

#include "scan.h"

namespace expander::ISA {
namespace {

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
  const int64_t degree = D::of(w.degree), length = D::length(w, j);
  const uint16_t* rows = w.rows + j * degree;
  const float* values = w.values + j * degree;
  float sum = 0;
  for (int64_t e = 0; e < length; ++e) sum = multiply_add(values[e], x[rows[e]], sum);
  return bias ? sum + bias[j] : sum;
}

template <class D, bool absolute>
void scan_one(const Dictionary& w, const float* bias, const float* x, int64_t first, int64_t last, float threshold, int64_t k,
              Candidates& found, int32_t* rank) {
  const int64_t capacity = capacity_for(k);
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

template <class V, bool absolute>
inline V score(const V& pre) {
#if defined(__aarch64__)
  if constexpr (absolute) return size_of(pre);
#endif
  if constexpr (absolute) return pre < 0 ? -pre : pre;
  return pre;
}

// Scores of a block of latents for all tokens; bit i of what it returns says that some token wants latent start + i.
//
// Everything is stored where it belongs in the block, wanted or not. An address that depended on the comparisons before it
// (the end of a list of wanted ones) would hold up the loads of the next latent on machines that let no load pass a store
// whose address is not known yet.
template <class Tile, class D, bool absolute>
[[gnu::always_inline]] inline uint64_t score_block(Tile& tile, const Dictionary& w, int64_t start, int size) {
  using V = typename Tile::V;
  constexpr int Q = Tile::Q, lanes = Tile::lanes;
  const float* bias = tile.bias;
  const V* x = tile.tile;
  V* scores = tile.scores;
  V limit[Q];
  std::memcpy(limit, tile.threshold, sizeof(limit));
  uint64_t hits = 0;
  for (int i = 0; i < size; ++i) {
    V sum[Q];
    pre_activations<lanes, Q, D>(w, bias, x, start + i, sum);
    uint64_t mask = 0;
    for (int q = 0; q < Q; ++q) {
      sum[q] = score<V, absolute>(sum[q]);
      if constexpr (!masks_together<Q>) mask |= static_cast<uint64_t>(greater_mask<lanes>(sum[q], limit[q])) << (q * lanes);
    }
    if constexpr (masks_together<Q>) mask = greater_masks<Q>(sum, limit);
    for (int q = 0; q < Q; ++q) scores[i * Q + q] = sum[q];
    tile.above[i] = mask;
    hits |= static_cast<uint64_t>(mask != 0) << i;
  }
  return hits;
}

// Makes candidates of a block's scores above the thresholds.
template <class Tile>
void collect(Tile& tile, int64_t start, uint64_t hits) {
  for (; hits; hits &= hits - 1) {
    const int i = __builtin_ctzll(hits);
    const float* scores = reinterpret_cast<const float*>(tile.scores + i * Tile::Q);
    for (uint64_t mask = tile.above[i]; mask; mask &= mask - 1) {
      const int t = __builtin_ctzll(mask);
      Candidates& found = tile.found[t];
      found.push(scores[t], start + i);
      if (found.count == tile.capacity) tile.threshold[t] = found.cut(tile.k, tile.rank);
    }
  }
}

template <class Tile, class D, bool absolute>
void first_thresholds(Tile& tile, int64_t first) {
  using V = typename Tile::V;
  constexpr int Q = Tile::Q, lanes = Tile::lanes;
  std::memcpy(tile.threshold, tile.floor, sizeof(tile.threshold));
  const SamplePlan& plan = tile.plan;
  if (!plan.count) return;
  for (int64_t group = 0; group < plan.groups; ++group) {
    V best[Q];
    for (int q = 0; q < Q; ++q) best[q] = V{} - std::numeric_limits<float>::infinity();
    const int64_t end = plan.count * (group + 1) / plan.groups;
    for (int64_t s = plan.count * group / plan.groups; s < end; ++s) {
      V sum[Q];  // in registers: summed where they belong, they would be stored at every multiply-add
      pre_activations<lanes, Q, D>(tile.w, tile.bias, tile.tile, first + s * plan.stride, sum);
      for (int q = 0; q < Q; ++q) {
        sum[q] = score<V, absolute>(sum[q]);
        best[q] = sum[q] > best[q] ? sum[q] : best[q];
      }
    }
    for (int q = 0; q < Q; ++q) tile.sample[group * Q + q] = best[q];
  }
  for (int q = 0; q < Q; ++q) {
    V base;
    std::memcpy(&base, tile.floor + q * lanes, sizeof(V));
    const V estimate = sample_threshold<lanes>(tile.sample + q, plan.groups, Q, plan.rank, base);
    std::memcpy(tile.threshold + q * lanes, &estimate, sizeof(V));
  }
}

template <class Tile, class D, bool absolute>
void scan_again(Tile& tile, int t, int64_t first, int64_t last) {
  const float* flat = reinterpret_cast<const float*>(tile.tile);
  for (int64_t i = 0; i < tile.w.d_in; ++i) tile.token[i] = flat[i * Tile::width + t];
  tile.found[t].count = 0;
  scan_one<D, absolute>(tile.w, tile.bias, tile.token, first, last, tile.floor[t], tile.k, tile.found[t], tile.rank);
}

template <class Tile, class D, bool absolute>
void scan_tile(Tile& tile, int count, int64_t first, int64_t last) {
  constexpr int width = Tile::width;
  first_thresholds<Tile, D, absolute>(tile, first);
  bool estimated[width];
  for (int t = 0; t < width; ++t) {
    estimated[t] = tile.threshold[t] > tile.floor[t];
    tile.found[t] = {tile.values + t * tile.slots, tile.latents + t * tile.slots, 0};
  }
  const Dictionary w = tile.w;  // a copy: the compiler knows that no store changes it
  for (int64_t start = first; start < last; start += block) {
    const uint64_t hits = score_block<Tile, D, absolute>(tile, w, start, static_cast<int>(std::min(block, last - start)));
    collect(tile, start, hits);
  }
  for (int t = 0; t < count; ++t)
    // The estimate was too high for this token: scan it again from the floor.
    if (estimated[t] && tile.found[t].count < std::min(tile.k, last - first)) scan_again<Tile, D, absolute>(tile, t, first, last);
}

template <class Tile, class D, bool absolute>
void best_of_tile(Tile& tile, int count) {
  using V = typename Tile::V;
  using I = typename VectorOf<Tile::lanes>::ints;
  constexpr int Q = Tile::Q, lanes = Tile::lanes;
  V best[Q];
  I latent[Q];
  for (int q = 0; q < Q; ++q) {
    std::memcpy(&best[q], tile.floor + q * lanes, sizeof(V));
    latent[q] = I{} - 1;
  }
  const Dictionary w = tile.w;
  for (int64_t j = 0; j < w.n_latents; ++j) {
    V sum[Q];
    pre_activations<lanes, Q, D>(w, tile.bias, tile.tile, j, sum);
    for (int q = 0; q < Q; ++q) {
      sum[q] = score<V, absolute>(sum[q]);
      const I above = sum[q] > best[q];
      best[q] = above ? sum[q] : best[q];
      latent[q] = above ? I{} + static_cast<int32_t>(j) : latent[q];
    }
  }
  for (int t = 0; t < count; ++t) {
    tile.found[t] = {tile.values + t * tile.slots, tile.latents + t * tile.slots, 0};
    const int32_t j = latent[t / lanes][t % lanes];
    if (j >= 0) tile.found[t].push(best[t / lanes][t % lanes], j);
  }
}

// Calls run(Degree<d>{}, absolute as a constant).
template <class Run>
void as_constants(const Dictionary& w, bool absolute, Run&& run) {
  with_degree(w, [&](auto d) { absolute ? run(d, std::true_type{}) : run(d, std::false_type{}); });
}

}  // namespace

void scan_token(const Dictionary& w, const float* bias, bool absolute, const float* x, int64_t first, int64_t last,
                float threshold, int64_t k, Candidates& found, int32_t* rank) {
  as_constants(w, absolute, [&](auto d, auto by_size) {
    scan_one<decltype(d), by_size()>(w, bias, x, first, last, threshold, k, found, rank);
  });
}

template <int width>
void TileScan<width>::scan(int count, int64_t first, int64_t last) {
  as_constants(w, absolute, [&](auto d, auto by_size) {
    scan_tile<TileScan, decltype(d), by_size()>(*this, count, first, last);
  });
}

template <int width>
void TileScan<width>::scan_best(int count) {
  as_constants(w, absolute, [&](auto d, auto by_size) { best_of_tile<TileScan, decltype(d), by_size()>(*this, count); });
}

template struct TileScan<8>;
template struct TileScan<16>;
template struct TileScan<32>;
#if !defined(__x86_64__)
template struct TileScan<64>;
#endif
static_assert(largest_tile <= 64 && block <= 64);

}  // namespace expander::ISA
