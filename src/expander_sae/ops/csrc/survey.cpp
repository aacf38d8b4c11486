// One look at the numbers before a kernel runs: what is not finite, what points outside, how large the largest is.
#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "team.h"
#include "vector.h"

namespace expander::ISA {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float large = 0x1p40f, small = 0x1p-40f;

// The bits of |x| order like |x|, and those of infinity and NaN stand above all numbers.
uint32_t largest_bits(const float* values, int64_t count) {
  uint32_t most = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, 4);
    most = std::max(most, bits & 0x7fffffffu);
  }
  return most;
}
uint16_t largest_bits(const uint16_t* values, int64_t count) {
  uint16_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max<uint16_t>(most, values[i] & 0x7fffu);
  return most;
}

bool is_finite(const Activations& x, int64_t at, int64_t count) {
  if (x.element == Element::float32) return largest_bits(static_cast<const float*>(x.data) + at, count) < 0x7f800000u;
  const uint16_t most = largest_bits(static_cast<const uint16_t*>(x.data) + at, count);
  return most < (x.element == Element::bfloat16 ? 0x7f80u : 0x7c00u);
}

}  // namespace

float largest_size(const float* values, int64_t count) {
  const uint32_t most = largest_bits(values, count);
  if (most >= 0x7f800000u) return infinity;
  float size;
  std::memcpy(&size, &most, 4);
  return size;
}

DictionarySurvey survey_dictionary(const Dictionary& w) {
  const int64_t size = w.n_latents * w.degree;
  DictionarySurvey found{w.d_in - 1, largest_size(w.values, size)};
  if (!w.rows) return found;
  uint16_t most = 0;
  for (int64_t i = 0; i < size; ++i) most = std::max(most, w.rows[i]);
  found.largest_row = most;
  return found;
}

TokenSurvey survey_tokens(const Activations& x, int64_t d_in, int threads) {
  TokenSurvey all{-1, -1, 0, false};
  const int64_t block = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, d_in));
  if (x.batch < 16 * block) threads = 1;  // waking the others takes longer
  std::mutex lock;
  for_each_part(threads, (x.batch + block - 1) / block, [&](int64_t part) {
    static thread_local Scratch scratch;
    float* token = static_cast<float*>(scratch.reserve(static_cast<size_t>(d_in) * 4));
    TokenSurvey own{-1, -1, 0, false};
    for (int64_t t = part * block; t < std::min(x.batch, (part + 1) * block); ++t) {
      if (!is_finite(x, t * d_in, d_in)) {
        if (own.not_finite < 0) own.not_finite = t;
        continue;
      }
      const float* numbers = static_cast<const float*>(x.data) + t * d_in;
      if (x.center || x.element != Element::float32) {
        read_token(x, d_in, t, token);
        numbers = token;
      }
      const float size = largest_size(numbers, d_in);
      own.extreme |= size > 0 && !(size >= small && size <= large);
      if (size > own.largest) own.largest = size, own.at = t;
    }
    const std::lock_guard hold(lock);
    all.extreme |= own.extreme;
    if (own.not_finite >= 0 && (all.not_finite < 0 || own.not_finite < all.not_finite)) all.not_finite = own.not_finite;
    if (own.largest > all.largest || (own.largest == all.largest && own.at >= 0 && own.at < all.at))
      all.largest = own.largest, all.at = own.at;
  });
  return all;
}

}  // namespace expander::ISA
