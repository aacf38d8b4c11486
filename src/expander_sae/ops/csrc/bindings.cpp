// Binds the kernels. Shapes are checked here once more, because a wrong one would read foreign memory.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

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

Activations activations(const AnyMatrix& x, const Maybe<Vector>& center) {
  return {x.data(), element_of(x), extent(x, 0), data_or_null(center, extent(x, 1))};
}

Dictionary dictionary(const Maybe<Rows>& rows, const Matrix& values, int64_t d_in) {
  Dictionary w{nullptr, values.data(), extent(values, 0), extent(values, 1), d_in};
  if (rows) {
    require(extent(*rows, 0) == w.n_latents && extent(*rows, 1) == w.degree, "rows and values differ in shape");
    w.rows = rows->data();
  } else {
    require(w.degree == d_in, "a dense dictionary has values [n_latents, d_in]");
  }
  return w;
}

void check_rows(const Dictionary& w, int threads) {
  const int64_t largest = kernels().check_dictionary(w, threads);
  if (largest < 0) throw nb::value_error("values hold NaN or infinity");
  if (largest >= w.d_in) throw nb::value_error("a row index is not below d_in");
}

void check_finite(const Activations& x, int64_t d_in, int threads) {
  if (!kernels().all_finite(x.data, x.element, x.batch * d_in, threads)) throw nb::value_error("x holds NaN or infinity");
}

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
  require(k >= 1 && k <= a.dictionary.n_latents, "k must be in 1..n_latents");
  require(extent(indices, 0) == a.x.batch && extent(indices, 1) == k, "indices must be [batch, k]");
  require(extent(codes, 0) == a.x.batch && extent(codes, 1) == k, "codes must be [batch, k]");
  a.indices = indices.data();
  a.values = codes.data();
  nb::gil_scoped_release release;
  check_rows(a.dictionary, threads);
  check_finite(a.x, a.dictionary.d_in, threads);
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
  a.out = out.data();
  require(extent(codes, 0) == a.batch && extent(codes, 1) == a.k, "codes must be [batch, k]");
  require(extent(out, 0) == a.batch, "out must be [batch, d_in]");
  nb::gil_scoped_release release;
  check_rows(a.dictionary, threads);
  check_indices(indices, a.dictionary.n_latents);
  kernels().decode(a);
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
  a.grad_codes = data_or_null(grad_codes, a.batch * a.k);
  a.grad_values = data_or_null(grad_values, a.dictionary.n_latents * a.dictionary.degree);
  require(extent(codes, 0) == a.batch && extent(codes, 1) == a.k, "codes must be [batch, k]");
  require(extent(grad_out, 0) == a.batch, "grad_out must be [batch, d_in]");
  nb::gil_scoped_release release;
  check_rows(a.dictionary, threads);
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
  a.grad_x = data_or_null(grad_x, a.x.batch * a.dictionary.d_in);
  a.grad_values = data_or_null(grad_values, a.dictionary.n_latents * a.dictionary.degree);
  a.grad_bias = data_or_null(grad_bias, a.dictionary.n_latents);
  require(extent(indices, 0) == a.x.batch, "indices must be [batch, k]");
  require(extent(grad_codes, 0) == a.x.batch && extent(grad_codes, 1) == a.k, "grad_codes must be [batch, k]");
  nb::gil_scoped_release release;
  check_rows(a.dictionary, threads);
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
  a.grad_decoder = grad_decoder.data();
  a.grad_encoder = data_or_null(grad_encoder, size);
  a.grad_center = grad_center.data();
  a.grad_bias = data_or_null(grad_bias, a.decoder.n_latents);
  a.residual = data_or_null(residual, a.x.batch * a.decoder.d_in);
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
  check_rows(a.decoder, threads);
  check_indices(indices, a.decoder.n_latents);
  kernels().loss(a);
  return total;
}

int64_t block_omp(const AnyMatrix& x, const Maybe<Vector>& center, const Rows& rows, const Matrix& values, int64_t k,
                  int64_t block, int64_t spare, bool is_signed, float tolerance, int threads,
                  const OutIndices& indices, const OutMatrix& codes) {
  BlockOmpArguments a;
  a.x = activations(x, center);
  a.dictionary = dictionary(rows, values, extent(x, 1));
  a.k = k;
  a.block = block;
  a.spare = spare;
  a.is_signed = is_signed;
  a.tolerance = tolerance;
  a.threads = threads;
  require(k >= 1 && k <= a.dictionary.n_latents && block >= 1 && block <= k, "need 1 <= block <= k <= n_latents");
  require(spare >= 0 && k + spare <= a.dictionary.n_latents, "need 0 <= spare and k + spare <= n_latents");
  require(extent(indices, 0) == a.x.batch && extent(indices, 1) == k, "indices must be [batch, k]");
  require(extent(codes, 0) == a.x.batch && extent(codes, 1) == k, "codes must be [batch, k]");
  a.indices = indices.data();
  a.values = codes.data();
  int64_t dependent = 0;
  a.dependent = &dependent;
  nb::gil_scoped_release release;
  check_rows(a.dictionary, threads);
  check_finite(a.x, a.dictionary.d_in, threads);
  kernels().block_omp(a);
  return dependent;
}

