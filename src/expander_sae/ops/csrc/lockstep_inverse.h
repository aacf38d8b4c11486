// Columns dropped from the least-squares problems of a vector of tokens, in each lane its own.
#pragma once
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "lockstep.h"

namespace expander::ISA {

// The inverse of the lanes' Gram matrices, from which columns are dropped, in each lane its own.
class LockstepInverse {
 public:
  using V = Native;
  static constexpr int lanes = Lockstep::lanes;

  void add_to(Pieces& pieces, int64_t capacity) {
    pieces.add(factor_, start(capacity));
    pieces.add(inverse_, start(capacity));
    pieces.add(gone_, capacity);
    pieces.add(latents_, capacity);
  }

  // G^-1 = L^-T L^-1, eight columns at a time.
  [[gnu::noinline]] void invert(const Lockstep& fit) {
    constexpr int block = most_accumulators / 2;  // rows, by two columns
    slots_ = fit.slots;
    std::fill(factor_, factor_ + start(slots_), V{});
    for (int64_t r = 0; r < slots_; ++r) {
      const V* l = fit.row(r);
      for (int64_t first = 0; first <= r; first += 8) {
        V sum[8] = {};
        for (int64_t q = first; q < r; ++q) {
          const V* m = factor_ + start(q) + first;
          for (int c = 0; c < 8; ++c) sum[c] += l[q] * m[c];
        }
        V* to = factor_ + start(r) + first;
        for (int c = 0; c < 8; ++c) to[c] = -sum[c] * fit.inverse(r);
      }
      factor_[start(r) + r] = fit.inverse(r);
    }
    for (int64_t rows = 0; rows < slots_; rows += block)
      for (int64_t columns = 0; columns < rows / 8 * 8 + 8; columns += 2) {
        V one[block] = {}, two[block] = {};
        for (int64_t q = rows; q < slots_; ++q) {
          const V* m = factor_ + start(q);
          for (int r = 0; r < block; ++r) {
            one[r] += m[rows + r] * m[columns];
            two[r] += m[rows + r] * m[columns + 1];
          }
        }
        for (int r = 0; r < block && rows + r < slots_; ++r) {
          inverse_[start(rows + r) + columns] = one[r];
          inverse_[start(rows + r) + columns + 1] = two[r];
        }
      }
  }

  // Drops, in every lane with drop[lane] > 0, as many columns, come what may: the caller counts on it. Each time the one
  // whose absence adds least to the squared residual, z_j^2 / (G^-1)_jj, among equals the higher latent. z becomes the fit
  // without them, their latents ([lanes, capacity]) -1.
  void drop_weakest(V* z, int32_t* latents, int64_t capacity, int64_t* drop) {
    for (int64_t i = 0; i < slots_; ++i)
      for (int lane = 0; lane < lanes; ++lane) ints(latents_ + i)[lane] = latents[lane * capacity + i];
    for (;;) {
      NativeInts wanted{};
      bool any = false;
      for (int lane = 0; lane < lanes; ++lane) {
        wanted[lane] = drop[lane] > 0 ? -1 : 0;
        any |= drop[lane] > 0;
      }
      if (!any) return;
      NativeInts chosen = weakest(z, wanted);
      V by{}, amount{};
      for (int lane = 0; lane < lanes; ++lane) {
        int64_t slot = std::max(chosen[lane], 0);
        if (wanted[lane]) {
          const bool known = chosen[lane] >= 0;
          if (!known) chosen[lane] = static_cast<int32_t>(slot = last_live(lane));
          --drop[lane];
          latents[lane * capacity + slot] = ints(latents_ + slot)[lane] = -1;
          if (known) by[lane] = 1.0f / flat(inverse_)[(start(slot) + slot) * lanes + lane];
          amount[lane] = by[lane] * flat(z)[slot * lanes + lane];
        }
        // The column of the inverse, of which half stands in rows below.
        const float* from = flat(inverse_) + lane;
        float* to = flat(gone_) + lane;
        for (int64_t q = 0; q < slot; ++q) to[q * lanes] = from[(start(slot) + q) * lanes];
        for (int64_t q = slot; q < slots_; ++q) to[q * lanes] = from[(start(q) + slot) * lanes];
      }
      for (int64_t i = 0; i < slots_; ++i) {
        V* row = inverse_ + start(i);
        const V factor = by * gone_[i];
        for (int64_t c = 0; c <= i; ++c) row[c] -= factor * gone_[c];
        z[i] -= amount * gone_[i];
      }
      for (int lane = 0; lane < lanes; ++lane)
        if (chosen[lane] >= 0) flat(z)[chosen[lane] * lanes + lane] = 0.0f;
    }
  }

 private:
  V *factor_, *inverse_;  // packed rows, each padded with zeros to a multiple of eight
  V* gone_;               // [capacity] the column of the inverse that is dropped
  NativeInts* latents_;    // [capacity]
  int64_t slots_ = 0;

  static float* flat(V* v) { return reinterpret_cast<float*>(v); }
  static int32_t* ints(NativeInts* v) { return reinterpret_cast<int32_t*>(v); }
  // Row i begins here: before it stand i / 8 blocks of eight rows of 8, 16, ... entries, and i % 8 rows of its own block.
  static int64_t start(int64_t i) {
    const int64_t b = i / 8;
    return 32 * b * (b + 1) + (i - 8 * b) * 8 * (b + 1);
  }

  // The live slot with the highest latent: what goes where rounding left no cost that can be compared.
  int64_t last_live(int lane) {
    int64_t slot = -1;
    int32_t latent = -1;
    for (int64_t i = 0; i < slots_; ++i)
      if (ints(latents_ + i)[lane] > latent) latent = ints(latents_ + i)[lane], slot = i;
    if (slot < 0) throw std::logic_error("more columns were to be dropped than a support holds");
    return slot;
  }

  // -1 where nothing is wanted, or no cost can be compared. No divisions: a / b < c / d where a d < c b.
  NativeInts weakest(const V* z, const NativeInts& wanted) const {
    NativeInts best = NativeInts{} - 1, latent = best;
    V least = V{} + std::numeric_limits<float>::infinity(), weight = V{} + 1.0f;
    for (int64_t i = 0; i < slots_; ++i) {
      const V square = z[i] * z[i], own = inverse_[start(i) + i];
      const V left = square * weight, right = least * own;
      const NativeInts live = wanted & (latents_[i] >= 0) & (own > 0.0f);
      const NativeInts take = live & ((left < right) | ((left == right) & (latents_[i] > latent)));
      best = take ? NativeInts{} + static_cast<int32_t>(i) : best;
      latent = take ? latents_[i] : latent;
      least = take ? square : least;
      weight = take ? own : weight;
    }
    return best;
  }
};

}  // namespace expander::ISA
