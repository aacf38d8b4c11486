// Least squares of one token on a support that grows by several columns at a time.
#pragma once
#include "support.h"

namespace expander::ISA {

// Gaussian elimination of the normal equations G z = W_S^T x, kept as far as it has come: row j of `reduced` holds the
// j-th pivot and what stands right of it. New columns go through the rows that are there, which skips every row they have
// nothing to do with; most pairs of columns share no row of the dictionary.
struct Elimination {
  int32_t* latents;     // [k]
  float* coefficients;  // [stride]
  float* reduced;       // rows, each from the vector its pivot lies in to the stride; zero beyond count
  float* inverse;       // [k] one over the pivots
  float* right;         // [stride] the reduced right-hand side
  int64_t count, stride;

  static int64_t offset(int64_t i, int64_t stride) {
    const int64_t b = i / 16;
    return 16 * (b * stride - 8 * b * (b - 1)) + (i - 16 * b) * (stride - 16 * b);
  }
  static int64_t size_for(int64_t k) { return offset(k, stride_for(k)); }
  // Element c of row i is row(i)[c], for c from i / 16 * 16 on.
  float* row(int64_t i) const { return reduced + offset(i, stride) - i / 16 * 16; }

  bool holds(int32_t latent) const {
    int32_t found = 0;
    for (int64_t i = 0; i < count; ++i) found |= latents[i] == latent;
    return found != 0;
  }

  // row[i] -= factor * row[j] from column `first` on, in whole vectors.
  static void subtract(float* to, float factor, const float* from, int64_t first, int64_t last) {
    for (int64_t c = first; c < last; c += 16)
      store_unaligned(to + c, load_unaligned<Vector16>(to + c) - factor * load_unaligned<Vector16>(from + c));
  }

  // Takes in latents[count..total), of which those in the span of earlier ones are dropped; how many were.
  template <class D>
  int64_t extend(const Dictionary& w, SupportWork& work, const float* x, int64_t total) {
    const int64_t before = count;
    int64_t dropped = eliminate<D>(w, work, x, total);
    if (!dropped) return 0;
    // Rare: start anew without them.
    int64_t kept = before;
    for (int64_t i = before; i < total; ++i)
      if (inverse[i] != 0.0f) latents[kept++] = latents[i];
    count = 0;
    eliminate<D>(w, work, x, kept);
    return dropped;
  }

  // z from the reduced equations.
  void solve() {
    std::fill(coefficients, coefficients + stride, 0.0f);
    for (int64_t j = count - 1; j >= 0; --j) {
      const int64_t first = j / 16 * 16;
      // coefficients[j] and those before it are still zero, so whole vectors may begin left of the pivot.
      coefficients[j] = (right[j] - dot(row(j) + first, coefficients + first, stride - first)) * inverse[j];
    }
  }

 private:
  template <class D>
  int64_t eliminate(const Dictionary& w, SupportWork& work, const float* x, int64_t total) {
    const int64_t d = D::of(w.degree), old = count;
    work.chain(w, latents, 0, old);
    for (int64_t j = 0; j < old; ++j) std::fill(row(j) + old, row(j) + stride, 0.0f);
    for (int64_t j = old; j < total; ++j) {
      std::fill(row(j) + j / 16 * 16, row(j) + stride, 0.0f);
      const int64_t at = latents[j] * d;
      float own = 0;
      for (int64_t e = 0; e < d; ++e) {
        const float value = w.values[at + e];
        own += value * value;
        for (int32_t id = work.head[w.rows[at + e]]; id >= 0; id = work.next[id]) {
          const int64_t slot = id / d;
          row(slot)[j] += value * w.values[latents[slot] * d + (id - slot * d)];
        }
      }
      row(j)[j] = own;
      inverse[j] = own;  // until its pivot is known
      right[j] = correlation_with<D>(w, latents[j], x);
      work.chain(w, latents, j, j + 1);
    }
    work.unchain(w, latents, total);
    int64_t dropped = 0;
    const Vector16 zero{};
    for (int64_t j = 0; j < total; ++j) {
      float* pivots = row(j);
      if (j >= old) {
        if (!(pivots[j] > smallest_pivot * inverse[j])) {
          ++dropped;
          inverse[j] = 0.0f;
          right[j] = 0.0f;
          std::fill(pivots + j, pivots + stride, 0.0f);
          continue;
        }
        inverse[j] = 1.0f / pivots[j];
      }
      // Rows below j that meet column j, from the next one on; before `old` only their new columns change.
      const int64_t from = std::max(j + 1, old);
      bool any = false;
      for (int64_t c = from; c < total; c += 16)
        any |= greater_mask<16>(size_of(load_unaligned<Vector16>(pivots + c)), zero) != 0;
      if (!any) continue;
      if (j < old) {  // few columns, many rows: cheaper without asking which rows meet column j
        for (int64_t i = j + 1; i < total; ++i) {
          const float factor = pivots[i] * inverse[j];
          subtract(row(i), factor, pivots, std::max(i, old), total);
          if (i >= old) right[i] -= factor * right[j];
        }
        continue;
      }
      for (int64_t block = (j + 1) / 16 * 16; block < total; block += 16) {
        uint32_t mask = greater_mask<16>(size_of(load_unaligned<Vector16>(pivots + block)), zero);
        if (block <= j) mask &= ~0u << (j + 1 - block);
        for (; mask; mask &= mask - 1) {
          const int64_t i = block + __builtin_ctz(mask);
          const float factor = pivots[i] * inverse[j];
          // A row below the old ones starts at its own pivot; what would change left of it is never read.
          subtract(row(i), factor, pivots, std::max(i, from), total);
          if (i >= old) right[i] -= factor * right[j];
        }
      }
    }
    count = total;
    return dropped;
  }
};

}  // namespace expander::ISA
