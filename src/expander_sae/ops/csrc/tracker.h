// The correlations of one token's residual with every column, kept up to date by what changed in the residual.
//
// A row of the dictionary is touched by degree * n / d_in columns only, so after a step of a pursuit it is enough to walk
// the lists of the rows that changed. Rows that changed by less than a tolerance wait: the correlations are then off by
// at most (largest column sum of |values|) * tolerance, and the best column is found exactly among the few within twice
// that of the largest.
#pragma once
#include <algorithm>
#include <cmath>

#include "support.h"
#include "tile.h"

namespace expander::ISA {

// Per row the columns that touch it, each list padded to a multiple of 8 with a column that does not exist.
struct RowLists {
  int64_t* start;    // [d_in + 1], multiples of 8
  int32_t* latents;  // [start[d_in]]
  float* values;     // [start[d_in]], zero in the padding
  float column_sum;  // largest sum of |values| of a column

  RowLists(const Dictionary& w, int32_t nobody, Scratch& scratch) {
    const int64_t d = w.degree, most = w.n_latents * d + 7 * w.d_in;
    int64_t* end;
    Pieces pieces;
    pieces.add(start, w.d_in + 1);
    pieces.add(end, w.d_in);
    pieces.add(latents, most);
    pieces.add(values, most);
    pieces.place(scratch);
    std::fill(end, end + w.d_in, 0);
    column_sum = 0;
    for (int64_t j = 0; j < w.n_latents; ++j) {
      float sum = 0;
      for (int64_t e = 0; e < w.length(j); ++e) {
        sum += std::fabs(w.values[j * d + e]);
        ++end[w.rows[j * d + e]];
      }
      column_sum = std::max(column_sum, sum);
    }
    start[0] = 0;
    for (int64_t i = 0; i < w.d_in; ++i) {
      start[i + 1] = start[i] + (end[i] + 7) / 8 * 8;
      std::fill(latents + start[i] + end[i], latents + start[i + 1], nobody);
      std::fill(values + start[i] + end[i], values + start[i + 1], 0.0f);
      end[i] = start[i];
    }
    for (int64_t j = 0; j < w.n_latents; ++j)
      for (int64_t e = 0; e < w.length(j); ++e) {
        const int64_t at = end[w.rows[j * d + e]]++;
        latents[at] = static_cast<int32_t>(j);
        values[at] = w.values[j * d + e];
      }
  }
};

// to[latents[p]] += change * values[p] for p in [0, count), a multiple of 8; the latents are distinct, padding apart. Eight
// loads go before eight stores: the column that was just picked is in every list walked, and a load right behind a store
// to the same place waits. (Gather and scatter instructions wait longer still.)
[[gnu::always_inline]] inline void scatter_add(float* to, float change, const int32_t* latents, const float* values, int64_t count) {
  for (int64_t p = 0; p < count; p += 8) {
    float sum[8];
    for (int i = 0; i < 8; ++i) sum[i] = to[latents[p + i]];
    for (int i = 0; i < 8; ++i) sum[i] += change * values[p + i];
    for (int i = 0; i < 8; ++i) to[latents[p + i]] = sum[i];
  }
}

struct Best {
  float score, correlation;
  int32_t latent;  // -1: nothing above zero
};

template <class D, bool absolute>
class Tracker {
 public:
  static constexpr int64_t superblock = 256;
  static constexpr float waiting = 0.03f;  // how wrong a tracked correlation may be, of the largest

  static int64_t padded(int64_t n_latents) { return (n_latents + superblock - 1) / superblock * superblock; }

  Tracker(const Dictionary& w, const RowLists& lists, Scratch& scratch)
      : w_(w), lists_(lists), padded_(padded(w.n_latents)), stride_(padded_ + 16) {
    Pieces pieces;
    pieces.add(all_, 16 * stride_);
    pieces.add(peaks_, padded_ / superblock);
    pieces.add(tile_, w.d_in * (16 / native_lanes));
    pieces.add(seen_, w.d_in);
    pieces.add(changed_, w.d_in);
    pieces.add(token_, w.d_in);
    pieces.place(scratch);
  }

  // Correlations of up to 16 tokens from `start`, one pass over the dictionary.
  void load(const Activations& x, int64_t start, int count) {
    load_tile<16>(x, w_.d_in, start, count, reinterpret_cast<float*>(tile_), token_);
    for (int64_t j = 0; j < padded_; j += native_lanes)
      correlate_sixteen<D>(w_, tile_, j, w_.n_latents, [&](int t, const Native& found) {
        if (t < count) store_unaligned(all_ + t * stride_ + j, found);
      });
  }

