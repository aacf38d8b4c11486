// Arrays from Python as the kernels' arguments. All that a kernel trusts is checked here, once more than in Python: a wrong
// shape would read foreign memory.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace nb = nanobind;

namespace expander {

using AnyMatrix = nb::ndarray<nb::ro, nb::device::cpu, nb::c_contig, nb::ndim<2>>;
using Matrix = nb::ndarray<const float, nb::device::cpu, nb::c_contig, nb::ndim<2>>;
using Vector = nb::ndarray<const float, nb::device::cpu, nb::c_contig, nb::ndim<1>>;
using Rows = nb::ndarray<const uint16_t, nb::device::cpu, nb::c_contig, nb::ndim<2>>;
using Indices = nb::ndarray<const int64_t, nb::device::cpu, nb::c_contig, nb::ndim<2>>;
using OutMatrix = nb::ndarray<float, nb::device::cpu, nb::c_contig, nb::ndim<2>>;
using OutVector = nb::ndarray<float, nb::device::cpu, nb::c_contig, nb::ndim<1>>;
using OutIndices = nb::ndarray<int64_t, nb::device::cpu, nb::c_contig, nb::ndim<2>>;
using Bytes = nb::ndarray<const uint8_t, nb::device::cpu, nb::c_contig, nb::ndim<1>>;
using OutBytes = nb::ndarray<uint8_t, nb::device::cpu, nb::c_contig, nb::ndim<1>>;
template <class T>
using Maybe = std::optional<T>;

inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

inline Element element_of(const AnyMatrix& x) {
  const nb::dlpack::dtype type = x.dtype();
  if (type == nb::dtype<float>()) return Element::float32;
  if (type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat) && type.bits == 16) return Element::bfloat16;
  if (type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) && type.bits == 16) return Element::float16;
  throw std::invalid_argument("x must be float32, bfloat16 or float16");
}

inline int64_t extent(const auto& array, int axis) { return static_cast<int64_t>(array.shape(axis)); }

template <class Array>
auto data_or_null(const Maybe<Array>& array, int64_t size) -> decltype(array->data()) {
  if (!array) return nullptr;
  require(static_cast<int64_t>(array->size()) == size, "an optional array has the wrong size");
  return array->data();
}

// What a kernel will write, full of NaN bits in tests, so that a number nobody wrote shows.
template <class T, class... Shape>
T* output(const nb::ndarray<T, Shape...>& array) {
  if (poisoned()) std::memset(array.data(), 0xff, array.size() * sizeof(T));
  return array.data();
}
template <class Array>
auto output(const Maybe<Array>& array, int64_t size) -> decltype(array->data()) {
  return data_or_null(array, size) ? output(*array) : nullptr;
}

inline Activations activations(const AnyMatrix& x, const Maybe<Vector>& center) {
  require(extent(x, 1) >= 1, "x must have at least one coordinate");
  return {x.data(), element_of(x), extent(x, 0), data_or_null(center, extent(x, 1))};
}

constexpr int64_t most_slots = int64_t{1} << 31;  // latents and places in a support are 32-bit

inline Dictionary dictionary(const Maybe<Rows>& rows, const Matrix& values, int64_t d_in) {
  Dictionary w{nullptr, values.data(), extent(values, 0), extent(values, 1), d_in};
  require(w.n_latents >= 1 && w.degree >= 1 && d_in >= 1, "a dictionary has at least one latent, one entry in a column and one row");
  require(w.n_latents < most_slots, "n_latents must be below 2^31");
  if (rows) {
    require(extent(*rows, 0) == w.n_latents && extent(*rows, 1) == w.degree, "rows and values differ in shape");
    w.rows = rows->data();
  } else {
    require(w.degree == d_in, "a dense dictionary has values [n_latents, d_in]");
  }
  return w;
}

inline void check_k(int64_t k, int64_t slots, const Dictionary& w) {
  require(k >= 1 && k <= w.n_latents, "k must be in 1..n_latents");
  require(slots < most_slots / w.degree, "columns of one token times degree must be below 2^31");
}

inline void check_threads(int threads) { require(threads >= 1, "threads must be at least 1"); }

// The largest |number|, zero where there are none.
inline float check_finite(const char* name, const float* numbers, int64_t count) {
  const float largest = numbers ? kernels().largest_size(numbers, count) : 0;
  if (!std::isfinite(largest)) throw nb::value_error((std::string(name) + " holds NaN or infinity").c_str());
  return largest;
}
inline float check_finite(const char* name, const Maybe<Vector>& numbers) {
  return numbers ? check_finite(name, numbers->data(), extent(*numbers, 0)) : 0;
}

// The largest |value|.
inline float check_columns(const Dictionary& w) {
  const DictionarySurvey found = kernels().survey_dictionary(w);
  if (!std::isfinite(found.largest)) throw nb::value_error("values hold NaN or infinity");
  if (found.largest_row >= w.d_in) throw nb::value_error("a row index is not below d_in");
  return found.largest;
}

