// Least squares of one token in double: where the columns of a support nearly depend on each other, float32 is not enough.
// Rare, so it is short rather than fast.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "support.h"

namespace expander::ISA {

constexpr float largest_gradient = 1e-3f;  // of ||x||: a least-squares fit leaves |<w_j, r>| far below it

// Whether z is the fit of x on its columns as far as float32 numbers tell: g = W_S^T (x - W_S z) is small where z is not
// zero, and so is z^T g, by which ||x - W_S z||^2 is too large. `residual` is room for d_in numbers.
template <class D>
bool is_fit(const Dictionary& w, const int32_t* latents, const float* z, int64_t count, const float* x, float norm,
            float* residual) {
  std::copy(x, x + w.d_in, residual);
  for (int64_t i = 0; i < count; ++i)
    if (latents[i] >= 0 && z[i] != 0.0f) subtract_column(w, D::of(w.degree), latents[i], z[i], residual);
  float most = 0, excess = 0;
  bool numbers = true;
  for (int64_t i = 0; i < count; ++i) {
    if (latents[i] < 0 || z[i] == 0.0f) continue;
    const float gradient = std::fabs(correlation_with<D>(w, latents[i], residual));
    numbers &= gradient <= std::numeric_limits<float>::max();
    most = std::max(most, gradient);
    excess += gradient * std::fabs(z[i]);
  }
  return numbers && most <= largest_gradient * norm && excess <= largest_gradient * norm * norm;
}

class ExactFit {
 public:
  // z = argmin ||x - W_S z||; a column in the span of those before it, and a slot without one (latent -1), get zero.
  void solve(const Dictionary& w, const int32_t* latents, int64_t count, const float* x, float* z) {
    describe(w, latents, count, x);
    std::vector<uint8_t> chosen(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) chosen[static_cast<size_t>(i)] = latents[i] >= 0;
    const std::vector<double> found = fit(chosen);
    for (int64_t i = 0; i < count; ++i) z[i] = static_cast<float>(found[static_cast<size_t>(i)]);
  }

  // The same over z >= 0, by Lawson and Hanson's active sets.
  void solve_nonnegative(const Dictionary& w, const int32_t* latents, int64_t count, const float* x, float* z) {
    describe(w, latents, count, x);
    const auto size = static_cast<size_t>(count);
    std::vector<uint8_t> passive(size), refused(size);
    std::vector<double> now(size);
    double largest = 0;
    for (size_t i = 0; i < size; ++i) largest = std::max(largest, std::fabs(right_[i]));
    for (int64_t round = 0; round < 3 * count; ++round) {
      double most = 1e-12 * largest;
      size_t enters = size;
      for (size_t i = 0; i < size; ++i) {
        if (passive[i] || refused[i] || latents[i] < 0) continue;
        double gradient = right_[i];
        for (size_t p = 0; p < size; ++p) gradient -= gram(i, p) * now[p];
        if (gradient > most) most = gradient, enters = i;
      }
      if (enters == size) break;
      passive[enters] = 1;
      for (;;) {
        const std::vector<double> wanted = fit(passive);
        double step = 1;
        for (size_t i = 0; i < size; ++i)
          if (passive[i] && wanted[i] <= 0) step = std::min(step, now[i] > 0 ? now[i] / (now[i] - wanted[i]) : 0.0);
        bool left = false;
        for (size_t i = 0; i < size; ++i) {
          if (!passive[i]) continue;
          const bool leaves = wanted[i] <= 0 && (now[i] > 0 ? now[i] / (now[i] - wanted[i]) : 0.0) <= step;
          refused[i] |= leaves && now[i] == 0;
          now[i] = leaves ? 0 : now[i] + step * (wanted[i] - now[i]);
          passive[i] = !leaves;
          left |= leaves;
        }
        if (!left) break;
      }
    }
    for (size_t i = 0; i < size; ++i) z[i] = static_cast<float>(std::max(now[i], 0.0));
  }

 private:
  double& gram(size_t i, size_t j) { return gram_[i * right_.size() + j]; }

  void describe(const Dictionary& w, const int32_t* latents, int64_t count, const float* x) {
    const auto size = static_cast<size_t>(count);
    right_.assign(size, 0);
    gram_.assign(size * size, 0);
    column_.assign(static_cast<size_t>(w.d_in), 0);
    auto entries = [&](int64_t slot, auto&& visit) {
      for (int64_t e = latents[slot] * w.degree; e < (latents[slot] + int64_t{1}) * w.degree; ++e) visit(w.rows[e], w.values[e]);
    };
    for (int64_t i = 0; i < count; ++i) {
      if (latents[i] < 0) continue;
      const auto at = static_cast<size_t>(i);
      entries(i, [&](size_t row, double value) { column_[row] += value, right_[at] += value * x[row]; });
      for (int64_t j = 0; j <= i; ++j) {
        if (latents[j] < 0) continue;
        double sum = 0;
        entries(j, [&](size_t row, double value) { sum += value * column_[row]; });
        gram(at, static_cast<size_t>(j)) = gram(static_cast<size_t>(j), at) = sum;
      }
      entries(i, [&](size_t row, double) { column_[row] = 0; });
    }
  }

  // Least squares on the chosen slots by Cholesky; dependent ones are skipped.
  std::vector<double> fit(const std::vector<uint8_t>& chosen) {
    const size_t size = right_.size();
    std::vector<size_t> slots;
    std::vector<std::vector<double>> lower;
    std::vector<double> half, z(size, 0.0);
    for (size_t i = 0; i < size; ++i) {
      if (!chosen[i]) continue;
      std::vector<double> row(slots.size() + 1);
      double pivot = gram(i, i), own = right_[i];
      for (size_t p = 0; p < slots.size(); ++p) {
        double sum = gram(i, slots[p]);
        for (size_t q = 0; q < p; ++q) sum -= row[q] * lower[p][q];
        row[p] = sum / lower[p][p];
        pivot -= row[p] * row[p];
        own -= row[p] * half[p];
      }
      if (!(pivot > static_cast<double>(smallest_pivot) * gram(i, i))) continue;
      row.back() = std::sqrt(pivot);
      half.push_back(own / row.back());
      slots.push_back(i);
      lower.push_back(std::move(row));
    }
    for (size_t p = slots.size(); p-- > 0;) {
      double sum = half[p];
      for (size_t q = p + 1; q < slots.size(); ++q) sum -= lower[q][p] * z[slots[q]];
      z[slots[p]] = sum / lower[p][p];
    }
    return z;
  }

  std::vector<double> gram_, right_, column_;
};

}  // namespace expander::ISA
