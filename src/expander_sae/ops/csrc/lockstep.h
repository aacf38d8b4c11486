// Least squares of as many tokens as a vector has lanes, in lockstep, a token in each lane.
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

// Where entry (i, j), j <= i, of a symmetric or lower triangular matrix stands.
inline int64_t packed(int64_t i, int64_t j) { return i * (i + 1) / 2 + j; }

// A column's entry on the row of a chained one.
struct Meeting {
  int32_t slot, id;
  float value;
};

// Room to find out which columns of a lane's support share rows.
struct MeetingPlace {
  Meeting* meetings;  // [slots * degree + 1]
  float* dense;       // [slots, stride] columns with their zeros, where `is_dense`
  int64_t stride;

  // Two columns share degree^2 / d_in rows on the average, each of which takes some cycles that no vector helps with; with
  // their zeros they are d_in / 16 vectors.
  static bool is_dense(const Dictionary& w) { return 128 * w.degree * w.degree > w.d_in * w.d_in; }

  void add_to(Pieces& pieces, const Dictionary& w, int64_t slots) {
    stride = (w.d_in + 15) / 16 * 16;
    pieces.add(meetings, is_dense(w) ? 0 : slots * w.degree + 1);
    pieces.add(dense, is_dense(w) ? slots * stride : 0);
  }
};

// As `describe_columns`, from the columns with their zeros.
template <class D, class Fresh>
void describe_dense_columns(const Dictionary& w, const MeetingPlace& place, const int32_t* latents, int64_t slots,
                            const float* x, float* gram, float* right, Fresh&& fresh) {
  constexpr int together = std::min(4, most_accumulators * native_lanes / 16);  // new columns that share each load
  const int64_t d = D::of(w.degree), stride = place.stride;
  for (int64_t i = 0; i < slots; ++i) {
    if (latents[i] < 0) continue;
    float* column = place.dense + i * stride;
    std::fill(column, column + stride, 0.0f);
    subtract_column(w, d, latents[i], -1.0f, column);
  }
  auto is_new = [&](int64_t j) { return latents[j] >= 0 && fresh(j); };
  for (int64_t j = 0; j < slots;) {
    int64_t chosen[together];
    int count = 0;
    for (; j < slots && count < together; ++j)
      if (is_new(j)) chosen[count++] = j;
    if (!count) break;
    for (int c = count; c < together; ++c) chosen[c] = chosen[0];
    for (int c = 0; c < count; ++c) right[chosen[c] * native_lanes] = dot(place.dense + chosen[c] * stride, x, w.d_in);
    for (int64_t i = 0; i < slots; ++i) {
      // Of two new columns the later one has been here, or will be, with the earlier.
      if (latents[i] < 0 || (fresh(i) && i > chosen[count - 1])) continue;
      const float* other = place.dense + i * stride;
      Sum16 sum[together];
      for (int64_t r = 0; r < stride; r += 16)
        for (int c = 0; c < together; ++c) sum[c].add_products(other + r, place.dense + chosen[c] * stride + r);
      for (int c = 0; c < count; ++c)
        if (!fresh(i) || i <= chosen[c])
          gram[packed(std::max(i, chosen[c]), std::min(i, chosen[c])) * native_lanes] = sum[c].total();
    }
  }
}