int64_t greedy(const AnyMatrix& x, const Maybe<Vector>& center, const Rows& rows, const Matrix& values,
               const std::string& method, int64_t k, int64_t steps, bool is_signed, float tolerance,
               const Maybe<Indices>& warm_indices, const Maybe<Matrix>& warm_codes, const Maybe<Bytes>& repeated,
               int threads, const OutIndices& indices, const OutMatrix& codes) {
  GreedyArguments a;
  a.x = activations(x, center);
  a.dictionary = dictionary(rows, values, extent(x, 1));
  if (method == "omp")
    a.method = Greedy::omp;
  else if (method == "mp")
    a.method = Greedy::matching;
  else if (method == "gradient")
    a.method = Greedy::gradient;
  else if (method == "nnomp")
    a.method = Greedy::nonnegative;
  else if (method == "refit")
    a.method = Greedy::refit;
  else if (method == "cosamp")
    a.method = Greedy::cosamp;
  else if (method == "niht")
    a.method = Greedy::niht;
  else
    throw std::invalid_argument("method must be omp, mp, gradient, nnomp, refit, cosamp or niht");
  a.k = k;
  a.steps = steps;
  a.is_signed = is_signed;
  a.tolerance = tolerance;
  a.threads = threads;
  require(k >= 1 && k <= a.dictionary.n_latents, "need 1 <= k <= n_latents");
  require(a.dictionary.n_latents * a.dictionary.degree < (int64_t{1} << 31), "n_latents * degree must be below 2^31");
  require(extent(indices, 0) == a.x.batch && extent(indices, 1) == k, "indices must be [batch, k]");
  require(extent(codes, 0) == a.x.batch && extent(codes, 1) == k, "codes must be [batch, k]");
  require(warm_indices.has_value() == warm_codes.has_value(), "a warm start is indices and codes");
  require(warm_indices || a.method != Greedy::refit, "refit needs a warm start");
  a.warm = warm_indices ? extent(*warm_indices, 1) : 0;
  require(a.warm <= k, "a warm start has at most k columns");
  a.warm_indices = data_or_null(warm_indices, a.x.batch * a.warm);
  a.warm_codes = data_or_null(warm_codes, a.x.batch * a.warm);
  a.repeated = data_or_null(repeated, a.dictionary.n_latents);
  a.repetitions = a.repeated ? std::count(a.repeated, a.repeated + a.dictionary.n_latents, uint8_t{1}) : 0;
  a.indices = indices.data();
  a.codes = codes.data();
  int64_t dependent = 0;
  a.dependent = &dependent;
  nb::gil_scoped_release release;
  check_rows(a.dictionary, threads);
  check_finite(a.x, a.dictionary.d_in, threads);
  if (warm_indices) check_indices(*warm_indices, a.dictionary.n_latents);
  if (a.method == Greedy::cosamp || a.method == Greedy::niht)
    kernels().thresholding(a);
  else
    kernels().greedy(a);
  return dependent;
}

void correlate(const AnyMatrix& x, const Maybe<Vector>& center, const Rows& rows, const Matrix& values, int threads,
               const OutMatrix& out) {
  CorrelateArguments a{activations(x, center), dictionary(rows, values, extent(x, 1)), threads, out.data()};
  require(extent(out, 0) == a.x.batch && extent(out, 1) == a.dictionary.n_latents, "out must be [batch, n_latents]");
  nb::gil_scoped_release release;
  check_rows(a.dictionary, threads);
  check_finite(a.x, a.dictionary.d_in, threads);
  kernels().correlate(a);
}

void support_gram(const Indices& indices, const Rows& rows, const Matrix& values, int64_t d_in, int threads,
                  const nb::ndarray<float, nb::device::cpu, nb::c_contig, nb::ndim<3>>& out) {
  SupportGramArguments a{indices.data(), dictionary(rows, values, d_in), extent(indices, 0), extent(indices, 1),
                         threads,        out.data()};
  require(extent(out, 0) == a.batch && extent(out, 1) == a.k && extent(out, 2) == a.k, "out must be [batch, k, k]");
  nb::gil_scoped_release release;
  check_rows(a.dictionary, threads);
  check_indices(indices, a.dictionary.n_latents);
  kernels().support_gram(a);
}

void unit_columns(const Matrix& raw, float floor, int threads, const OutMatrix& unit, const OutVector& norm) {
  require(unit.size() == raw.size() && norm.size() == raw.shape(0), "unit and norm must fit raw");
  nb::gil_scoped_release release;
  kernels().unit_columns(raw.data(), extent(raw, 0), extent(raw, 1), floor, unit.data(), norm.data(), threads);
}

void unit_columns_backward(const Matrix& gradient, const Matrix& unit, const Vector& norm, int threads,
                           const OutMatrix& out) {
  require(unit.size() == gradient.size() && out.size() == gradient.size() && norm.size() == gradient.shape(0),
          "gradient, unit, norm and out must fit each other");
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
  m.def("thread_runtime", [] { return std::string(team_runtime()); });
}
