// Least squares of sixteen tokens in lockstep, a token in each lane.
//
// Every token has its own support, so their Gram matrices have nothing in common but their size; that is enough to factor
// all of them by the same instructions, each on full vectors. One token alone would leave most of a vector empty: a stage
// of pursuit adds few columns. Zeros of a Gram matrix are not skipped, for they stand elsewhere in each lane. A lane's
// result does not depend on its neighbours: its sums run in the order of its slots, and dead slots add exact zeros.
#pragma once
#include <limits>
#include <utility>

#include "support.h"

namespace expander::ISA {

// z = argmin ||x - W_S z|| by the Cholesky factor L of W_S^T W_S, for supports that only grow. A slot holds one column of
// each lane's support, or none: a dead slot has inverse zero there, and its coefficient stays zero.
class Lockstep {
 public:
  static constexpr int lanes = 16;
  using V = Vector16;

  V* coefficients;   // [capacity] z
  int32_t* latents;  // [lanes, capacity], -1 where dead; placed by the owner
  int64_t capacity, slots = 0;

  void add_to(Pieces& pieces, int64_t columns, int64_t degree) {
    capacity = columns;
    pieces.add(lower_, row_start(capacity));
    pieces.add(right_, capacity);
    pieces.add(inverse_, capacity);
    pieces.add(coefficients, capacity);
    pieces.add(meetings_, capacity * degree + 1);
    pieces.add(chained_, capacity * degree);
  }
  int32_t& latent(int lane, int64_t slot) { return latents[lane * capacity + slot]; }
  float coefficient(int lane, int64_t slot) const { return reinterpret_cast<const float*>(coefficients)[slot * lanes + lane]; }
  bool dead(int lane, int64_t slot) const { return reinterpret_cast<const float*>(inverse_)[slot * lanes + lane] == 0.0f; }
  bool holds(int lane, int32_t which) const {
    const int32_t* own = latents + lane * capacity;
    int32_t found = 0;
    for (int64_t i = 0; i < slots; ++i) found |= own[i] == which;
    return found != 0;
  }

  // Makes room for the columns of slots [slots, last); then `describe` them for each lane that has any, then `extend`.
  void prepare(int64_t last) {
    std::fill(lower_ + row_start(slots), lower_ + row_start(last), V{});
    std::fill(right_ + slots, right_ + last, V{});
  }

  // What a lane's new columns have to do with each other, with the old ones, and with x. Which columns meet is data that no
  // branch predicts, so meetings are listed first, with the latest new column on the row, and then passed down the chains.
  template <class D>
  void describe(const Dictionary& w, SupportWork& work, int lane, const float* x, int64_t last) {
    const int64_t d = D::of(w.degree);
    const int32_t* own = latents + lane * capacity;
    float* gram = reinterpret_cast<float*>(lower_) + lane;
    float* right = reinterpret_cast<float*>(right_) + lane;
    int64_t met = 0;
    auto meet = [&](int64_t slot, int32_t id, float value) {
      meetings_[met] = {static_cast<int32_t>(slot), id, value};
      met += id >= 0;
    };
    for (int64_t j = slots; j < last; ++j) {
      if (own[j] < 0) continue;
      const uint16_t* rows = w.rows + own[j] * d;
      const float* values = w.values + own[j] * d;
      float square = 0;
      for (int64_t e = 0; e < d; ++e) {
        const int32_t id = static_cast<int32_t>(j * d + e);
        square += values[e] * values[e];
        meet(j, work.head[rows[e]], values[e]);
        work.next[id] = work.head[rows[e]];
        work.head[rows[e]] = id;
        chained_[id] = values[e];
      }
      gram[(row_start(j) + j) * lanes] = square;
      right[j * lanes] = correlation_with<D>(w, own[j], x);
    }
    for (int64_t i = 0; i < slots; ++i) {
      if (own[i] < 0) continue;
      const uint16_t* rows = w.rows + own[i] * d;
      const float* values = w.values + own[i] * d;
      for (int64_t e = 0; e < d; ++e) meet(i, work.head[rows[e]], values[e]);
    }
    while (met) {
      const int64_t count = met;
      met = 0;
      for (int64_t m = 0; m < count; ++m) {
        const Meeting meeting = meetings_[m];
        const int64_t other = meeting.id / d;
        const int64_t high = std::max<int64_t>(meeting.slot, other), low = std::min<int64_t>(meeting.slot, other);
        gram[(row_start(high) + low) * lanes] += meeting.value * chained_[meeting.id];
        meet(meeting.slot, work.next[meeting.id], meeting.value);
      }
    }
    for (int64_t j = slots; j < last; ++j) {
      if (own[j] < 0) continue;
      const uint16_t* rows = w.rows + own[j] * d;
      for (int64_t e = 0; e < d; ++e) work.head[rows[e]] = -1;
    }
  }

  // Factors the new columns; one in the span of those before it is dead.
  void extend(int64_t last) {
    while (slots < last) {
      const int64_t left = last - slots;
      if (left >= 8)
        factor<8>();
      else if (left >= 4)
        factor<4>();
      else if (left >= 2)
        factor<2>();
      else
        factor<1>();
    }
  }