// Columns of different degrees have zeros behind their entries: kernels stop where those begin. Nothing is set where that
// would spare little.
class Lengths {
 public:
  explicit Lengths(Dictionary& w) {
    if (!w.rows || w.degree <= 16) return;
    lengths_.resize(static_cast<size_t>(w.n_latents));
    int64_t total = 0;
    for (int64_t j = 0; j < w.n_latents; ++j) total += lengths_[static_cast<size_t>(j)] = length(w.values + j * w.degree, w.degree);
    if (8 * total < 7 * w.n_latents * w.degree) w.lengths = lengths_.data();
  }

 private:
  static int32_t length(const float* column, int64_t degree) {
    constexpr int64_t block = 16;
    for (; degree >= block; degree -= block) {
      uint32_t bits = 0;
      for (int64_t e = degree - block; e < degree; ++e) bits |= std::bit_cast<uint32_t>(column[e]) << 1;  // without the sign
      if (bits) break;
    }
    while (degree > 0 && column[degree - 1] == 0.0f) --degree;
    return static_cast<int32_t>(degree);
  }
  std::vector<int32_t> lengths_;
};

inline std::string token(int64_t which) { return "token " + std::to_string(which); }

[[noreturn]] inline void overflow(int64_t which, const std::string& what) {
  throw nb::value_error((what + " of " + token(which) + " is beyond the numbers of float32").c_str());
}

inline TokenSurvey check_tokens(const Activations& x, int64_t d_in, int threads) {
  check_finite("center", x.center, d_in);
  const TokenSurvey found = kernels().survey_tokens(x, d_in, threads);
  if (found.not_finite >= 0) throw nb::value_error(("x holds NaN or infinity in " + token(found.not_finite)).c_str());
  return found;
}

// Sums of a column's entries with x - center must stay numbers.
inline void check_sums(const TokenSurvey& x, const Dictionary& w, float largest_value, float largest_bias) {
  const double most = static_cast<double>(x.largest) * largest_value * static_cast<double>(w.degree) + largest_bias;
  if (!(most < std::numeric_limits<float>::max())) overflow(std::max<int64_t>(x.at, 0), "a pre-activation");
}

// Pursuit squares what it is given. Its codes are proportional to x - center, so tokens that are very large or very small
// are read at a power of two of their size, and the codes are scaled back.
class PursuitTokens {
 public:
  PursuitTokens(Activations& x, const Dictionary& w, int threads) {
    const float largest = check_columns(w);
    if (!(static_cast<double>(largest) * largest * static_cast<double>(w.degree) < std::numeric_limits<float>::max()))
      throw nb::value_error("the square of a column is beyond the numbers of float32; columns should have about unit length");
    if (!check_tokens(x, w.d_in, threads).extreme) return;
    numbers_.resize(static_cast<size_t>(x.batch * w.d_in));
    exponents_.assign(static_cast<size_t>(x.batch), 0);
    std::vector<double> token(static_cast<size_t>(w.d_in));
    for (int64_t t = 0; t < x.batch; ++t) {
      double most = 0;
      for (int64_t i = 0; i < w.d_in; ++i) {
        double& value = token[static_cast<size_t>(i)];
        value = number(x, t * w.d_in + i);
        if (x.center) value -= x.center[i];
        most = std::max(most, std::fabs(value));
      }
      int& exponent = exponents_[static_cast<size_t>(t)];
      if (most > 0 && !(most >= 0x1p-40 && most <= 0x1p40)) std::frexp(most, &exponent);
      for (int64_t i = 0; i < w.d_in; ++i)
        numbers_[static_cast<size_t>(t * w.d_in + i)] = static_cast<float>(std::ldexp(token[static_cast<size_t>(i)], -exponent));
    }
    x = {numbers_.data(), Element::float32, x.batch, nullptr};
  }
  // Codes [batch, k] as they belong to x itself.
  void finish(float* codes, int64_t batch, int64_t k) const {
    for (int64_t t = 0; t < batch; ++t) {
      const int exponent = exponents_.empty() ? 0 : exponents_[static_cast<size_t>(t)];
      for (int64_t i = t * k; i < (t + 1) * k; ++i) {
        if (exponent) codes[i] = std::ldexp(codes[i], exponent);
        if (!std::isfinite(codes[i])) overflow(t, "the code");
      }
    }
  }

 private:
  static double number(const Activations& x, int64_t at) {
    if (x.element == Element::float32) return static_cast<const float*>(x.data)[at];
    const uint16_t bits = static_cast<const uint16_t*>(x.data)[at];
    if (x.element == Element::bfloat16) return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    const int exponent = bits >> 10 & 31;
    const double fraction = bits & 1023, size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return bits & 0x8000 ? -size : size;
  }
  std::vector<float> numbers_;
  std::vector<int> exponents_;
};

inline void check_indices(const Indices& indices, int64_t n_latents) {
  const int64_t count = static_cast<int64_t>(indices.size());
  const int64_t* data = indices.data();
  uint64_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<uint64_t>(data[i]));
  if (count && largest >= static_cast<uint64_t>(n_latents)) throw nb::value_error("a code index is not below n_latents");
}

}  // namespace expander