// What a lane's new columns (slots for which `fresh`) have to do with each other, with the old ones, and with x: sets their
// entries of the packed Gram matrix, zero there before, and of the right-hand side. Which columns meet is data that no
// branch predicts, so meetings are listed first, with the latest new column on the row, and then passed down the chains.
// `latents` are the lane's, -1 where dead.
template <class D, class Fresh>
void describe_columns(const Dictionary& w, SupportWork& work, const MeetingPlace& place, const int32_t* latents,
                      int64_t slots, int lane, const float* x, Native* gram_of_all, Native* right_of_all,
                      Fresh&& fresh) {
  const int64_t d = D::of(w.degree);
  Meeting* meetings = place.meetings;
  float* gram = reinterpret_cast<float*>(gram_of_all) + lane;
  float* right = reinterpret_cast<float*>(right_of_all) + lane;
  if (MeetingPlace::is_dense(w)) return describe_dense_columns<D>(w, place, latents, slots, x, gram, right, fresh);
  int64_t met = 0;
  auto meet = [&](int64_t slot, int32_t id, float value) {
    meetings[met] = {static_cast<int32_t>(slot), id, value};
    met += id >= 0;
  };
  for (int64_t j = 0; j < slots; ++j) {
    if (latents[j] < 0 || !fresh(j)) continue;
    const uint16_t* rows = w.rows + latents[j] * d;
    const float* values = w.values + latents[j] * d;
    const int64_t length = D::length(w, latents[j]);
    float square = 0;
    for (int64_t e = 0; e < length; ++e) {
      const int32_t id = static_cast<int32_t>(j * d + e);
      square += values[e] * values[e];
      meet(j, work.head[rows[e]], values[e]);
      work.next[id] = work.head[rows[e]];
      work.head[rows[e]] = id;
    }
    gram[packed(j, j) * native_lanes] = square;
    right[j * native_lanes] = correlation_with<D>(w, latents[j], x);
  }
  for (int64_t i = 0; i < slots; ++i) {
    if (latents[i] < 0 || fresh(i)) continue;
    const uint16_t* rows = w.rows + latents[i] * d;
    const float* values = w.values + latents[i] * d;
    const int64_t length = D::length(w, latents[i]);
    for (int64_t e = 0; e < length; ++e) meet(i, work.head[rows[e]], values[e]);
  }
  while (met) {
    const int64_t count = met;
    met = 0;
    for (int64_t m = 0; m < count; ++m) {
      const Meeting meeting = meetings[m];
      const int64_t slot = meeting.id / d;
      const int64_t high = std::max<int64_t>(meeting.slot, slot), low = std::min<int64_t>(meeting.slot, slot);
      gram[packed(high, low) * native_lanes] += meeting.value * w.values[latents[slot] * d + (meeting.id - slot * d)];
      meet(meeting.slot, work.next[meeting.id], meeting.value);
    }
  }
  for (int64_t j = 0; j < slots; ++j) {
    if (latents[j] < 0 || !fresh(j)) continue;
    const uint16_t* rows = w.rows + latents[j] * d;
    for (int64_t e = 0; e < D::length(w, latents[j]); ++e) work.head[rows[e]] = -1;
  }
}

// z = argmin ||x - W_S z|| by the Cholesky factor L of W_S^T W_S, for supports that only grow. A slot holds one column of
// each lane's support, or none: a dead slot has inverse zero there, and its coefficient stays zero.
class Lockstep {
 public:
  static constexpr int lanes = native_lanes;
  using V = Native;

  V* coefficients;   // [capacity] z
  int32_t* latents;  // [lanes, capacity], -1 where dead; placed by the owner
  MeetingPlace meetings;
  int64_t capacity, slots = 0;

  const V& inverse(int64_t slot) const { return inverse_[slot]; }
  V* row(int64_t i) const { return lower_ + row_start(i); }

  void add_to(Pieces& pieces, int64_t columns, const Dictionary& w) {
    capacity = columns;
    pieces.add(lower_, row_start(capacity));
    pieces.add(right_, capacity);
    pieces.add(inverse_, capacity);
    pieces.add(coefficients, capacity);
    meetings.add_to(pieces, w, capacity);
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

  template <class D>
  void describe(const Dictionary& w, SupportWork& work, int lane, const float* x, int64_t last) {
    describe_columns<D>(w, work, meetings, latents + lane * capacity, last, lane, x, lower_, right_,
                        [&](int64_t slot) { return slot >= slots; });
  }

  // Factors the new columns; one in the span of those before it is dead.
  void extend(int64_t last) {
    while (slots < last) {
      const int64_t left = last - slots;
      if (most_accumulators >= 16 && left >= 8)
        factor_rows<most_accumulators >= 16 ? 8 : 4>();
      else if (left >= 4)
        factor_rows<4>();
      else if (left >= 2)
        factor_rows<2>();
      else
        factor_rows<1>();
    }
  }

  // Factors a whole Gram matrix, packed; a column of length zero is dead.
  void factor(const V* gram, const V* right, int64_t last) {
    std::copy(gram, gram + row_start(last), lower_);
    std::copy(right, right + last, right_);
    slots = 0;
    extend(last);
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

  static int64_t row_start(int64_t i) { return packed(i, 0); }

  // The next R rows of L: against the finished rows two at a time, so that each vector loaded serves 2 R products.
  template <int R>
  [[gnu::noinline]] void factor_rows() {
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
