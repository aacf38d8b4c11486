// The correlations of one token's residual with every column, kept up to date by what changed in the residual.
//
// A row of the dictionary is touched by degree * n / d_in columns only, so after a step of a pursuit it is enough to walk
// the lists of the rows that changed. Rows that changed by less than a tolerance wait: the correlations are then off by
// at most (largest column sum of |values|) * tolerance, and the best column is found exactly among the few within twice
// that of the largest.
#pragma once
#include <algorithm>
#include <cmath>

#include "tile.h"

namespace expander::ISA {

// Per row the columns that touch it.
struct RowLists {
  int64_t* start;    // [d_in + 1]
  int32_t* latents;  // [n_latents * degree]
  float* values;     // [n_latents * degree]
  float column_sum;  // largest sum of |values| of a column
  double length;     // mean length of the list a random non-zero lies in

  RowLists(const Dictionary& w, Scratch& scratch) {
    const int64_t d = w.degree, size = w.n_latents * d;
    Pieces pieces;
    pieces.add(start, w.d_in + 1);
    pieces.add(latents, size);
    pieces.add(values, size);
    pieces.place(scratch);
    std::fill(start, start + w.d_in + 1, 0);
    column_sum = 0;
    for (int64_t j = 0; j < w.n_latents; ++j) {
      float sum = 0;
      for (int64_t e = 0; e < d; ++e) {
        sum += std::fabs(w.values[j * d + e]);
        ++start[w.rows[j * d + e] + 1];
      }
      column_sum = std::max(column_sum, sum);
    }
    length = 0;
    for (int64_t i = 0; i < w.d_in; ++i) {
      length += static_cast<double>(start[i + 1]) * static_cast<double>(start[i + 1]) / static_cast<double>(size);
      start[i + 1] += start[i];
    }
    for (int64_t j = 0; j < w.n_latents; ++j)
      for (int64_t e = 0; e < d; ++e) {
        const int64_t at = start[w.rows[j * d + e]]++;
        latents[at] = static_cast<int32_t>(j);
        values[at] = w.values[j * d + e];
      }
    for (int64_t i = w.d_in; i > 0; --i) start[i] = start[i - 1];
    start[0] = 0;
  }
};

struct Best {
  float score, correlation;
  int32_t latent;  // -1: nothing above zero
};

template <class D, bool absolute>
class Tracker {
 public:
  static constexpr int64_t superblock = 256;
  static constexpr float waiting = 0.03f;  // of the largest correlation: how wrong a tracked one may be

  Tracker(const Dictionary& w, const RowLists& lists, Scratch& scratch)
      : w_(w), lists_(lists), padded_((w.n_latents + superblock - 1) / superblock * superblock) {
    Pieces pieces;
    pieces.add(all_, 16 * padded_);
    pieces.add(peaks_, padded_ / superblock);
    pieces.add(tile_, w.d_in);
    pieces.add(seen_, w.d_in);
    pieces.add(token_, w.d_in);
    pieces.place(scratch);
  }

  // Correlations of up to 16 tokens from `start`, one pass over the dictionary.
  void load(const Activations& x, int64_t start, int count) {
    load_tile<16>(x, w_.d_in, start, count, reinterpret_cast<float*>(tile_), token_);
    for (int64_t j0 = 0; j0 < padded_; j0 += 16) {
      Vector16 block[16];
      for (int j = 0; j < 16; ++j)
        if (j0 + j < w_.n_latents)
          pre_activations<16, 1, D>(w_, nullptr, tile_, j0 + j, block + j);
        else
          block[j] = Vector16{};
      transpose16(block);
      for (int t = 0; t < count; ++t) store_unaligned(all_ + t * padded_ + j0, block[t]);
    }
  }

  // Turns to token t of the tile, whose residual is x now.
  void turn_to(int t, const float* x, float norm) {
    now_ = all_ + t * padded_;
    std::copy(x, x + w_.d_in, seen_);
    rounding_ = 1e-5f * norm;
    off_ = rounding_;
    largest_ = 0;
  }

