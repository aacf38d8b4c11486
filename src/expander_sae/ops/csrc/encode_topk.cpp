// Fused gather-reduce + exact TopK.
//
// A tile of W tokens is transposed to [d_in, W], so one non-zero of the dictionary is one contiguous fused multiply-add
// and nothing is gathered. A threshold per token, estimated from a sample of the latents, keeps almost every
// pre-activation out of the bookkeeping: only those above it are logged. The estimate is never trusted: a token that
// ends with fewer than k candidates is scanned again from the bottom, so the result is always the exact TopK.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "team.h"
#include "vector.h"

namespace expander::ISA {
namespace {

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
inline void count_above(Vector16i& rank, float other, const Vector16& own) {
#if defined(__AVX512F__)
  constexpr int predicate = ties ? _CMP_GE_OQ : _CMP_GT_OQ;
  const __mmask16 above = _mm512_cmp_ps_mask(_mm512_set1_ps(other), (__m512)own, predicate);
  rank = (Vector16i)_mm512_mask_sub_epi32((__m512i)rank, above, (__m512i)rank, _mm512_set1_epi32(-1));
#else
  const Vector16 all = broadcast<16>(other);
  rank -= ties ? all >= own : all > own;
#endif
}

// rank[i] = how many candidates come before i: larger ones, and equal ones that stand before it. Latents are pushed in
// rising order, so that is the order of the codes. Quadratic, but without a branch: at the sizes met here far cheaper
// than sorting. `values` is padded to whole vectors.
void rank_candidates(const float* values, int64_t count, int32_t* rank) {
  if (count > 1024) {
    std::vector<int64_t> keys(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) keys[static_cast<size_t>(i)] = make_key(values[i], static_cast<int32_t>(i));
    std::sort(keys.begin(), keys.end(), std::greater<int64_t>());
    for (int64_t r = 0; r < count; ++r)
      rank[0xffffffffu - static_cast<uint32_t>(keys[static_cast<size_t>(r)])] = static_cast<int32_t>(r);
    return;
  }
  for (int64_t start = 0; start < count; start += 16) {
    const Vector16 own = load_unaligned<Vector16>(values + start);
    Vector16i sum{};
    const int64_t stop = std::min(start + 16, count);
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

template <int degree_>
struct Degree {
  static constexpr int64_t of(int64_t) { return degree_; }
};
template <>
struct Degree<0> {
  static int64_t of(int64_t degree) { return degree; }
};

// Pre-activations of latent j for a tile of Q vectors.
template <int lanes, int Q, class D>
inline void pre_activations(const Dictionary& w, const float* bias, const Vector<lanes>* tile, int64_t j,
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

template <class D>
inline float pre_activation(const Dictionary& w, const float* bias, const float* x, int64_t j) {
  const int64_t degree = D::of(w.degree);
  const uint16_t* rows = w.rows + j * degree;
  const float* values = w.values + j * degree;
  float sum = 0;
  for (int64_t e = 0; e < degree; ++e) sum = std::fma(values[e], x[rows[e]], sum);
  return bias ? sum + bias[j] : sum;
}

// Scans latents [first, last) for one token; `found` has room for `capacity` candidates and one block more.
constexpr int64_t block = 64;

template <class D>
void scan_token(const Dictionary& w, const float* bias, const float* x, int64_t first, int64_t last, float threshold,
                int64_t k, int64_t capacity, Candidates& found, int32_t* rank) {
  float pre[block];
  for (int64_t start = first; start < last; start += block) {
    const int64_t size = std::min(block, last - start);
    for (int64_t i = 0; i < size; ++i) pre[i] = pre_activation<D>(w, bias, x, start + i);
    for (int64_t i = 0; i < size; ++i)
      if (pre[i] > threshold) found.push(pre[i], start + i);
    if (found.count > capacity) threshold = found.cut(k, rank);
  }
}

struct SamplePlan {
  int64_t count = 0, stride = 1, rank = 0;
};

// How many latents to sample, and which of their order statistics to use as the first threshold.
SamplePlan plan_sample(int64_t n, int64_t k) {
  SamplePlan plan;
  if (n < 512 || k * 8 > n) return plan;
  const int64_t wanted = std::clamp<int64_t>(std::max<int64_t>(n / 16, 2 * n / k), 256, n / 4);
  plan.stride = n / wanted;
  plan.count = n / plan.stride;
  const double expected = static_cast<double>(k) * static_cast<double>(plan.count) / static_cast<double>(n);
  plan.rank = static_cast<int64_t>(std::ceil(expected + 3.0 * std::sqrt(expected) + 1.0));
  return plan;
}

// Per lane a threshold with at least `rank` of the sampled values above it (or `floor` if there are not as many).
template <int lanes>
Vector<lanes> sample_threshold(const Vector<lanes>* sample, int64_t count, int64_t step, int64_t rank, float floor) {
  using V = Vector<lanes>;
  using I = typename VectorOf<lanes>::ints;
  V high = sample[0], low = sample[0];
  for (int64_t s = 0; s < count; ++s) {
    const V value = sample[s * step];
    high = value > high ? value : high;
    low = value < low ? value : low;
  }
  const V base = broadcast<lanes>(floor);
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

inline int64_t capacity_for(int64_t k) { return std::max<int64_t>(2 * k + 32, 128); }
inline int64_t slots_for(int64_t k) { return (capacity_for(k) + block + 15) / 16 * 16; }

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
#define EXPANDER_STAGE(step, ...)                                             \
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

// One token tile of Q * lanes tokens against latents [first, last).
template <int lanes, int Q, class D>
struct TileJob {
  using V = Vector<lanes>;
  static constexpr int width = lanes * Q;
  static constexpr int log_capacity = 32;

  const EncodeArguments& a;
  const int64_t capacity, slots;
  V* tile;                // [d_in, Q]
  V* sample;              // [count, Q]
  V* log;                 // [log_capacity + 1, Q]
  float* values;          // [width, slots]
  int32_t* latents;       // [width, slots]
  int32_t* rank;          // [slots]
  float* token;           // [d_in], for a second scan
  int64_t log_latent[log_capacity + 1];
  uint64_t log_mask[log_capacity + 1];
  Candidates found[width];
  alignas(64) float threshold[width];

  TileJob(const EncodeArguments& arguments, Scratch& scratch, const SamplePlan& plan)
      : a(arguments), capacity(capacity_for(arguments.k)), slots(slots_for(arguments.k)) {
    Pieces pieces;
    pieces.add(tile, a.dictionary.d_in * Q);
    pieces.add(sample, plan.count * Q);
    pieces.add(log, (log_capacity + 1) * Q);
    pieces.add(values, width * slots);
    pieces.add(latents, width * slots);
    pieces.add(rank, slots);
    pieces.add(token, a.dictionary.d_in);
    pieces.place(scratch);
  }

  // Loads up to `count` tokens from `start`, transposed; missing lanes are zero and never read back.
  void load(int64_t start, int count) {
    const int64_t d_in = a.dictionary.d_in;
    float* flat = reinterpret_cast<float*>(tile);
    int64_t i0 = 0;
    if constexpr (width % 16 == 0) {
      for (; i0 + 16 <= d_in; i0 += 16) {
        const Vector16 center = a.x.center ? load_unaligned<Vector16>(a.x.center + i0) : Vector16{};
        for (int t0 = 0; t0 < width; t0 += 16) {
          Vector16 part[16];
          for (int t = 0; t < 16; ++t)
            part[t] = t0 + t < count ? load_coordinates(a.x, (start + t0 + t) * d_in + i0) - center : Vector16{};
          transpose16(part);
          for (int i = 0; i < 16; ++i) store_unaligned(flat + (i0 + i) * width + t0, part[i]);
        }
      }
    }
    if (i0 == d_in) return;
    for (int t = 0; t < width; ++t) {
      if (t < count) read_token(a.x, d_in, start + t, token);
      for (int64_t i = i0; i < d_in; ++i) flat[i * width + t] = t < count ? token[i] : 0.0f;
    }
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
      if (found[t].count > capacity) threshold[t] = found[t].cut(a.k, rank);
  }

  void first_thresholds(int64_t first, const SamplePlan& plan, float floor) {
    if (!plan.count) {
      std::fill(threshold, threshold + width, floor);
      return;
    }
    for (int64_t s = 0; s < plan.count; ++s)
      pre_activations<lanes, Q, D>(a.dictionary, a.bias, tile, first + s * plan.stride, sample + s * Q);
    for (int q = 0; q < Q; ++q) {
      const V estimate = sample_threshold<lanes>(sample + q, plan.count, Q, plan.rank, floor);
      std::memcpy(threshold + q * lanes, &estimate, sizeof(V));
    }
  }

  void scan(int64_t start, int count, int64_t first, int64_t last, const SamplePlan& plan) {
    const float floor = a.is_signed ? -std::numeric_limits<float>::infinity() : 0.0f;
    load(start, count);
    first_thresholds(first, plan, floor);
    bool estimated[width];
    for (int t = 0; t < width; ++t) {
      estimated[t] = threshold[t] > floor;
      found[t] = {values + t * slots, latents + t * slots, 0};
      if (t >= count) threshold[t] = std::numeric_limits<float>::infinity();  // a missing lane wants nothing
    }
    int entries = 0;
    V limit[Q];
    std::memcpy(limit, threshold, sizeof(limit));
    for (int64_t j = first; j < last; ++j) {
      V sum[Q];
      pre_activations<lanes, Q, D>(a.dictionary, a.bias, tile, j, sum);
      uint64_t mask = 0;
      for (int q = 0; q < Q; ++q)
        mask |= static_cast<uint64_t>(greater_mask<lanes>(sum[q], limit[q])) << (q * lanes);
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
    for (int t = 0; t < count; ++t) {
      if (!estimated[t] || found[t].count >= std::min(a.k, last - first)) continue;
      // The estimate was too high for this token: scan it again from the floor.
      found[t].count = 0;
      read_token(a.x, a.dictionary.d_in, start + t, token);
      scan_token<D>(a.dictionary, a.bias, token, first, last, floor, a.k, capacity, found[t], rank);
    }
  }
};

// Writes the best k of `found`, sorted; fills up with zero codes on the lowest free latents.
void finish(const EncodeArguments& a, const Candidates& found, int64_t token, int32_t* rank) {
  int64_t* indices = a.indices + token * a.k;
  float* values = a.values + token * a.k;
  rank_candidates(found.values, found.count, rank);
  for (int64_t i = 0; i < found.count; ++i)
    if (rank[i] < a.k) {
      indices[rank[i]] = found.latents[i];
      values[rank[i]] = found.values[i];
    }
  int64_t filled = found.count, latent = 0;
  while (filled < a.k) {
    if (std::find(indices, indices + found.count, latent) == indices + found.count) {
      indices[filled] = latent;
      values[filled++] = 0.0f;
    }
    ++latent;
  }
}

// What the chunks of the latents found for each token, merged in the order of the latents.
class Partial {
 public:
  Partial(const EncodeArguments& a, int64_t chunks) : a_(a), chunks_(chunks), slots_(slots_for(a.k)) {
    Pieces pieces;
    pieces.add(values_, a.x.batch * chunks * slots_ + 16);
    pieces.add(latents_, a.x.batch * chunks * slots_);
    pieces.add(counts_, a.x.batch * chunks);
    pieces.add(rank_, chunks * slots_);
    pieces.place(memory_);
  }
  Candidates at(int64_t token, int64_t chunk) {
    const int64_t slot = (token * chunks_ + chunk) * slots_;
    return {values_ + slot, latents_ + slot, 0};
  }
  void put(int64_t token, int64_t chunk, const Candidates& found) {
    const Candidates to = at(token, chunk);
    if (to.values != found.values) {
      std::copy(found.values, found.values + found.count, to.values);
      std::copy(found.latents, found.latents + found.count, to.latents);
    }
    counts_[token * chunks_ + chunk] = found.count;
  }
  void finish_token(int64_t token) {
    Candidates all = at(token, 0);
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      const Candidates part = at(token, chunk);
      const int64_t count = counts_[token * chunks_ + chunk];
      std::copy(part.values, part.values + count, all.values + all.count);
      std::copy(part.latents, part.latents + count, all.latents + all.count);
      all.count += count;
    }
    finish(a_, all, token, rank_);
  }

 private:
  const EncodeArguments& a_;
  int64_t chunks_, slots_;
  Scratch memory_;
  float* values_;
  int32_t* latents_;
  int64_t* counts_;
  int32_t* rank_;
};

template <int lanes, int Q, class D>
void run(const EncodeArguments& a) {
  constexpr int width = lanes * Q;
  const int64_t n = a.dictionary.n_latents;
  const int64_t tiles = (a.x.batch + width - 1) / width;
  // Few tiles: the latents are cut into one chunk per thread as well, and the chunks merged afterwards.
  const int64_t chunks = tiles >= a.threads ? 1 : std::min<int64_t>(a.threads, std::max<int64_t>(1, n / 256));
  std::optional<Partial> partial;
  if (chunks > 1) partial.emplace(a, chunks);
  for_each_part(a.threads, tiles * chunks, [&](int64_t part) {
    static thread_local Scratch scratch;
    const int64_t tile = part / chunks, chunk = part % chunks;
    const int64_t first = n * chunk / chunks, last = n * (chunk + 1) / chunks;
    const SamplePlan plan = plan_sample(last - first, a.k);
    TileJob<lanes, Q, D> job(a, scratch, plan);
    const int64_t start = tile * width;
    const int count = static_cast<int>(std::min<int64_t>(width, a.x.batch - start));
    job.scan(start, count, first, last, plan);
    for (int t = 0; t < count; ++t) {
      if (partial)
        partial->put(start + t, chunk, job.found[t]);
      else
        finish(a, job.found[t], start + t, job.rank);
    }
  });
  if (partial)
    for (int64_t token = 0; token < a.x.batch; ++token) partial->finish_token(token);
}

// One token: its activations fit the first-level cache, so plain scalar gathers win over a padded tile.
template <class D>
void run_single(const EncodeArguments& a) {
  const int64_t n = a.dictionary.n_latents, d_in = a.dictionary.d_in;
  const float floor = a.is_signed ? -std::numeric_limits<float>::infinity() : 0.0f;
  const int64_t chunks = std::min<int64_t>(a.threads, std::max<int64_t>(1, n / 1024));
  Partial partial(a, chunks);
  for (int64_t token = 0; token < a.x.batch; ++token) {
    for_each_part(a.threads, chunks, [&](int64_t chunk) {
      static thread_local Scratch scratch;
      float* x;
      int32_t* rank;
      Pieces pieces;
      pieces.add(x, d_in);
      pieces.add(rank, slots_for(a.k));
      pieces.place(scratch);
      read_token(a.x, d_in, token, x);
      Candidates found = partial.at(token, chunk);
      scan_token<D>(a.dictionary, a.bias, x, n * chunk / chunks, n * (chunk + 1) / chunks, floor, a.k,
                    capacity_for(a.k), found, rank);
      partial.put(token, chunk, found);
    });
    partial.finish_token(token);
  }
}

template <class D>
void run_degree(const EncodeArguments& a) {
  const int tile = a.tile ? a.tile
                   : a.x.batch < 3   ? 1
                   : a.x.batch <= 8  ? 8
                   : a.x.batch <= 16 ? 16
                   : a.dictionary.d_in <= 640 ? 16 : 64;
  switch (tile) {
    case 1: return run_single<D>(a);
    case 8: return run<8, 1, D>(a);
    case 16: return run<16, 1, D>(a);
    case 32: return run<16, 2, D>(a);
    default: return run<16, 4, D>(a);
  }
}

}  // namespace

void encode_topk(const EncodeArguments& a) {
  switch (a.dictionary.degree) {
    case 4: return run_degree<Degree<4>>(a);
    case 7: return run_degree<Degree<7>>(a);
    case 8: return run_degree<Degree<8>>(a);
    case 16: return run_degree<Degree<16>>(a);
    default: return run_degree<Degree<0>>(a);
  }
}

}  // namespace expander::ISA
