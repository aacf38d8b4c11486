// The least-squares problem of one token on a support that grows column by column.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "vector.h"

namespace expander::ISA {

constexpr float smallest_score = 1e-5f;  // of ||x||: below it the residual is rounding
constexpr float smallest_pivot = 1e-5f;  // squared distance of a unit column to the support's span

inline float dot(const float* a, const float* b, int64_t count) {
  Sum16 products;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) products.add_products(a + i, b + i);
  float sum = products.total();
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// Rows of the inverse are padded to whole vectors, and by one more: rows whose addresses agree in the low 12 bits would
// wait for each other.
inline int64_t stride_for(int64_t k) { return (k + 15) / 16 * 16 + 16; }

// to[0..count) += factor * from[0..count), both padded to whole vectors.
inline void add_scaled(float* to, float factor, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += native_lanes)
    store_unaligned(to + i, load_unaligned<Native>(to + i) + factor * load_unaligned<Native>(from + i));
}

// Support columns, their least-squares coefficients z = argmin ||x - W_S z||, and the inverse of their Gram matrix. The
// inverse, not a factor: a column that enters meets few others (most pairs share no row), and its products with a sparse
// vector, like its update of rank one, are whole vectors with no chain of divisions between them.
struct Support {
  int32_t* latents;     // [k]
  float* inverse;       // [k, stride], zero beyond count
  float* coefficients;  // [stride], zero beyond count
  int64_t count, stride;

  float* row(int64_t i) const { return inverse + i * stride; }
  bool holds(int32_t latent) const {
    int32_t found = 0;
    for (int64_t i = 0; i < count; ++i) found |= latents[i] == latent;
    return found != 0;
  }
  void clear() {
    count = 0;
    std::fill(coefficients, coefficients + stride, 0.0f);
  }
};

// What a thread needs to extend supports, filled for one support at a time.
struct SupportWork {
  int32_t* head;   // [d_in] which columns touch a row, as a chain: slot * degree + entry, or -1
  int32_t* next;   // [k * degree]
  float* gram;     // [stride] W_S^T w_j of the column in hand
  float* along;    // [stride] u = G^-1 W_S^T w_j: w_j - W_S u is orthogonal to the support
  float* image;    // [d_in] zero between calls
  float distance;  // ||w_j - W_S u||^2

  void add_to(Pieces& pieces, int64_t d_in, int64_t degree, int64_t k) {
    pieces.add(head, d_in);
    pieces.add(next, k * degree);
    pieces.add(gram, stride_for(k));
    pieces.add(along, stride_for(k));
    pieces.add(image, d_in);
  }
  void start(int64_t d_in) {
    std::fill(head, head + d_in, -1);
    std::fill(image, image + d_in, 0.0f);
  }
  // Chains the columns in slots [first, last).
  void chain(const Dictionary& w, const int32_t* latents, int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last; ++slot) {
      const uint16_t* rows = w.rows + latents[slot] * w.degree;
      for (int64_t e = 0; e < w.length(latents[slot]); ++e) {
        const int32_t id = static_cast<int32_t>(slot * w.degree + e);
        next[id] = head[rows[e]];
        head[rows[e]] = id;
      }
    }
  }
  void unchain(const Dictionary& w, const int32_t* latents, int64_t count) {
    for (int64_t slot = 0; slot < count; ++slot) {
      const uint16_t* rows = w.rows + latents[slot] * w.degree;
      for (int64_t e = 0; e < w.length(latents[slot]); ++e) head[rows[e]] = -1;
    }
  }
};

// image -= amount * w_j
inline void subtract_column(const Dictionary& w, int64_t degree, int64_t j, float amount, float* image) {
  const uint16_t* rows = w.rows + j * degree;
  const float* values = w.values + j * degree;
  const int64_t length = w.lengths ? w.lengths[j] : degree;
  for (int64_t e = 0; e < length; ++e) image[rows[e]] -= amount * values[e];
}

