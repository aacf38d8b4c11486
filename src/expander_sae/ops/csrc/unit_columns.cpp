// Unit-length columns W = V / ||V|| and the gradient through the norm: dV = (dW - <dW, w> w) / ||V||.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "team.h"
#include "vector.h"

namespace expander::ISA {
namespace {

// Where squares overflow float32.
float large_length(const float* column, int64_t degree, int64_t latent) {
  double sum = 0;
  for (int64_t e = 0; e < degree; ++e) sum += static_cast<double>(column[e]) * column[e];
  const auto length = static_cast<float>(std::sqrt(sum));
  if (!(length < std::numeric_limits<float>::infinity()))
    throw std::invalid_argument("column " + std::to_string(latent) + " holds NaN or infinity, or is longer than float32 numbers go");
  return length;
}

}  // namespace

void unit_columns(const float* raw, int64_t n, int64_t degree, float floor, float* unit, float* norm, int threads) {
  const int64_t block = std::max<int64_t>(1, 32768 / degree);
  for_each_part(threads, (n + block - 1) / block, [&](int64_t part) {
    for (int64_t j = part * block; j < std::min(n, (part + 1) * block); ++j) {
      const float* from = raw + j * degree;
      float* to = unit + j * degree;
      float sum = 0;
      for (int64_t e = 0; e < degree; ++e) sum += from[e] * from[e];
      norm[j] = std::max(sum < std::numeric_limits<float>::infinity() ? std::sqrt(sum) : large_length(from, degree, j), floor);
      const float scale = 1.0f / norm[j];
      for (int64_t e = 0; e < degree; ++e) to[e] = from[e] * scale;
    }
  });
}

void unit_columns_backward(const float* gradient, const float* unit, const float* norm, int64_t n, int64_t degree,
                           float* out, int threads) {
  const int64_t block = std::max<int64_t>(1, 32768 / degree);
  for_each_part(threads, (n + block - 1) / block, [&](int64_t part) {
    for (int64_t j = part * block; j < std::min(n, (part + 1) * block); ++j) {
      const float* g = gradient + j * degree;
      const float* w = unit + j * degree;
      float along = 0;
      for (int64_t e = 0; e < degree; ++e) along += g[e] * w[e];
      const float scale = 1.0f / norm[j];
      for (int64_t e = 0; e < degree; ++e) out[j * degree + e] = (g[e] - along * w[e]) * scale;
    }
  });
}

}  // namespace expander::ISA
