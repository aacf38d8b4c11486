// Binds the kernels.
#include <iterator>

#include "arguments.h"
#include "team.h"

using namespace expander;

namespace {

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
  const float largest_bias = check_finite("bias", bias), largest = check_columns(a.dictionary);
  check_sums(check_tokens(a.x, a.dictionary.d_in, threads), a.dictionary, largest, largest_bias);
  const Lengths lengths(a.dictionary);
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
  const double most = static_cast<double>(check_finite("codes", a.codes, a.batch * a.k)) * largest * static_cast<double>(a.k) +
                      check_finite("offset", offset);
  kernels().decode(a);
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
  if (fixed_codes) check_tokens(a.x, a.decoder.d_in, threads);  // others come from an encode of the same tokens
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
  const Lengths lengths(a.dictionary);
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
  const Lengths lengths(a.dictionary);
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
  m.def("poison_scratch", [](bool on) { return poison.exchange(on); },
        "For tests: fill scratch and outputs with NaN bits first, or not; whether they were so far.");
  m.def("thread_runtime", [] { return std::string(team_runtime()); });
}
