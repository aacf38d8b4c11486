// Binds the kernels. Shapes are checked here once more, because a wrong one would read foreign memory.
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
#include "team.h"

namespace nb = nanobind;
using namespace expander;

namespace {

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

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

Element element_of(const AnyMatrix& x) {
  const nb::dlpack::dtype type = x.dtype();
  if (type == nb::dtype<float>()) return Element::float32;
  if (type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat) && type.bits == 16) return Element::bfloat16;
  if (type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) && type.bits == 16) return Element::float16;
  throw std::invalid_argument("x must be float32, bfloat16 or float16");
}

int64_t extent(const auto& array, int axis) { return static_cast<int64_t>(array.shape(axis)); }

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

Activations activations(const AnyMatrix& x, const Maybe<Vector>& center) {
  require(extent(x, 1) >= 1, "x must have at least one coordinate");
  return {x.data(), element_of(x), extent(x, 0), data_or_null(center, extent(x, 1))};
}

constexpr int64_t most_slots = int64_t{1} << 31;  // latents and places in a support are 32-bit

Dictionary dictionary(const Maybe<Rows>& rows, const Matrix& values, int64_t d_in) {
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

void check_k(int64_t k, int64_t slots, const Dictionary& w) {
  require(k >= 1 && k <= w.n_latents, "k must be in 1..n_latents");
  require(slots < most_slots / w.degree, "columns of one token times degree must be below 2^31");
}

void check_threads(int threads) { require(threads >= 1, "threads must be at least 1"); }

void check_finite(const char* name, const float* numbers, int64_t count) {
  if (numbers && !std::isfinite(kernels().largest_size(numbers, count)))
    throw nb::value_error((std::string(name) + " holds NaN or infinity").c_str());
}
void check_finite(const char* name, const Maybe<Vector>& numbers) {
  if (numbers) check_finite(name, numbers->data(), extent(*numbers, 0));
}

// The largest |value|.
float check_columns(const Dictionary& w) {
  const DictionarySurvey found = kernels().survey_dictionary(w);
  if (!std::isfinite(found.largest)) throw nb::value_error("values hold NaN or infinity");
  if (found.largest_row >= w.d_in) throw nb::value_error("a row index is not below d_in");
  return found.largest;
}

std::string token(int64_t which) { return "token " + std::to_string(which); }

[[noreturn]] void overflow(int64_t which, const std::string& what) {
  throw nb::value_error((what + " of " + token(which) + " is beyond the numbers of float32").c_str());
}

TokenSurvey check_tokens(const Activations& x, int64_t d_in, int threads) {
  check_finite("center", x.center, d_in);
  const TokenSurvey found = kernels().survey_tokens(x, d_in, threads);
  if (found.not_finite >= 0) throw nb::value_error(("x holds NaN or infinity in " + token(found.not_finite)).c_str());
  return found;
}

// Sums of a column's entries with x - center must stay numbers.
void check_sums(const TokenSurvey& x, const Dictionary& w, float largest_value, float largest_bias) {
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

void check_indices(const Indices& indices, int64_t n_latents) {
  const int64_t count = static_cast<int64_t>(indices.size());
  const int64_t* data = indices.data();
  uint64_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<uint64_t>(data[i]));
  if (count && largest >= static_cast<uint64_t>(n_latents)) throw nb::value_error("a code index is not below n_latents");
}

void encode_topk(const AnyMatrix& x, const Maybe<Vector>& center, const Rows& rows, const Matrix& values,
                 const Maybe<Vector>& bias, int64_t k, bool is_signed, int threads, int tile,
                 const OutIndices& indices, const OutMatrix& codes) {
  EncodeArguments a;
  a.x = activations(x, center);
  a.dictionary = dictionary(rows, values, extent(x, 1));
  a.bias = data_or_null(bias, a.dictionary.n_latents);
  a.k = k;
  a.is_signed = is_signed;
  a.threads = threads;
  a.tile = tile;
  check_k(k, k, a.dictionary);
  check_threads(threads);
  require(tile == 0 || tile == 1 || tile == 8 || tile == 16 || tile == 32 || tile == 64, "tile must be 0, 1, 8, 16, 32 or 64");
  require(extent(indices, 0) == a.x.batch && extent(indices, 1) == k, "indices must be [batch, k]");
  require(extent(codes, 0) == a.x.batch && extent(codes, 1) == k, "codes must be [batch, k]");
  a.indices = output(indices);
  a.values = output(codes);
  nb::gil_scoped_release release;
  check_finite("bias", bias);
  const float largest = check_columns(a.dictionary);
  check_sums(check_tokens(a.x, a.dictionary.d_in, threads), a.dictionary, largest,
             a.bias ? kernels().largest_size(a.bias, a.dictionary.n_latents) : 0);
  kernels().encode_topk(a);
}

void decode(const Indices& indices, const Matrix& codes, const Maybe<Rows>& rows, const Matrix& values,
            const Maybe<Vector>& offset, int threads, const OutMatrix& out) {
  DecodeArguments a;
  a.dictionary = dictionary(rows, values, extent(out, 1));
  a.batch = extent(indices, 0);
  a.k = extent(indices, 1);
  a.indices = indices.data();
  a.codes = codes.data();
  a.offset = data_or_null(offset, a.dictionary.d_in);
  a.threads = threads;
  a.out = output(out);
  check_threads(threads);
  require(extent(codes, 0) == a.batch && extent(codes, 1) == a.k, "codes must be [batch, k]");
  require(extent(out, 0) == a.batch, "out must be [batch, d_in]");
  nb::gil_scoped_release release;
  const float largest = check_columns(a.dictionary);
  check_indices(indices, a.dictionary.n_latents);
  check_finite("codes", a.codes, a.batch * a.k);
  check_finite("offset", offset);
  kernels().decode(a);
  const double most = static_cast<double>(kernels().largest_size(a.codes, a.batch * a.k)) * largest * static_cast<double>(a.k) +
                      (a.offset ? kernels().largest_size(a.offset, a.dictionary.d_in) : 0);
  if (most < std::numeric_limits<float>::max()) return;
  for (int64_t t = 0; t < a.batch; ++t)
    if (!std::isfinite(kernels().largest_size(a.out + t * a.dictionary.d_in, a.dictionary.d_in))) overflow(t, "the reconstruction");
}

void decode_backward(const Indices& indices, const Matrix& codes, const Maybe<Rows>& rows, const Matrix& values,
                     const Matrix& grad_out, int threads, const Maybe<OutMatrix>& grad_codes,
                     const Maybe<OutMatrix>& grad_values) {
  DecodeBackwardArguments a;
  a.dictionary = dictionary(rows, values, extent(grad_out, 1));
  a.batch = extent(indices, 0);
  a.k = extent(indices, 1);
  a.indices = indices.data();
  a.codes = codes.data();
  a.threads = threads;
  a.grad_out = grad_out.data();
  a.grad_codes = output(grad_codes, a.batch * a.k);
  a.grad_values = output(grad_values, a.dictionary.n_latents * a.dictionary.degree);
  check_threads(threads);
  require(extent(codes, 0) == a.batch && extent(codes, 1) == a.k, "codes must be [batch, k]");
  require(extent(grad_out, 0) == a.batch, "grad_out must be [batch, d_in]");
  nb::gil_scoped_release release;
  check_columns(a.dictionary);
  check_indices(indices, a.dictionary.n_latents);
  kernels().decode_backward(a);
}

void encode_backward(const Indices& indices, const Matrix& grad_codes, const AnyMatrix& x, const Maybe<Vector>& center,
                     const Maybe<Rows>& rows, const Matrix& values, int threads, const Maybe<OutMatrix>& grad_x,
                     const Maybe<OutMatrix>& grad_values, const Maybe<OutVector>& grad_bias) {
  EncodeBackwardArguments a;
  a.x = activations(x, center);
  a.dictionary = dictionary(rows, values, extent(x, 1));
  a.k = extent(indices, 1);
  a.indices = indices.data();
  a.grad_codes = grad_codes.data();
  a.threads = threads;
  a.grad_x = output(grad_x, a.x.batch * a.dictionary.d_in);
  a.grad_values = output(grad_values, a.dictionary.n_latents * a.dictionary.degree);
  a.grad_bias = output(grad_bias, a.dictionary.n_latents);
  check_threads(threads);
  require(extent(indices, 0) == a.x.batch, "indices must be [batch, k]");
  require(extent(grad_codes, 0) == a.x.batch && extent(grad_codes, 1) == a.k, "grad_codes must be [batch, k]");
  nb::gil_scoped_release release;
  check_columns(a.dictionary);
  check_indices(indices, a.dictionary.n_latents);
  kernels().encode_backward(a);
}

double loss(const Indices& indices, const Matrix& codes, const AnyMatrix& x, const Vector& center,
            const Maybe<Rows>& rows, const Matrix& values, const Maybe<Matrix>& encoder, float scale,
            bool fixed_codes, int threads,
            const OutMatrix& grad_decoder, const Maybe<OutMatrix>& grad_encoder, const OutVector& grad_center,
            const Maybe<OutVector>& grad_bias, const Maybe<OutMatrix>& residual, const OutBytes& fired) {
  LossArguments a;
  a.x = activations(x, center);
  a.decoder = dictionary(rows, values, extent(x, 1));
  const int64_t size = a.decoder.n_latents * a.decoder.degree;
  a.k = extent(indices, 1);
  a.indices = indices.data();
  a.codes = codes.data();
  a.encoder = data_or_null(encoder, size);
  a.scale = scale;
  a.fixed_codes = fixed_codes;
  a.threads = threads;
  check_threads(threads);
  a.grad_decoder = output(grad_decoder);
  a.grad_encoder = output(grad_encoder, size);
  a.grad_center = output(grad_center);
  a.grad_bias = output(grad_bias, a.decoder.n_latents);
  a.residual = output(residual, a.x.batch * a.decoder.d_in);
  a.fired = fired.data();
  double total = 0;
  a.loss = &total;
  require(extent(indices, 0) == a.x.batch, "indices must be [batch, k]");
  require(extent(codes, 0) == a.x.batch && extent(codes, 1) == a.k, "codes must be [batch, k]");
  require(static_cast<int64_t>(grad_decoder.size()) == size, "grad_decoder must be shaped like values");
  require(extent(grad_center, 0) == a.decoder.d_in, "grad_center must be [d_in]");
  require(extent(fired, 0) == a.decoder.n_latents, "fired must be [n_latents]");
  require(!a.encoder == !a.grad_encoder, "an encoder needs grad_encoder, a tied one must not have it");
  nb::gil_scoped_release release;
  check_columns(a.decoder);
  check_finite("encoder", a.encoder, size);
  check_tokens(a.x, a.decoder.d_in, threads);
  check_indices(indices, a.decoder.n_latents);
  check_finite("codes", a.codes, a.x.batch * a.k);
  kernels().loss(a);
  return total;
}

// What every pursuit is given.
void fill(PursuitArguments& a, const AnyMatrix& x, const Maybe<Vector>& center, const Rows& rows, const Matrix& values, int64_t k,
          bool is_signed, float tolerance, int threads, const OutIndices& indices, const OutMatrix& codes) {
  a.x = activations(x, center);
  a.dictionary = dictionary(rows, values, extent(x, 1));
  a.k = k;
  a.is_signed = is_signed;
  a.tolerance = tolerance;
  a.threads = threads;
  require(tolerance >= 0 && tolerance < 1, "tolerance must be in [0, 1)");
  check_threads(threads);
  require(extent(indices, 0) == a.x.batch && extent(indices, 1) == k, "indices must be [batch, k]");
  require(extent(codes, 0) == a.x.batch && extent(codes, 1) == k, "codes must be [batch, k]");
  a.indices = output(indices);
  a.codes = output(codes);
}

// Runs a kernel on tokens whose squares are numbers; how many picked columns were dependent.
template <class Arguments>
int64_t pursue(Arguments& a, void (*kernel)(const Arguments&)) {
  int64_t dependent = 0;
  a.dependent = &dependent;
  const PursuitTokens tokens(a.x, a.dictionary, a.threads);
  kernel(a);
  tokens.finish(a.codes, a.x.batch, a.k);
  return dependent;
}

int64_t block_omp(const AnyMatrix& x, const Maybe<Vector>& center, const Rows& rows, const Matrix& values, int64_t k,
                  int64_t block, int64_t spare, bool is_signed, float tolerance, int threads,
                  const OutIndices& indices, const OutMatrix& codes) {
  BlockOmpArguments a;
  fill(a, x, center, rows, values, k, is_signed, tolerance, threads, indices, codes);
  a.block = block;
  a.spare = spare;
  require(block >= 1 && block <= k, "need 1 <= block <= k");
  require(spare >= 0 && spare <= a.dictionary.n_latents && k <= a.dictionary.n_latents - spare, "need 0 <= spare and k + spare <= n_latents");
  check_k(k, 3 * k + 2 * spare, a.dictionary);
  nb::gil_scoped_release release;
  return pursue(a, kernels().block_omp);
}

int64_t greedy(const AnyMatrix& x, const Maybe<Vector>& center, const Rows& rows, const Matrix& values,
               const std::string& method, int64_t k, int64_t steps, bool is_signed, float tolerance,
               const Maybe<Indices>& warm_indices, const Maybe<Matrix>& warm_codes, const Maybe<Bytes>& repeated,
               int threads, const OutIndices& indices, const OutMatrix& codes) {
  GreedyArguments a;
  fill(a, x, center, rows, values, k, is_signed, tolerance, threads, indices, codes);
  static constexpr const char* names[] = {"omp", "mp", "gradient", "nnomp", "refit", "cosamp", "niht"};  // as in Greedy
  const auto name = std::find(std::begin(names), std::end(names), method);
  require(name != std::end(names), "method must be omp, mp, gradient, nnomp, refit, cosamp or niht");
  a.method = static_cast<Greedy>(name - std::begin(names));
  a.steps = steps;
  check_k(k, 3 * k, a.dictionary);
  require(steps >= 0, "steps must not be negative");
  require(a.dictionary.n_latents < most_slots / a.dictionary.degree, "n_latents * degree must be below 2^31");
  require(warm_indices.has_value() == warm_codes.has_value(), "a warm start is indices and codes");
  require(warm_indices || a.method != Greedy::refit, "refit needs a warm start");
  a.warm = warm_indices ? extent(*warm_indices, 1) : 0;
  require(a.warm <= k, "a warm start has at most k columns");
  a.warm_indices = data_or_null(warm_indices, a.x.batch * a.warm);
  a.warm_codes = data_or_null(warm_codes, a.x.batch * a.warm);
  a.repeated = data_or_null(repeated, a.dictionary.n_latents);
  a.repetitions = a.repeated ? std::count(a.repeated, a.repeated + a.dictionary.n_latents, uint8_t{1}) : 0;
  nb::gil_scoped_release release;
  if (warm_indices) {
    check_indices(*warm_indices, a.dictionary.n_latents);
    check_finite("warm start", a.warm_codes, a.x.batch * a.warm);
  }
  const bool changes_whole_support = a.method == Greedy::cosamp || a.method == Greedy::niht;
  return pursue(a, changes_whole_support ? kernels().thresholding : kernels().greedy);
}

void correlate(const AnyMatrix& x, const Maybe<Vector>& center, const Rows& rows, const Matrix& values, int threads,
               const OutMatrix& out) {
  CorrelateArguments a{activations(x, center), dictionary(rows, values, extent(x, 1)), threads, output(out)};
  check_threads(threads);
  require(extent(out, 0) == a.x.batch && extent(out, 1) == a.dictionary.n_latents, "out must be [batch, n_latents]");
  nb::gil_scoped_release release;
  const float largest = check_columns(a.dictionary);
  check_sums(check_tokens(a.x, a.dictionary.d_in, threads), a.dictionary, largest, 0);
  kernels().correlate(a);
}

void support_gram(const Indices& indices, const Rows& rows, const Matrix& values, int64_t d_in, int threads,
                  const nb::ndarray<float, nb::device::cpu, nb::c_contig, nb::ndim<3>>& out) {
  SupportGramArguments a{indices.data(), dictionary(rows, values, d_in), extent(indices, 0), extent(indices, 1),
                         threads,        output(out)};
  check_threads(threads);
  require(extent(out, 0) == a.batch && extent(out, 1) == a.k && extent(out, 2) == a.k, "out must be [batch, k, k]");
  nb::gil_scoped_release release;
  check_columns(a.dictionary);
  check_indices(indices, a.dictionary.n_latents);
  kernels().support_gram(a);
}

void unit_columns(const Matrix& raw, float floor, int threads, const OutMatrix& unit, const OutVector& norm) {
  require(extent(raw, 1) >= 1, "a column has at least one entry");
  require(unit.size() == raw.size() && norm.size() == raw.shape(0), "unit and norm must fit raw");
  check_threads(threads);
  nb::gil_scoped_release release;
  kernels().unit_columns(raw.data(), extent(raw, 0), extent(raw, 1), floor, output(unit), output(norm), threads);
}

void unit_columns_backward(const Matrix& gradient, const Matrix& unit, const Vector& norm, int threads,
                           const OutMatrix& out) {
  require(extent(unit, 1) >= 1, "a column has at least one entry");
  require(unit.size() == gradient.size() && out.size() == gradient.size() && norm.size() == gradient.shape(0),
          "gradient, unit, norm and out must fit each other");
  check_threads(threads);
  nb::gil_scoped_release release;
  kernels().unit_columns_backward(gradient.data(), unit.data(), norm.data(), extent(unit, 0), extent(unit, 1),
                                  out.data(), threads);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The C++ core of expander_sae.ops; use the functions of expander_sae.ops instead.";
  m.def("encode_topk", &encode_topk, nb::arg("x").noconvert(), nb::arg("center").none(), nb::arg("rows").noconvert(),
        nb::arg("values").noconvert(), nb::arg("bias").none(), nb::arg("k"), nb::arg("is_signed"), nb::arg("threads"),
        nb::arg("tile"), nb::arg("indices").noconvert(), nb::arg("codes").noconvert());
  m.def("decode", &decode, nb::arg("indices"), nb::arg("codes"), nb::arg("rows").none(), nb::arg("values"),
        nb::arg("offset").none(), nb::arg("threads"), nb::arg("out").noconvert());
  m.def("decode_backward", &decode_backward, nb::arg("indices"), nb::arg("codes"), nb::arg("rows").none(),
        nb::arg("values"), nb::arg("grad_out"), nb::arg("threads"), nb::arg("grad_codes").none(),
        nb::arg("grad_values").none());
  m.def("encode_backward", &encode_backward, nb::arg("indices"), nb::arg("grad_codes"), nb::arg("x"),
        nb::arg("center").none(), nb::arg("rows").none(), nb::arg("values"), nb::arg("threads"),
        nb::arg("grad_x").none(), nb::arg("grad_values").none(), nb::arg("grad_bias").none());
  m.def("loss", &loss, nb::arg("indices"), nb::arg("codes"), nb::arg("x"), nb::arg("center"), nb::arg("rows").none(),
        nb::arg("values"), nb::arg("encoder").none(), nb::arg("scale"), nb::arg("fixed_codes"), nb::arg("threads"),
        nb::arg("grad_decoder"),
        nb::arg("grad_encoder").none(), nb::arg("grad_center"), nb::arg("grad_bias").none(),
        nb::arg("residual").none(), nb::arg("fired"));
  m.def("block_omp", &block_omp, nb::arg("x"), nb::arg("center").none(), nb::arg("rows"), nb::arg("values"),
        nb::arg("k"), nb::arg("block"), nb::arg("spare"), nb::arg("is_signed"), nb::arg("tolerance"), nb::arg("threads"),
        nb::arg("indices").noconvert(), nb::arg("codes").noconvert());
  m.def("greedy", &greedy, nb::arg("x"), nb::arg("center").none(), nb::arg("rows"), nb::arg("values"),
        nb::arg("method"), nb::arg("k"), nb::arg("steps"), nb::arg("is_signed"), nb::arg("tolerance"),
        nb::arg("warm_indices").none(), nb::arg("warm_codes").none(), nb::arg("repeated").none(), nb::arg("threads"),
        nb::arg("indices").noconvert(), nb::arg("codes").noconvert());
  m.def("correlate", &correlate, nb::arg("x"), nb::arg("center").none(), nb::arg("rows"), nb::arg("values"),
        nb::arg("threads"), nb::arg("out").noconvert());
  m.def("support_gram", &support_gram, nb::arg("indices"), nb::arg("rows"), nb::arg("values"), nb::arg("d_in"),
        nb::arg("threads"), nb::arg("out").noconvert());
  m.def("unit_columns", &unit_columns, nb::arg("raw"), nb::arg("floor"), nb::arg("threads"),
        nb::arg("unit").noconvert(), nb::arg("norm").noconvert());
  m.def("unit_columns_backward", &unit_columns_backward, nb::arg("gradient"), nb::arg("unit"), nb::arg("norm"),
        nb::arg("threads"), nb::arg("out").noconvert());
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def("available_instruction_sets", [] { return std::string(available_kernels()); });
  m.def("select_instruction_set", [](const std::string& name) { return select_kernels(name.c_str()); });
  m.def("poison_scratch", [](bool on) { poison = on; }, "For tests: fill scratch and outputs with NaN bits first.");
  m.def("thread_runtime", [] { return std::string(team_runtime()); });
}