// <w_j, vector>
template <class D>
float correlation_with(const Dictionary& w, int64_t j, const float* vector) {
  const int64_t d = D::of(w.degree);
  const uint16_t* rows = w.rows + j * d;
  const float* values = w.values + j * d;
  const int64_t length = D::length(w, j);
  float sum = 0;
  for (int64_t e = 0; e < length; ++e) sum = multiply_add(values[e], vector[rows[e]], sum);
  return sum;
}

// Adds G^-1 v to `to`, for v [count], zero up to the next whole vector.
inline void add_solution(const Support& s, const float* v, float* to) {
  for (int64_t first = 0; first < s.count; first += native_lanes) {
    const Native part = load_unaligned<Native>(v + first);
    uint32_t mask = greater_mask<native_lanes>(size_of(part), Native{});
    for (; mask; mask &= mask - 1) {
      const int64_t i = first + __builtin_ctz(mask);
      add_scaled(to, v[i], s.row(i), s.count);
    }
  }
}

// The inverse loses digits as columns come close to each other. Where it matters, u is improved against the columns
// themselves, and the distance taken from the difference.
template <class D>
void improve_direction(const Dictionary& w, const Support& s, SupportWork& work, int32_t j) {
  const int64_t d = D::of(w.degree);
  for (int round = 0; round < 3; ++round) {
    subtract_column(w, d, j, -1.0f, work.image);
    for (int64_t i = 0; i < s.count; ++i) subtract_column(w, d, s.latents[i], work.along[i], work.image);
    for (int64_t i = 0; i < s.count; ++i) work.gram[i] = correlation_with<D>(w, s.latents[i], work.image);
    float square = 0;
    auto take = [&](int64_t latent) {
      for (int64_t e = 0; e < D::length(w, latent); ++e) {
        float& value = work.image[w.rows[latent * d + e]];
        square += value * value;
        value = 0.0f;  // each row once
      }
    };
    take(j);
    for (int64_t i = 0; i < s.count; ++i) take(s.latents[i]);
    work.distance = square;
    if (round < 2) add_solution(s, work.gram, work.along);
  }
}

// Fills `work` for column j; false where it is numerically in the span already.
template <class D>
bool find_direction(const Dictionary& w, const Support& s, SupportWork& work, int32_t j) {
  const int64_t d = D::of(w.degree), stride = (s.count + 15) / 16 * 16;
  const uint16_t* rows = w.rows + j * d;
  const float* values = w.values + j * d;
  std::fill(work.gram, work.gram + stride, 0.0f);
  std::fill(work.along, work.along + stride, 0.0f);
  const int64_t length = D::length(w, j);
  float own = 0;
  for (int64_t e = 0; e < length; ++e) {
    own += values[e] * values[e];
    for (int32_t id = work.head[rows[e]]; id >= 0; id = work.next[id]) {
      const int64_t slot = id / d;
      work.gram[slot] += values[e] * w.values[s.latents[slot] * d + (id - slot * d)];
    }
  }
  add_solution(s, work.gram, work.along);
  work.distance = own - dot(work.gram, work.along, stride);
  if (work.distance < 0.05f * own) improve_direction<D>(w, s, work, j);
  return work.distance > smallest_pivot * own;
}

// Takes column j in: its coefficient becomes `amount`, the others' move by -amount * u. With u extended by -1 for j itself,
// the inverse moves by u u^T / distance.
inline void take_in(const Dictionary& w, Support& s, SupportWork& work, int32_t j, float amount) {
  const int64_t t = s.count;
  float* u = work.along;
  if (t % 16 == 0) std::fill(u + t, u + t + 16, 0.0f);
  u[t] = -1.0f;
  std::fill(s.row(t), s.row(t) + s.stride, 0.0f);
  const float scale = 1.0f / work.distance;
  for (int64_t c = 0; c <= t; c += native_lanes) {
    const Native part = scale * load_unaligned<Native>(u + c);
    float* to = s.inverse + c;
    for (int64_t i = 0; i <= t; ++i, to += s.stride) store_unaligned(to, load_unaligned<Native>(to) + u[i] * part);
  }
  add_scaled(s.coefficients, -amount, u, t + 1);
  s.latents[t] = j;
  work.chain(w, s.latents, t, t + 1);
  s.count = t + 1;
}

