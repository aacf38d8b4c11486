// Fused gather-reduce + exact TopK.
//
// A tile of W tokens is transposed to [d_in, W], so one non-zero of the dictionary is one contiguous fused multiply-add
// and nothing is gathered. A threshold per token, estimated from a sample of the latents, keeps almost every
// pre-activation out of the bookkeeping: only those above it are logged. The estimate is never trusted: a token that
// ends with fewer than k candidates is scanned again from the bottom, so the result is always the exact TopK.
#include <algorithm>
#include <cmath>
#include <limits>

#include "team.h"
#include "vector.h"

namespace expander::ISA {
namespace {

// A candidate as one integer: greater means a larger value, then a lower latent.
inline int64_t make_key(float value, int64_t latent) {
  value += 0.0f;  // -0 ties with +0
  int32_t bits;
  std::memcpy(&bits, &value, 4);
  bits ^= (bits >> 31) & 0x7fffffff;
  return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(bits)) << 32 |
                              (0xffffffffu - static_cast<uint32_t>(latent)));
}
inline float key_value(int64_t key) {
  int32_t bits = static_cast<int32_t>(key >> 32);
  bits ^= (bits >> 31) & 0x7fffffff;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline int64_t key_latent(int64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

// The candidates of one token: at most `capacity` keys, cut back to the best k when full.
struct Candidates {
  int64_t* keys;
  int64_t count, capacity, k;

  // Adds a candidate; returns the new threshold if the buffer was cut back, else `threshold`.
  float push(float value, int64_t latent, float threshold) {
    keys[count++] = make_key(value, latent);
    return count == capacity ? cut(threshold) : threshold;
  }
  float cut(float threshold) {
    if (count < k) return threshold;
    if (count > k) {
      std::nth_element(keys, keys + k - 1, keys + count, std::greater<int64_t>());
      count = k;
      return key_value(keys[k - 1]);
    }
    return key_value(*std::min_element(keys, keys + k));
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

// Scans latents [first, last) for one token.
template <class D>
float scan_token(const Dictionary& w, const float* bias, const float* x, int64_t first, int64_t last, float threshold,
                 Candidates& found) {
  constexpr int64_t block = 64;
  float pre[block];
  for (int64_t start = first; start < last; start += block) {
    const int64_t count = std::min(block, last - start);
    for (int64_t i = 0; i < count; ++i) pre[i] = pre_activation<D>(w, bias, x, start + i);
    for (int64_t i = 0; i < count; ++i)
      if (pre[i] > threshold) threshold = found.push(pre[i], start + i, threshold);
  }
  return threshold;
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

// One token tile of Q * lanes tokens against latents [first, last).
template <int lanes, int Q, class D>
struct TileJob {
  using V = Vector<lanes>;
  static constexpr int width = lanes * Q;
  static constexpr int log_capacity = 32;

  const EncodeArguments& a;
  float* tokens;  // [width, d_in]
  V* tile;        // [d_in, Q]
  V* sample;      // [count, Q]
  V* log;         // [log_capacity, Q]
  int64_t* keys;  // [width, capacity]
  int64_t capacity;
  int64_t log_latent[log_capacity + 1];
  uint64_t log_mask[log_capacity + 1];
  Candidates found[width];
  alignas(64) float threshold[width];

  explicit TileJob(const EncodeArguments& arguments, Scratch& scratch, const SamplePlan& plan)
      : a(arguments), capacity(2 * arguments.k + 64) {
    Pieces pieces;
    pieces.add(tokens, width * a.dictionary.d_in);
    pieces.add(tile, a.dictionary.d_in * Q);
    pieces.add(sample, plan.count * Q);
    pieces.add(log, (log_capacity + 1) * Q);
    pieces.add(keys, width * capacity);
    pieces.place(scratch);
  }

  // Loads up to `count` tokens from `start`; missing lanes are zero and never read back.
  void load(int64_t start, int count) {
    const int64_t d_in = a.dictionary.d_in;
    for (int t = 0; t < count; ++t) read_token(a.x, d_in, start + t, tokens + t * d_in);
    float* flat = reinterpret_cast<float*>(tile);
    constexpr int64_t block = 16;
    for (int64_t i0 = 0; i0 < d_in; i0 += block) {
      const int64_t i1 = std::min(d_in, i0 + block);
      for (int t = 0; t < width; ++t) {
        if (t < count)
          for (int64_t i = i0; i < i1; ++i) flat[i * width + t] = tokens[t * d_in + i];
        else
          for (int64_t i = i0; i < i1; ++i) flat[i * width + t] = 0.0f;
      }
    }
  }

  void flush(int entries, int count) {
    for (int entry = 0; entry < entries; ++entry) {
      const float* values = reinterpret_cast<const float*>(log + entry * Q);
      for (uint64_t mask = log_mask[entry]; mask; mask &= mask - 1) {
        const int t = __builtin_ctzll(mask);
        if (t >= count) break;
        if (values[t] > threshold[t]) threshold[t] = found[t].push(values[t], log_latent[entry], threshold[t]);
      }
    }
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
    for (int t = 0; t < width; ++t) estimated[t] = threshold[t] > floor;
    for (int t = 0; t < width; ++t) {
      found[t] = {keys + t * capacity, 0, capacity, a.k};
      if (t >= count) threshold[t] = std::numeric_limits<float>::infinity();
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
      // The estimate was too high for this token: scan it again from the floor.
      if (found[t].count < std::min(a.k, last - first) && estimated[t]) {
        found[t].count = 0;
        scan_token<D>(a.dictionary, a.bias, tokens + t * a.dictionary.d_in, first, last, floor, found[t]);
      }
    }
  }
};

// Sorts the best k of `found` into the outputs; fills up with zero codes on the lowest free latents.
void finish(const EncodeArguments& a, Candidates found, int64_t token) {
  if (found.count > a.k) {
    std::nth_element(found.keys, found.keys + a.k - 1, found.keys + found.count, std::greater<int64_t>());
    found.count = a.k;
  }
  std::sort(found.keys, found.keys + found.count, std::greater<int64_t>());
  int64_t* indices = a.indices + token * a.k;
  float* values = a.values + token * a.k;
  for (int64_t i = 0; i < found.count; ++i) {
    indices[i] = key_latent(found.keys[i]);
    values[i] = key_value(found.keys[i]);
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

template <int lanes, int Q, class D>
void run(const EncodeArguments& a) {
  constexpr int width = lanes * Q;
  const int64_t n = a.dictionary.n_latents;
  const int64_t tiles = (a.x.batch + width - 1) / width;
  // Few tiles: the latents are cut into one chunk per thread as well, and the chunks merged afterwards.
  const int64_t chunks = tiles >= a.threads ? 1 : std::min<int64_t>(a.threads, std::max<int64_t>(1, n / 256));
  Scratch merged_memory;
  int64_t* partial = nullptr;
  int64_t* partial_count = nullptr;
  if (chunks > 1) {
    Pieces pieces;
    pieces.add(partial, a.x.batch * chunks * a.k);
    pieces.add(partial_count, a.x.batch * chunks);
    pieces.place(merged_memory);
  }
  for_each_part(a.threads, tiles * chunks, [&](int64_t part) {
    static thread_local Scratch scratch;
    const int64_t tile = part / chunks, chunk = part % chunks;
    const int64_t first = n * chunk / chunks, last = n * (chunk + 1) / chunks;
    const SamplePlan plan = width >= 4 ? plan_sample(last - first, a.k) : SamplePlan{};
    TileJob<lanes, Q, D> job(a, scratch, plan);
    const int64_t start = tile * width;
    const int count = static_cast<int>(std::min<int64_t>(width, a.x.batch - start));
    job.scan(start, count, first, last, plan);
    for (int t = 0; t < count; ++t) {
      if (chunks == 1) {
        finish(a, job.found[t], start + t);
      } else {
        job.found[t].cut(0.0f);
        const int64_t slot = (start + t) * chunks + chunk;
        std::copy(job.found[t].keys, job.found[t].keys + job.found[t].count, partial + slot * a.k);
        partial_count[slot] = job.found[t].count;
      }
    }
  });
  if (chunks == 1) return;
  for (int64_t token = 0; token < a.x.batch; ++token) {
    int64_t* keys = partial + token * chunks * a.k;
    int64_t count = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t size = partial_count[token * chunks + chunk];
      std::copy(keys + chunk * a.k, keys + chunk * a.k + size, keys + count);
      count += size;
    }
    finish(a, {keys, count, chunks * a.k, a.k}, token);
  }
}

// One token: its activations fit the first-level cache, so plain scalar gathers win over a padded tile.
template <class D>
void run_single(const EncodeArguments& a) {
  const int64_t n = a.dictionary.n_latents, d_in = a.dictionary.d_in, capacity = 2 * a.k + 64;
  const float floor = a.is_signed ? -std::numeric_limits<float>::infinity() : 0.0f;
  const int64_t chunks = std::min<int64_t>(a.threads, std::max<int64_t>(1, n / 1024));
  Scratch memory;
  float* x;
  int64_t* keys;
  int64_t* counts;
  Pieces pieces;
  pieces.add(x, d_in);
  pieces.add(keys, chunks * capacity);
  pieces.add(counts, chunks);
  pieces.place(memory);
  for (int64_t token = 0; token < a.x.batch; ++token) {
    read_token(a.x, d_in, token, x);
    for_each_part(a.threads, chunks, [&](int64_t chunk) {
      Candidates found{keys + chunk * capacity, 0, capacity, a.k};
      scan_token<D>(a.dictionary, a.bias, x, n * chunk / chunks, n * (chunk + 1) / chunks, floor, found);
      counts[chunk] = found.count;
    });
    int64_t count = counts[0];
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      std::copy(keys + chunk * capacity, keys + chunk * capacity + counts[chunk], keys + count);
      count += counts[chunk];
    }
    finish(a, {keys, count, chunks * capacity, a.k}, token);
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