  // Takes over what changed in the residual since it was last seen.
  void follow(const float* residual) {
    const float wait = waiting * largest_ / lists_.column_sum;
    off_ = wait * lists_.column_sum + rounding_;
    const Vector16 limit = broadcast<16>(wait);
    int64_t i = 0;
    for (; i + 16 <= w_.d_in; i += 16) {
      const Vector16 change = load_unaligned<Vector16>(seen_ + i) - load_unaligned<Vector16>(residual + i);
      const Vector16 size = change < 0 ? -change : change;
      for (uint32_t mask = greater_mask<16>(size, limit); mask; mask &= mask - 1)
        walk(i + __builtin_ctz(mask), residual);
    }
    for (; i < w_.d_in; ++i)
      if (std::fabs(seen_[i] - residual[i]) > wait) walk(i, residual);
  }

  // The column with the largest score, its correlation with the residual computed afresh; ties to the lower latent.
  Best best(const float* residual) {
    const Vector16* scores = reinterpret_cast<const Vector16*>(now_);
    Vector16 top{};
    for (int64_t b = 0; b < padded_ / superblock; ++b) {
      Vector16 high = score(scores[b * 16]);
      for (int i = 1; i < 16; ++i) {
        const Vector16 value = score(scores[b * 16 + i]);
        high = value > high ? value : high;
      }
      peaks_[b] = high;
      top = high > top ? high : top;
    }
    largest_ = 0;
    for (int t = 0; t < 16; ++t) largest_ = std::max(largest_, top[t]);
    const Vector16 near = broadcast<16>(largest_ - 2.0f * off_);
    Best found{0, 0, -1};
    for (int64_t b = 0; b < padded_ / superblock; ++b) {
      if (!greater_mask<16>(peaks_[b], near)) continue;
      for (int64_t i = 0; i < 16; ++i)
        for (uint32_t mask = greater_mask<16>(score(scores[b * 16 + i]), near); mask; mask &= mask - 1)
          look_at(b * superblock + i * 16 + __builtin_ctz(mask), residual, found);
    }
    return found;
  }

  // The same among some columns only.
  Best best_of(const int32_t* latents, int64_t count, const float* residual) {
    Best found{0, 0, -1};
    for (int64_t i = 0; i < count; ++i) look_at(latents[i], residual, found);
    return found;
  }

  // <w_j, residual>
  float correlation(int64_t j, const float* residual) const {
    const int64_t d = D::of(w_.degree);
    const uint16_t* rows = w_.rows + j * d;
    const float* values = w_.values + j * d;
    float sum = 0;
    for (int64_t e = 0; e < d; ++e) sum = std::fma(values[e], residual[rows[e]], sum);
    return sum;
  }

 private:
  static Vector16 score(const Vector16& value) {
    if constexpr (absolute) return value < 0 ? -value : value;
    return value;
  }

  void look_at(int64_t j, const float* residual, Best& found) {
    if (j >= w_.n_latents) return;
    const float value = correlation(j, residual);
    const float size = absolute ? std::fabs(value) : value;
    if (size > found.score || (size == found.score && found.latent > j))
      found = {size, value, static_cast<int32_t>(j)};
  }

  void walk(int64_t i, const float* residual) {
    const float change = seen_[i] - residual[i];
    const int32_t* latents = lists_.latents;
    const float* values = lists_.values;
    for (int64_t p = lists_.start[i], stop = lists_.start[i + 1]; p < stop; ++p) now_[latents[p]] -= change * values[p];
    seen_[i] = residual[i];
  }

  const Dictionary& w_;
  const RowLists& lists_;
  int64_t padded_;
  float* all_;        // [16, padded]
  Vector16* peaks_;   // [padded / superblock]
  Vector16* tile_;    // [d_in]
  float* seen_;       // [d_in] the residual the tracked correlations belong to
  float* token_;      // [d_in]
  float* now_ = nullptr;
  float off_ = 0, rounding_ = 0, largest_ = 0;
};

}  // namespace expander::ISA
