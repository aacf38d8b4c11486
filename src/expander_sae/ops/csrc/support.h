// The least-squares problem of one token on a support that grows column by column.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

namespace expander::ISA {

constexpr float smallest_score = 1e-5f;  // of ||x||: below it the residual is rounding
constexpr float smallest_pivot = 1e-5f;  // squared distance of a unit column to the support's span

inline float dot(const float* a, const float* b, int64_t count) {
  Vector16 total{};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) total += load_unaligned<Vector16>(a + i) * load_unaligned<Vector16>(b + i);
  float sum = 0;
  for (int t = 0; t < 16; ++t) sum += total[t];
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// Support columns with the packed Cholesky factor L of their Gram matrix.
struct Support {
  int32_t* latents;     // [k]
  float* factor;        // packed lower triangle, row t has t + 1 entries
  float* projections;   // [k] L^-1 W_S^T x
  float* coefficients;  // [k]
  int64_t count;

  float* row(int64_t t) const { return factor + t * (t + 1) / 2; }
  bool holds(int32_t latent) const { return std::find(latents, latents + count, latent) != latents + count; }

  // Solves L^T z = z in place for the first `size` columns.
  void back_substitute(float* z, int64_t size) const {
    for (int64_t i = size - 1; i >= 0; --i) {
      const float* above = row(i);
      const float value = z[i] /= above[i];
      for (int64_t p = 0; p < i; ++p) z[p] -= value * above[p];
    }
  }
};

// Which support columns touch a row: one chain per row. Two columns that share no row cost nothing, and most share none.
// A thread has one, filled for one support at a time.
struct RowChains {
  int32_t* head;  // [d_in], -1 where no column touches the row; otherwise slot * degree + entry
  int32_t* next;  // [k * degree]

  void start(int64_t d_in) { std::fill(head, head + d_in, -1); }
  void add(const Dictionary& w, int32_t latent, int64_t slot) {
    const uint16_t* rows = w.rows + latent * w.degree;
    for (int64_t e = 0; e < w.degree; ++e) {
      const int32_t id = static_cast<int32_t>(slot * w.degree + e);
      next[id] = head[rows[e]];
      head[rows[e]] = id;
    }
  }
  void add(const Dictionary& w, const Support& s) {
    for (int64_t slot = 0; slot < s.count; ++slot) add(w, s.latents[slot], slot);
  }
  void remove(const Dictionary& w, const Support& s) {
    for (int64_t slot = 0; slot < s.count; ++slot) {
      const uint16_t* rows = w.rows + s.latents[slot] * w.degree;
      for (int64_t e = 0; e < w.degree; ++e) head[rows[e]] = -1;
    }
  }
};

// Adds column j with <w_j, x> = target, in O(t^2) at support size t, less where few columns share a row with j; false
// where j is numerically in the span already.
template <class D>
bool append(const Dictionary& w, Support& s, RowChains& chains, int32_t j, float target) {
  const int64_t d = D::of(w.degree);
  const uint16_t* rows = w.rows + j * d;
  const float* values = w.values + j * d;
  float* row = s.row(s.count);
  std::fill(row, row + s.count, 0.0f);
  float own = 0;
  int64_t first = s.count;  // L^-1 g is zero before the first column that shares a row with j
  for (int64_t e = 0; e < d; ++e) {
    own += values[e] * values[e];
    for (int32_t id = chains.head[rows[e]]; id >= 0; id = chains.next[id]) {
      const int64_t slot = id / d;
      row[slot] += values[e] * w.values[s.latents[slot] * d + (id - slot * d)];
      first = std::min(first, slot);
    }
  }
  for (int64_t i = first; i < s.count; ++i) {
    const float* above = s.row(i);
    row[i] = (row[i] - dot(above + first, row + first, i - first)) / above[i];
  }
  const float pivot = own - dot(row + first, row + first, s.count - first);
  if (!(pivot > smallest_pivot * own)) return false;
  row[s.count] = std::sqrt(pivot);
  s.projections[s.count] = (target - dot(row + first, s.projections + first, s.count - first)) / row[s.count];
  s.coefficients[s.count] = 0.0f;
  s.latents[s.count] = j;
  chains.add(w, j, s.count++);
  return true;
}

// Codes by falling size (value when not signed), then latent; unused slots are zero on the lowest free latents.
inline void write_codes(const int32_t* latents, const float* coefficients, int64_t count, int64_t k, bool is_signed,
                        int64_t* indices, float* codes) {
  static thread_local std::vector<int32_t> order;
  order.clear();
  for (int32_t i = 0; i < count; ++i)
    if (coefficients[i] != 0.0f) order.push_back(i);
  auto size = [&](int32_t i) { return is_signed ? std::fabs(coefficients[i]) : coefficients[i]; };
  std::sort(order.begin(), order.end(), [&](int32_t left, int32_t right) {
    return size(left) != size(right) ? size(left) > size(right) : latents[left] < latents[right];
  });
  int64_t filled = 0;
  for (int32_t i : order) {
    indices[filled] = latents[i];
    codes[filled++] = coefficients[i];
  }
  const int64_t used = filled;
  for (int64_t latent = 0; filled < k; ++latent)
    if (std::find(indices, indices + used, latent) == indices + used) {
      indices[filled] = latent;
      codes[filled++] = 0.0f;
    }
}

}  // namespace expander::ISA