// Adds column j with <w_j, x> = target to a support; false where it is numerically in the span already. (find_direction may
// have overwritten its products with the other columns, so they are found again.)
template <class D>
bool append(const Dictionary& w, Support& s, SupportWork& work, int32_t j, float target) {
  if (!find_direction<D>(w, s, work, j)) return false;
  float product = target;  // less <w_j, W_S z>
  const int64_t d = D::of(w.degree), length = D::length(w, j);
  for (int64_t e = 0; e < length; ++e)
    for (int32_t id = work.head[w.rows[j * d + e]]; id >= 0; id = work.next[id]) {
      const int64_t slot = id / d;
      product -= w.values[j * d + e] * w.values[s.latents[slot] * d + (id - slot * d)] * s.coefficients[slot];
    }
  take_in(w, s, work, j, product / work.distance);
  return true;
}

// Drops the column in a slot: the others' coefficients become the fit without it, and the last column takes the slot.
inline void drop(Support& s, int64_t slot) {
  const int64_t last = s.count - 1;
  const float* gone = s.row(slot);
  const float scale = 1.0f / gone[slot];
  for (int64_t i = 0; i < s.count; ++i)
    if (i != slot && gone[i] != 0.0f) add_scaled(s.row(i), -gone[i] * scale, gone, s.count);
  add_scaled(s.coefficients, -s.coefficients[slot] * scale, gone, s.count);
  std::copy(s.row(last), s.row(last) + s.stride, s.row(slot));
  for (int64_t i = 0; i < last; ++i) {
    s.row(i)[slot] = s.row(i)[last];
    s.row(i)[last] = 0.0f;
  }
  s.latents[slot] = s.latents[last];
  s.coefficients[slot] = s.coefficients[last];
  s.coefficients[last] = 0.0f;
  s.count = last;
}

// Codes by falling size (value when not signed), then latent; unused slots are zero on the lowest free latents. A slot is a
// column where its latent is not -1 and its coefficient not zero; the caller holds at most k of those.
inline void write_codes(const int32_t* latents, const float* coefficients, int64_t count, int64_t k, bool is_signed,
                        int64_t* indices, float* codes) {
  static thread_local std::vector<float> size;
  size.clear();
  int64_t used = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool is_column = latents[i] >= 0 && coefficients[i] != 0.0f;
    used += is_column;
    // Below every column, and no column stands behind it.
    size.push_back(!is_column ? -std::numeric_limits<float>::infinity() : is_signed ? std::fabs(coefficients[i]) : coefficients[i]);
    if (is_column && !(std::fabs(coefficients[i]) < std::numeric_limits<float>::infinity())) {
      // Beyond float32: the token is no code, and the caller of the kernel finds it by its infinities.
      for (int64_t p = 0; p < k; ++p) indices[p] = p, codes[p] = std::numeric_limits<float>::infinity();
      return;
    }
  }
  if (used > k) throw std::logic_error("a pursuit kept more columns than k");
  for (int64_t i = 0; i < count; ++i) {
    if (size[i] == -std::numeric_limits<float>::infinity()) continue;
    int32_t before = 0;  // quadratic, but whole vectors
    for (int64_t p = 0; p < count; ++p)
      before += (size[p] > size[i]) | ((size[p] == size[i]) & (latents[p] < latents[i]));
    indices[before] = latents[i];
    codes[before] = coefficients[i];
  }
  int64_t filled = used;
  for (int64_t latent = 0; filled < k; ++latent)
    if (std::find(indices, indices + used, latent) == indices + used) {
      indices[filled] = latent;
      codes[filled++] = 0.0f;
    }
}

}  // namespace expander::ISA