  // Takes the columns that are no longer wanted (latent -1) out of the slots, and factors what is left anew. `tokens` holds x
  // [lanes, d_in].
  template <class D>
  void rebuild(const Dictionary& w, SupportWork& work, const float* tokens) {
    int64_t last = 0;
    for (int lane = 0; lane < lanes; ++lane) {
      int32_t* own = latents + lane * capacity;
      int32_t* end = std::remove(own, own + slots, -1);
      std::fill(end, own + slots, -1);
      last = std::max<int64_t>(last, end - own);
    }
    slots = 0;
    prepare(last);
    for (int lane = 0; lane < lanes; ++lane) describe<D>(w, work, lane, tokens + lane * w.d_in, last);
    extend(last);
  }

  // z from L^T z = L^-1 W_S^T x, four rows at a time.
  void solve() {
    std::copy(right_, right_ + slots, coefficients);
    int64_t i = slots;
    for (; i >= 4; i -= 4) {
      const V *a = row(i - 1), *b = row(i - 2), *c = row(i - 3), *d = row(i - 4);
      V* z = coefficients;
      const V za = z[i - 1] * inverse_[i - 1];
      const V zb = (z[i - 2] - a[i - 2] * za) * inverse_[i - 2];
      const V zc = (z[i - 3] - a[i - 3] * za - b[i - 3] * zb) * inverse_[i - 3];
      const V zd = (z[i - 4] - a[i - 4] * za - b[i - 4] * zb - c[i - 4] * zc) * inverse_[i - 4];
      z[i - 1] = za, z[i - 2] = zb, z[i - 3] = zc, z[i - 4] = zd;
      for (int64_t q = 0; q < i - 4; ++q) z[q] = z[q] - a[q] * za - b[q] * zb - c[q] * zc - d[q] * zd;
    }
    for (; i > 0; --i) {
      const V* a = row(i - 1);
      const V za = coefficients[i - 1] * inverse_[i - 1];
      coefficients[i - 1] = za;
      for (int64_t q = 0; q < i - 1; ++q) coefficients[q] -= a[q] * za;
    }
  }

 private:
  V* lower_;    // packed rows of the Gram matrix, from `extend` on of L
  V* right_;    // W_S^T x, from `extend` on L^-1 W_S^T x
  V* inverse_;  // one over the diagonal of L, zero where dead

  struct Meeting {  // a column's entry on the row of a chained one
    int32_t slot, id;
    float value;
  };
  Meeting* meetings_;  // [capacity * degree + 1]
  float* chained_;     // [capacity * degree] the chained entries' values

  static int64_t row_start(int64_t i) { return i * (i + 1) / 2; }
  V* row(int64_t i) const { return lower_ + row_start(i); }

  // The next R rows of L: against the finished rows two at a time, so that each vector loaded serves 2 R products.
  template <int R>
  [[gnu::noinline]] void factor() {
    const int64_t first = slots;
    V* to[R];
    for (int r = 0; r < R; ++r) to[r] = row(first + r);
    int64_t p = 0;
    for (; p + 2 <= first; p += 2) {
      const V *a = row(p), *b = row(p + 1);
      V one[R], two[R];
      for (int r = 0; r < R; ++r) one[r] = to[r][p], two[r] = to[r][p + 1];
      for (int64_t q = 0; q < p; ++q)
        for (int r = 0; r < R; ++r) {
          one[r] -= a[q] * to[r][q];
          two[r] -= b[q] * to[r][q];
        }
      for (int r = 0; r < R; ++r) {
        to[r][p] = one[r] * inverse_[p];
        to[r][p + 1] = (two[r] - b[p] * to[r][p]) * inverse_[p + 1];
      }
    }
    if (p < first) {
      const V* a = row(p);
      V one[R];
      for (int r = 0; r < R; ++r) one[r] = to[r][p];
      for (int64_t q = 0; q < p; ++q)
        for (int r = 0; r < R; ++r) one[r] -= a[q] * to[r][q];
      for (int r = 0; r < R; ++r) to[r][p] = one[r] * inverse_[p];
    }
    [&]<int... r>(std::integer_sequence<int, r...>) { (among<r>(to), ...); }(std::make_integer_sequence<int, R>{});
    slots = first + R;
  }

  // Row r of a block against itself and the block's rows above it.
  template <int r>
  void among(V* const* to) {
    const int64_t first = slots;
    V sum[r + 1], right = right_[first + r];
    for (int c = 0; c <= r; ++c) sum[c] = to[r][first + c];
    const V square = sum[r];
    for (int64_t q = 0; q < first; ++q) {
      const V own = to[r][q];
      for (int c = 0; c <= r; ++c) sum[c] -= own * to[c][q];
      right -= own * right_[q];
    }
    for (int c = 0; c < r; ++c) {
      for (int b = 0; b < c; ++b) sum[c] -= to[r][first + b] * to[c][first + b];
      const V entry = sum[c] * inverse_[first + c];
      to[r][first + c] = entry;
      sum[r] -= entry * entry;
      right -= entry * right_[first + c];
    }
    const V one = V{} + 1.0f;
    const V pivot = sum[r] > smallest_pivot * square ? sum[r] : V{} + std::numeric_limits<float>::infinity();
    inverse_[first + r] = one / square_root(pivot);
    right_[first + r] = right * inverse_[first + r];
  }
};

}  // namespace expander::ISA