  // Turns to token t of the tile, whose residual is x now.
  void turn_to(int t, const float* x, float norm) {
    now_ = all_ + t * stride_;
    std::fill(now_ + padded_, now_ + stride_, 0.0f);
    std::copy(x, x + w_.d_in, seen_);
    rounding_ = 1e-5f * norm;
    off_ = rounding_;
    largest_ = 0;
  }

  // Takes over what changed in the residual since it was last seen.
  void follow(const float* residual) {
    const float wait = waiting * largest_ / lists_.column_sum;
    off_ = wait * lists_.column_sum + rounding_;
    const Native limit = broadcast<native_lanes>(wait);
    int64_t count = 0, i = 0;
    for (; i + native_lanes <= w_.d_in; i += native_lanes) {
      const Native change = load_unaligned<Native>(seen_ + i) - load_unaligned<Native>(residual + i);
      for (uint32_t mask = greater_mask<native_lanes>(size_of(change), limit); mask; mask &= mask - 1)
        note(i + __builtin_ctz(mask), count);
    }
    for (; i < w_.d_in; ++i)
      if (std::fabs(seen_[i] - residual[i]) > wait) note(i, count);
    for (int64_t r = 0; r < count; ++r) walk(changed_[r], residual);
  }

  // The same where only these rows changed: all of them are taken over, so that nothing waits.
  void follow(const float* residual, const uint16_t* rows, int64_t count) {
    off_ = rounding_;
    for (int64_t r = 0; r < count; ++r) walk(rows[r], residual);
  }

  // The column with the largest score, its correlation with the residual computed afresh; ties to the lower latent.
  Best best(const float* residual) {
    constexpr int64_t vectors = superblock / native_lanes;
    const Native* scores = reinterpret_cast<const Native*>(now_);
    Native top{};
    for (int64_t b = 0; b < padded_ / superblock; ++b) {
      Native high[4] = {};
      for (int64_t i = 0; i < vectors; i += 4)
        for (int q = 0; q < 4; ++q) high[q] = larger(high[q], score(scores[b * vectors + i + q]));
      peaks_[b] = larger(larger(high[0], high[1]), larger(high[2], high[3]));
      top = larger(top, peaks_[b]);
    }
    largest_ = largest_of(top);
    const Native near = broadcast<native_lanes>(largest_ - 2.0f * off_);
    Best found{0, 0, -1};
    for (int64_t b = 0; b < padded_ / superblock; ++b) {
      if (!greater_mask<native_lanes>(peaks_[b], near)) continue;
      for (int64_t i = 0; i < vectors; ++i)
        for (uint32_t mask = greater_mask<native_lanes>(score(scores[b * vectors + i]), near); mask; mask &= mask - 1)
          look_at(b * superblock + i * native_lanes + __builtin_ctz(mask), residual, found);
    }
    return found;
  }

  // The same among some columns only.
  Best best_of(const int32_t* latents, int64_t count, const float* residual) {
    Best found{0, 0, -1};
    for (int64_t i = 0; i < count; ++i) look_at(latents[i], residual, found);
    return found;
  }

 private:
  static Native score(const Native& value) {
    if constexpr (absolute) return size_of(value);
    return value;
  }

  void look_at(int64_t j, const float* residual, Best& found) {
    if (j >= w_.n_latents) return;
    const float value = correlation_with<D>(w_, j, residual);
    const float size = absolute ? std::fabs(value) : value;
    if (size > found.score || (size == found.score && found.latent > j))
      found = {size, value, static_cast<int32_t>(j)};
  }

  void walk(int64_t row, const float* residual) {
    const int64_t first = lists_.start[row];
    scatter_add(now_, residual[row] - seen_[row], lists_.latents + first, lists_.values + first,
                lists_.start[row + 1] - first);
    seen_[row] = residual[row];
  }

  // Rows are collected before they are walked, their lists on the way to the cache meanwhile.
  void note(int64_t row, int64_t& count) {
    changed_[count++] = static_cast<int32_t>(row);
    const int64_t first = lists_.start[row];
    for (int64_t p = first; p < first + 64; p += 16) {
      __builtin_prefetch(lists_.latents + p);
      __builtin_prefetch(lists_.values + p);
    }
  }

  const Dictionary& w_;
  const RowLists& lists_;
  int64_t padded_, stride_;  // one vector more than padded, for the padding of the lists
  float* all_;        // [16, stride]
  Native* peaks_;     // [padded / superblock]
  Native* tile_;      // [d_in, 16]
  float* seen_;       // [d_in] the residual the tracked correlations belong to
  int32_t* changed_;  // [d_in] rows to walk
  float* token_;      // [d_in]
  float* now_ = nullptr;
  float off_ = 0, rounding_ = 0, largest_ = 0;
};

}  // namespace expander::ISA
