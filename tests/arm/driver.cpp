// The C++ core without Python: every kernel of every instruction set of this machine against plain loops.
//
// `make test-driver` runs it here, `make test-arm` the same for aarch64 under qemu. What a kernel only adds and multiplies is
// compared exactly, on small integers, where every order of summation gives the same number. Pursuits are compared with
// their definitions in double; a token in which one of the choices is close (`Choice`) is held to the invariants alone.
// Scratch is filled with NaN bits throughout. The first difference ends the run.
//
//     driver [SET...]     prints one line per kernel: what was tried, and a hash of all that it wrote
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace {

using namespace expander;
using Numbers = std::vector<double>;
using Floats = std::vector<float>;
using Integers = std::vector<int64_t>;

std::string now;  // what is being tried

[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* what, ...) {
  std::fprintf(stderr, "%s: FAILED in %s: ", kernels().name, now.c_str());
  va_list arguments;
  va_start(arguments, what);
  std::vfprintf(stderr, what, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::exit(1);
}

// A hash of everything the kernel in hand wrote: two builds that print the same line gave the same bits.
uint64_t written = 0;
template <class T>
void remember(const std::vector<T>& output) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(output.data());
  for (size_t i = 0; i < output.size() * sizeof(T); ++i) written = (written ^ bytes[i]) * 0x100000001b3u;
}

struct Random {
  uint64_t state;
  uint64_t next() {  // splitmix64
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  float whole(int64_t most) { return static_cast<float>(below(2 * most + 1) - most); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double normal() {  // one draw after the other: compilers differ in which of two operands comes first
    const double size = std::sqrt(-2 * std::log(1 - uniform()));
    return size * std::cos(6.283185307179586 * uniform());
  }
  template <class T>
  T one_of(std::initializer_list<T> of) {
    return of.begin()[below(static_cast<int64_t>(of.size()))];
  }
};

// Fills an output with NaN bits, so that a number nobody wrote shows.
template <class T>
std::vector<T> output(int64_t size) {
  std::vector<T> numbers(static_cast<size_t>(size));
  if (size) std::memset(numbers.data(), 0xff, numbers.size() * sizeof(T));
  return numbers;
}

void expect_equal(const char* name, const Floats& found, const Numbers& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i)
    if (!(found[i] == wanted[i]))
      fail("%s[%zu] is %.9g, and should be %.9g", name, i, static_cast<double>(found[i]), wanted[i]);
  remember(found);
}

struct Columns {
  int64_t n, degree, d_in;
  std::vector<uint16_t> rows;  // empty: dense
  Floats values;

  Dictionary view() const { return {rows.empty() ? nullptr : rows.data(), values.data(), n, degree, d_in}; }
  int64_t row(int64_t j, int64_t e) const { return rows.empty() ? e : rows[static_cast<size_t>(j * degree + e)]; }
  double value(int64_t j, int64_t e) const { return values[static_cast<size_t>(j * degree + e)]; }
  double product(int64_t j, const Numbers& with) const {
    double sum = 0;
    for (int64_t e = 0; e < degree; ++e) sum += value(j, e) * with[static_cast<size_t>(row(j, e))];
    return sum;
  }
  void add(int64_t j, double amount, Numbers& to) const {
    for (int64_t e = 0; e < degree; ++e) to[static_cast<size_t>(row(j, e))] += amount * value(j, e);
  }
};

Columns make_columns(Random& random, int64_t n, int64_t degree, int64_t d_in, const std::function<float()>& value,
                     bool dense = false) {
  Columns made{n, dense ? d_in : degree, d_in, {}, {}};
  std::vector<uint16_t> all(static_cast<size_t>(d_in));
  std::iota(all.begin(), all.end(), uint16_t{0});
  for (int64_t j = 0; j < n && !dense; ++j) {
    for (int64_t e = 0; e < degree; ++e)
      std::swap(all[static_cast<size_t>(e)], all[static_cast<size_t>(e + random.below(d_in - e))]);
    std::sort(all.begin(), all.begin() + degree);
    made.rows.insert(made.rows.end(), all.begin(), all.begin() + degree);
  }
  for (int64_t i = 0; i < n * made.degree; ++i) made.values.push_back(value());
  return made;
}

// float16 and bfloat16 by their definitions.
double from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                     : std::ldexp(fraction, -24);
  return bits & 0x8000 ? -size : size;
}
double from_brain(uint16_t bits) {
  const int exponent = bits >> 7 & 255, fraction = bits & 127;
  const double size = exponent == 255 ? (fraction ? NAN : INFINITY)
                      : exponent      ? std::ldexp(128 + fraction, exponent - 134)
                                      : std::ldexp(fraction, -133);
  return bits & 0x8000 ? -size : size;
}
uint16_t to_half(double value) {  // towards zero, and zero where float16 has no normal number
  if (std::fabs(value) < 0x1p-14) return 0;
  int exponent;
  const double fraction = 2 * std::frexp(std::fabs(value), &exponent) - 1;
  return static_cast<uint16_t>((value < 0 ? 0x8000 : 0) | (exponent + 14) << 10 | static_cast<int>(fraction * 1024));
}
uint16_t to_brain(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>(bits >> 16);
}

struct Tokens {
  int64_t batch, d_in;
  Element element;
  Floats floats;
  std::vector<uint16_t> halves;
  Floats center;  // or empty

  Tokens(int64_t batch_, int64_t d_in_, Element element_, const std::function<float()>& value)
      : batch(batch_), d_in(d_in_), element(element_) {
    for (int64_t i = 0; i < batch * d_in; ++i) {
      const float number = value();
      if (element == Element::float32) floats.push_back(number);
      else halves.push_back(element == Element::float16 ? to_half(number) : to_brain(number));
    }
  }
  Activations view() const {
    return {element == Element::float32 ? static_cast<const void*>(floats.data()) : halves.data(), element, batch,
            center.empty() ? nullptr : center.data()};
  }
  double raw(int64_t t, int64_t i) const {
    const auto at = static_cast<size_t>(t * d_in + i);
    return element == Element::float32   ? floats[at]
           : element == Element::float16 ? from_half(halves[at])
                                         : from_brain(halves[at]);
  }
  // Token t less the center, as the float32 numbers that the kernels work on.
  Numbers token(int64_t t) const {
    Numbers x;
    for (int64_t i = 0; i < d_in; ++i) {
      const float number = static_cast<float>(raw(t, i));
      x.push_back(center.empty() ? number : number - center[static_cast<size_t>(i)]);
    }
    return x;
  }
  Tokens reversed() const {
    Tokens result = *this;
    for (int64_t t = 0; t < batch; ++t) {
      const int64_t to = t * d_in, from = (batch - 1 - t) * d_in;
      if (element == Element::float32) std::copy_n(floats.begin() + from, d_in, result.floats.begin() + to);
      else std::copy_n(halves.begin() + from, d_in, result.halves.begin() + to);
    }
    return result;
  }
};

double length(const Numbers& x) { return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0)); }

// ---- encode and decode

struct Code {
  Integers indices;
  Floats values;
  bool operator==(const Code& other) const {
    return indices == other.indices && !std::memcmp(values.data(), other.values.data(), values.size() * 4);
  }
  Code reversed(int64_t k) const {
    Code result = *this;
    const auto batch = static_cast<int64_t>(indices.size()) / k;
    for (int64_t t = 0; t < batch; ++t) {
      std::copy_n(indices.begin() + t * k, k, result.indices.begin() + (batch - 1 - t) * k);
      std::copy_n(values.begin() + t * k, k, result.values.begin() + (batch - 1 - t) * k);
    }
    return result;
  }
};

Code run_encode(const Tokens& x, const Columns& w, const Floats& bias, int64_t k, bool is_signed, int threads, int tile) {
  Code code{output<int64_t>(x.batch * k), output<float>(x.batch * k)};
  kernels().encode_topk({x.view(), w.view(), bias.empty() ? nullptr : bias.data(), k, is_signed, threads, tile,
                         code.indices.data(), code.values.data()});
  return code;
}

void check_encode(const Tokens& x, const Columns& w, const Floats& bias, int64_t k, bool is_signed, const Code& code,
                  bool exact) {
  Numbers pre(static_cast<size_t>(w.n));
  Integers order(pre.size());
  for (int64_t t = 0; t < x.batch; ++t) {
    const Numbers token = x.token(t);
    double largest = 0;
    for (int64_t j = 0; j < w.n; ++j) {
      double size = bias.empty() ? 0 : std::fabs(bias[static_cast<size_t>(j)]);
      for (int64_t e = 0; e < w.degree; ++e) size += std::fabs(w.value(j, e) * token[static_cast<size_t>(w.row(j, e))]);
      largest = std::max(largest, size);
      pre[static_cast<size_t>(j)] = w.product(j, token) + (bias.empty() ? 0.0f : bias[static_cast<size_t>(j)]);
      if (!is_signed) pre[static_cast<size_t>(j)] = std::max(pre[static_cast<size_t>(j)], 0.0);
    }
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return pre[static_cast<size_t>(a)] > pre[static_cast<size_t>(b)]; });
    const double tolerance = exact ? 0 : 1e-6 * largest;
    std::vector<bool> seen(pre.size());
    for (int64_t i = 0; i < k; ++i) {
      const int64_t j = code.indices[static_cast<size_t>(t * k + i)], best = order[static_cast<size_t>(i)];
      const double found = code.values[static_cast<size_t>(t * k + i)];
      if (j < 0 || j >= w.n || seen[static_cast<size_t>(j)])
        fail("token %ld: latent %ld in place %ld is no latent or stands there twice", t, j, i);
      seen[static_cast<size_t>(j)] = true;
      if (exact && j != best) fail("token %ld: latent %ld in place %ld, and should be %ld", t, j, i, best);
      if (!(std::fabs(found - pre[static_cast<size_t>(j)]) <= tolerance &&
            std::fabs(found - pre[static_cast<size_t>(best)]) <= tolerance))
        fail("token %ld: code %.9g in place %ld, and should be %.9g", t, found, i, pre[static_cast<size_t>(best)]);
    }
  }
  remember(code.indices);
  remember(code.values);
}

std::string test_encode() {
  Random random{1};
  const int cases = 240;
  int64_t tokens = 0;
  for (int which = 0; which < cases; ++which) {
    const bool exact = random.below(3) != 0;
    const int tile = (int[]){0, 1, 8, 16, 32, 64}[which % 6];
    const auto element = static_cast<Element>(which / 6 % 3);
    const int64_t degree = (int64_t[]){7, 1, 4, 5, 16, 8, 24}[which % 7],
                  d_in = std::max(degree, random.one_of<int64_t>({7, 16, 33, 64, 130}));
    const int64_t n = random.one_of<int64_t>({1, 5, 63, 64, 65, 512, 700, 2100});
    const int64_t k = std::min(n, random.one_of<int64_t>({1, 2, 7, 32, n, n - 1 + (n == 1)}));
    const int64_t batch =
        k > 256 ? random.one_of<int64_t>({1, 2, 9}) : random.one_of<int64_t>({1, 2, 3, 8, 9, 16, 17, 33, 64, 65, 100});
    const bool is_signed = random.below(2), skewed = random.below(3) == 0;
    const int threads = static_cast<int>(1 + random.below(3));
    const auto number = [&]() -> float { return exact ? random.whole(3) : static_cast<float>(random.normal()); };
    Columns w = make_columns(random, n, degree, d_in, number);
    // What a sample of every eighth latent sees is far from what the others give: its thresholds are too high.
    if (skewed)
      for (size_t i = 0; i < w.values.size(); ++i) w.values[i] *= i / static_cast<size_t>(degree) % 8 ? 1 : 16;
    Tokens x(batch, d_in, element, number);
    if (random.below(2)) std::generate_n(std::back_inserter(x.center), d_in, number);
    Floats bias;
    if (random.below(2)) std::generate_n(std::back_inserter(bias), n, number);
    now = "encode_topk, case " + std::to_string(which);
    const Code code = run_encode(x, w, bias, k, is_signed, threads, tile);
    check_encode(x, w, bias, k, is_signed, code, exact);
    // A code depends on its token alone, not on the tokens beside it, the tile or the threads.
    if (!(run_encode(x.reversed(), w, bias, k, is_signed, 4 - threads, 0) == code.reversed(k)))
      fail("the code of a token depends on its neighbours, the tile or the threads");
    tokens += batch;
  }
  return std::to_string(cases) + " cases, " + std::to_string(tokens) + " tokens";
}

// Codes with some zeros on distinct latents.
Code make_code(Random& random, int64_t batch, int64_t k, int64_t n) {
  Code code;
  Integers all(static_cast<size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t t = 0; t < batch; ++t)
    for (int64_t i = 0; i < k; ++i) {
      std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(i + random.below(n - i))]);
      code.indices.push_back(all[static_cast<size_t>(i)]);
      code.values.push_back(random.whole(3));
    }
  return code;
}

// What the kernels that decode and differentiate are tried on.
struct Reconstruction {
  int64_t batch, k, n, d_in;
  int threads;
  Columns w;
  Tokens x;
  Code code;
  Floats other;  // [batch, d_in]

  static Reconstruction draw(Random& random, int which) {
    const bool dense = which % 4 == 3;
    const int64_t degree = (int64_t[]){7, 4, 8, 16, 1, 5, 33}[which % 7],
                  d_in = std::max(degree, random.one_of<int64_t>({7, 16, 33, 50, 129}));
    const int64_t n = random.one_of<int64_t>({1, 9, 64, 300}), k = std::min(n, random.one_of<int64_t>({1, 3, 8})),
                  batch = random.one_of<int64_t>({1, 2, 15, 16, 17, 40});
    const auto whole = [&] { return random.whole(2); };
    Reconstruction r{batch,
                     k,
                     n,
                     d_in,
                     static_cast<int>(1 + random.below(3)),
                     make_columns(random, n, degree, d_in, whole, dense),
                     Tokens(batch, d_in, static_cast<Element>(which % 3), whole),
                     make_code(random, batch, k, n),
                     {}};
    if (random.below(3)) std::generate_n(std::back_inserter(r.x.center), d_in, whole);
    std::generate_n(std::back_inserter(r.other), batch * d_in, whole);
    return r;
  }
  // visit(token, place, latent, code)
  void each(const std::function<void(int64_t, size_t, int64_t, double)>& visit) const {
    for (int64_t t = 0; t < batch; ++t)
      for (int64_t i = t * k; i < (t + 1) * k; ++i)
        visit(t, static_cast<size_t>(i), code.indices[static_cast<size_t>(i)], code.values[static_cast<size_t>(i)]);
  }
  double& entry(Numbers& of, int64_t j, int64_t e) const { return of[static_cast<size_t>(j * w.degree + e)]; }
};

constexpr int reconstructions = 84;

std::string test_decode() {
  Random random{2};
  for (int which = 0; which < reconstructions; ++which) {
    now = "decode, case " + std::to_string(which);
    const Reconstruction r = Reconstruction::draw(random, which);
    const bool offset = random.below(2);
    Numbers wanted(static_cast<size_t>(r.batch * r.d_in));
    if (offset)
      for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = r.other[i % static_cast<size_t>(r.d_in)];
    r.each([&](int64_t t, size_t, int64_t j, double h) {
      for (int64_t e = 0; e < r.w.degree; ++e) wanted[static_cast<size_t>(t * r.d_in + r.w.row(j, e))] += h * r.w.value(j, e);
    });
    Floats out = output<float>(r.batch * r.d_in);
    kernels().decode({r.code.indices.data(), r.code.values.data(), r.w.view(), offset ? r.other.data() : nullptr, r.batch, r.k,
                      r.threads, out.data()});
    expect_equal("out", out, wanted);
  }
  return std::to_string(reconstructions) + " cases, exact";
}

std::string test_decode_backward() {
  Random random{3};
  for (int which = 0; which < reconstructions; ++which) {
    now = "decode_backward, case " + std::to_string(which);
    const Reconstruction r = Reconstruction::draw(random, which);
    const int64_t parts = random.below(3);
    Numbers codes(static_cast<size_t>(r.batch * r.k)), values(r.w.values.size());
    r.each([&](int64_t t, size_t place, int64_t j, double h) {
      const float* gradient = r.other.data() + t * r.d_in;
      codes[place] = r.w.product(j, Numbers(gradient, gradient + r.d_in));
      for (int64_t e = 0; e < r.w.degree; ++e) r.entry(values, j, e) += h * gradient[r.w.row(j, e)];
    });
    Floats grad_codes = output<float>(r.batch * r.k), grad_values = output<float>(static_cast<int64_t>(values.size()));
    kernels().decode_backward({r.code.indices.data(), r.code.values.data(), r.w.view(), r.batch, r.k, r.threads, r.other.data(),
                               parts != 1 ? grad_codes.data() : nullptr, parts != 2 ? grad_values.data() : nullptr});
    if (parts != 1) expect_equal("grad_codes", grad_codes, codes);
    if (parts != 2) expect_equal("grad_values", grad_values, values);
  }
  return std::to_string(reconstructions) + " cases, exact";
}

std::string test_encode_backward() {
  Random random{4};
  for (int which = 0; which < reconstructions; ++which) {
    now = "encode_backward, case " + std::to_string(which);
    const Reconstruction r = Reconstruction::draw(random, which);
    const int64_t without = random.below(4);
    Numbers x(static_cast<size_t>(r.batch * r.d_in)), values(r.w.values.size()), bias(static_cast<size_t>(r.n));
    r.each([&](int64_t t, size_t, int64_t j, double g) {
      const Numbers token = r.x.token(t);
      for (int64_t e = 0; e < r.w.degree; ++e) {
        r.entry(values, j, e) += g * token[static_cast<size_t>(r.w.row(j, e))];
        x[static_cast<size_t>(t * r.d_in + r.w.row(j, e))] += g * r.w.value(j, e);
      }
      bias[static_cast<size_t>(j)] += g;
    });
    Floats grad_x = output<float>(r.batch * r.d_in), grad_values = output<float>(static_cast<int64_t>(values.size())),
           grad_bias = output<float>(r.n);
    kernels().encode_backward({r.code.indices.data(), r.code.values.data(), r.x.view(), r.w.view(), r.k, r.threads,
                               without == 1 ? nullptr : grad_x.data(), without == 2 ? nullptr : grad_values.data(),
                               without == 3 ? nullptr : grad_bias.data()});
    if (without != 1) expect_equal("grad_x", grad_x, x);
    if (without != 2) expect_equal("grad_values", grad_values, values);
    if (without != 3) expect_equal("grad_bias", grad_bias, bias);
  }
  return std::to_string(reconstructions) + " cases, exact";
}

// ---- the loss

// Everything the loss depends on, in double: L = scale sum ||x - center - W h||^2 with h = E^T (x - center) + bias on given
// latents, and its gradients by the chain rule.
struct Loss {
  const Reconstruction& r;
  double scale;
  bool tied, fixed;
  Numbers decoder, encoder, center, bias;

  Numbers token(int64_t t) const {
    Numbers x(static_cast<size_t>(r.d_in));
    for (int64_t i = 0; i < r.d_in; ++i) x[static_cast<size_t>(i)] = r.x.raw(t, i) - center[static_cast<size_t>(i)];
    return x;
  }
  const Numbers& reading() const { return tied ? decoder : encoder; }
  double at(const Numbers& of, int64_t j, int64_t e) const { return of[static_cast<size_t>(j * r.w.degree + e)]; }

  double total() const {  // the codes follow the parameters
    double sum = 0;
    for (int64_t t = 0; t < r.batch; ++t) {
      const Numbers x = token(t);
      Numbers e = x;
      for (int64_t i = t * r.k; i < (t + 1) * r.k; ++i) {
        const int64_t j = r.code.indices[static_cast<size_t>(i)];
        double h = r.code.values[static_cast<size_t>(i)];
        if (!fixed) {
          h = bias[static_cast<size_t>(j)];
          for (int64_t s = 0; s < r.w.degree; ++s) h += at(reading(), j, s) * x[static_cast<size_t>(r.w.row(j, s))];
        }
        for (int64_t s = 0; s < r.w.degree; ++s) e[static_cast<size_t>(r.w.row(j, s))] -= h * at(decoder, j, s);
      }
      for (double v : e) sum += v * v;
    }
    return scale * sum;
  }

  struct Gradients {
    double squares = 0;
    Numbers decoder, encoder, center, bias, residual;
  };
  Gradients gradients(const Numbers& codes) const {
    Gradients g{0, Numbers(decoder.size()), Numbers(decoder.size()), Numbers(center.size()), Numbers(bias.size()), {}};
    for (int64_t t = 0; t < r.batch; ++t) {
      const Numbers x = token(t);
      Numbers e = x;
      for (int64_t i = t * r.k; i < (t + 1) * r.k; ++i)
        for (int64_t s = 0; s < r.w.degree; ++s) {
          const int64_t j = r.code.indices[static_cast<size_t>(i)];
          e[static_cast<size_t>(r.w.row(j, s))] -= codes[static_cast<size_t>(i)] * at(decoder, j, s);
        }
      for (double v : e) g.squares += v * v;
      g.residual.insert(g.residual.end(), e.begin(), e.end());
      for (size_t i = 0; i < e.size(); ++i) g.center[i] -= 2 * scale * e[i];
      for (int64_t i = t * r.k; i < (t + 1) * r.k; ++i) {
        const int64_t j = r.code.indices[static_cast<size_t>(i)];
        const double h = codes[static_cast<size_t>(i)];
        if (h == 0) continue;
        double to_code = 0;
        for (int64_t s = 0; s < r.w.degree; ++s) {
          const auto row = static_cast<size_t>(r.w.row(j, s));
          r.entry(g.decoder, j, s) -= 2 * scale * h * e[row];
          to_code -= 2 * scale * at(decoder, j, s) * e[row];
        }
        if (fixed) continue;
        for (int64_t s = 0; s < r.w.degree; ++s) {
          const auto row = static_cast<size_t>(r.w.row(j, s));
          r.entry(tied ? g.decoder : g.encoder, j, s) += to_code * x[row];
          g.center[row] -= to_code * at(reading(), j, s);
        }
        g.bias[static_cast<size_t>(j)] += to_code;
      }
    }
    return g;
  }
};

// The formulas themselves, against finite differences.
void check_formulas(Random& random) {
  for (int which = 0; which < 12; ++which) {
    now = "the driver's own gradients of the loss";
    Reconstruction r = Reconstruction::draw(random, which);
    const auto some = [&] { return random.normal(); };
    Loss loss{r, 0.25, which % 2 == 0, which % 3 == 0, {}, {}, {}, {}};
    for (Numbers* part : {&loss.decoder, &loss.encoder}) std::generate_n(std::back_inserter(*part), r.w.values.size(), some);
    std::generate_n(std::back_inserter(loss.center), r.d_in, some);
    std::generate_n(std::back_inserter(loss.bias), r.n, some);
    Numbers codes;
    r.each([&](int64_t t, size_t, int64_t j, double h) {
      if (!loss.fixed) {
        const Numbers x = loss.token(t);
        h = loss.bias[static_cast<size_t>(j)];
        for (int64_t s = 0; s < r.w.degree; ++s) h += loss.at(loss.reading(), j, s) * x[static_cast<size_t>(r.w.row(j, s))];
      }
      codes.push_back(h);
    });
    Loss::Gradients g = loss.gradients(codes);
    const std::pair<Numbers*, Numbers*> parts[] = {
        {&loss.decoder, &g.decoder}, {&loss.encoder, &g.encoder}, {&loss.center, &g.center}, {&loss.bias, &g.bias}};
    for (const auto& [numbers, gradient] : parts)
      for (int round = 0; round < 4; ++round) {
        const auto at = static_cast<size_t>(random.below(static_cast<int64_t>(numbers->size())));
        const double before = (*numbers)[at], step = 1e-5;
        (*numbers)[at] = before + step;
        const double above = loss.total();
        (*numbers)[at] = before - step;
        const double below = loss.total();
        (*numbers)[at] = before;
        const double wanted = (above - below) / (2 * step);
        if (!(std::fabs(wanted - (*gradient)[at]) <= 1e-6 * (1 + above)))
          fail("%.9g, and should be %.9g", (*gradient)[at], wanted);
      }
  }
}

std::string test_loss() {
  Random random{5};
  check_formulas(random);
  for (int which = 0; which < reconstructions; ++which) {
    now = "loss, case " + std::to_string(which);
    Reconstruction r = Reconstruction::draw(random, which);
    r.x.center.resize(static_cast<size_t>(r.d_in), 1);  // the loss always has one
    const bool tied = random.below(2), fixed = random.below(3) == 0, biased = random.below(2), residual = random.below(2);
    Floats encoder;
    std::generate_n(std::back_inserter(encoder), r.w.values.size(), [&] { return random.whole(2); });
    const Loss loss{r,
                    0.25,
                    tied,
                    fixed,
                    Numbers(r.w.values.begin(), r.w.values.end()),
                    Numbers(encoder.begin(), encoder.end()),
                    Numbers(r.x.center.begin(), r.x.center.end()),
                    Numbers(static_cast<size_t>(r.n))};
    const Loss::Gradients wanted = loss.gradients(Numbers(r.code.values.begin(), r.code.values.end()));
    const auto size = static_cast<int64_t>(encoder.size());
    Floats grad_decoder = output<float>(size), grad_encoder = output<float>(size), grad_center = output<float>(r.d_in),
           grad_bias = output<float>(r.n), left = output<float>(r.batch * r.d_in);
    std::vector<uint8_t> fired(static_cast<size_t>(r.n)), has_fired = fired;
    double squares = NAN;
    LossArguments a{};
    a.indices = r.code.indices.data(), a.codes = r.code.values.data(), a.x = r.x.view(), a.decoder = r.w.view();
    a.encoder = tied ? nullptr : encoder.data(), a.k = r.k, a.scale = 0.25f, a.fixed_codes = fixed, a.threads = r.threads,
    a.loss = &squares;
    a.grad_decoder = grad_decoder.data(), a.grad_encoder = tied ? nullptr : grad_encoder.data(),
    a.grad_center = grad_center.data();
    a.grad_bias = biased ? grad_bias.data() : nullptr, a.residual = residual ? left.data() : nullptr, a.fired = fired.data();
    kernels().loss(a);
    if (squares != wanted.squares) fail("the loss is %.9g, and should be %.9g", squares, wanted.squares);
    expect_equal("grad_decoder", grad_decoder, wanted.decoder);
    if (!tied) expect_equal("grad_encoder", grad_encoder, wanted.encoder);
    expect_equal("grad_center", grad_center, wanted.center);
    if (biased) expect_equal("grad_bias", grad_bias, wanted.bias);
    if (residual) expect_equal("residual", left, wanted.residual);
    r.each([&](int64_t, size_t, int64_t j, double h) { has_fired[static_cast<size_t>(j)] |= h != 0; });
    if (fired != has_fired) fail("fired marks other latents than those with a code");
  }
  return std::to_string(reconstructions) + " cases, exact; formulas by finite differences";
}

// ---- pursuits

constexpr double smallest_score = 1e-5, clear = 2e-6;

// One token by the definition of a pursuit, in double. `margin` is how close the closest choice was: where float32 may choose
// otherwise, the definition says nothing of the kernel.
class Definition {
 public:
  Definition(const Columns& columns, const Numbers& token, int64_t most, bool by_size, double enough)
      : w(columns), x(token), k(most), is_signed(by_size), tolerance(enough), norm(length(token)), residual(token) {}

  const Columns& w;
  const Numbers x;
  const int64_t k;
  const bool is_signed;
  const double tolerance, norm;
  Integers support;
  Numbers z, residual;
  double margin = INFINITY;

  void block_omp(int64_t block, int64_t spare) {
    while (norm > 0 && size() < k && !small_enough()) {
      const int64_t before = size();
      const Integers picked = best(std::min(block + spare, k + spare - before), [&](int64_t j) { return !holds(j); });
      if (picked.empty()) break;
      support.insert(support.end(), picked.begin(), picked.end());
      fit();
      while (size() > std::min(k, before + block)) drop_weakest();
    }
  }
  void matching(int64_t steps) {
    for (int64_t step = 0; step < steps && !small_enough(); ++step) {
      const int64_t j = pick();
      if (j < 0) return;
      Numbers column(static_cast<size_t>(w.d_in));
      w.add(j, 1, column);
      const double amount = w.product(j, residual) / w.product(j, column);
      z[slot_of(j)] += amount;
      w.add(j, -amount, residual);
    }
  }
  void gradient(int64_t steps) {
    for (int64_t step = 0; step < steps && !small_enough(); ++step) {
      const int64_t j = pick();
      if (j < 0) return;
      slot_of(j);
      Numbers image(static_cast<size_t>(w.d_in)), change;
      for (int64_t latent : support) {
        change.push_back(w.product(latent, residual));
        w.add(latent, change.back(), image);
      }
      const double amount = length(change) * length(change) / (length(image) * length(image));
      for (size_t i = 0; i < z.size(); ++i) z[i] += amount * change[i];
      move();
    }
  }
  void nonnegative() {
    while (size() < k && !small_enough()) {
      const Integers picked = best(1, [](int64_t) { return true; });
      if (picked.empty() || holds(picked[0])) break;
      slot_of(picked[0]);
      const Numbers apart = least_squares(support);      // whether the columns are independent
      for (double change = 1; change > 1e-13 * norm;) {  // min ||x - W z|| over z >= 0, a coordinate at a time
        change = 0;
        for (size_t i = 0; i < z.size(); ++i) {
          Numbers column(static_cast<size_t>(w.d_in));
          w.add(support[i], 1, column);
          const double to = std::max(0.0, z[i] + w.product(support[i], residual) / w.product(support[i], column));
          w.add(support[i], z[i] - to, residual);
          change = std::max(change, std::fabs(z[i] - to));
          z[i] = to;
        }
      }
    }
  }
  void cosamp(int64_t steps) {
    for (int64_t step = 0; step < steps && !small_enough(); ++step) {
      const Definition before = *this;
      for (int64_t j : best(std::min(2 * k, w.n), [](int64_t) { return true; }))
        if (!before.holds(j)) support.push_back(j);
      fit();
      std::vector<std::pair<double, int64_t>> order;
      for (size_t i = 0; i < z.size(); ++i)
        if (score(z[i]) > 0) order.emplace_back(-score(z[i]), support[i]);
      std::sort(order.begin(), order.end());
      cut(order);
      support.clear();
      for (const auto& [size, j] : order) support.push_back(j);
      fit();
      const double ratio = length(residual) / length(before.residual);
      Integers old = before.support, own = support;
      std::sort(old.begin(), old.end()), std::sort(own.begin(), own.end());
      between(ratio, 0.999, 1);
      if (old != own) between(ratio, 1, 1);
      if (!(ratio < 1)) support = before.support, z = before.z, residual = before.residual;
      if (!(ratio < 0.999)) return;
    }
  }
  void niht(int64_t steps, const std::vector<uint8_t>& repeated) {
    threshold(1, repeated);
    std::fill(z.begin(), z.end(), 0);
    move();
    for (int64_t step = 0; step < steps && size() && !small_enough(); ++step) {
      const Definition before = *this;
      Numbers change, image(static_cast<size_t>(w.d_in));
      for (int64_t j : support) {
        change.push_back(w.product(j, residual));
        w.add(j, change.back(), image);
      }
      double mu = length(image) > 0 ? std::pow(length(change) / length(image), 2) : 1;
      for (int round = 0; round < 60; ++round, mu /= 2 * 0.99) {
        threshold(mu, repeated);
        double moved = 0, shared = 0, seen = 0;
        for (size_t i = 0; i < z.size(); ++i) {
          const auto at = std::find(before.support.begin(), before.support.end(), support[i]) - before.support.begin();
          const double old = at < before.size() ? before.z[static_cast<size_t>(at)] : 0;
          shared += at < before.size();
          moved += (z[i] - old) * (z[i] - old) - old * old;
        }
        for (double old : before.z) moved += old * old;
        if (static_cast<int64_t>(shared) == size() && size() == before.size()) break;
        for (size_t i = 0; i < residual.size(); ++i) seen += std::pow(residual[i] - before.residual[i], 2);
        // The kernel's `moved` is a sum of squares of codes and their differences: it is as exact as the token's square.
        between(mu * seen, 0.99 * moved, norm * norm);
        if (mu * seen <= 0.99 * moved) break;
        support = before.support, z = before.z, residual = before.residual;
      }
      if (!(length(residual) < (1 - 1e-6) * length(before.residual))) return;
    }
  }

  // z and the residual of the support.
  void fit() {
    z = least_squares(support);
    move();
  }
  int64_t size() const { return static_cast<int64_t>(support.size()); }
  bool holds(int64_t j) const { return std::find(support.begin(), support.end(), j) != support.end(); }

 private:
  double score(double value) const { return is_signed ? std::fabs(value) : value; }
  void between(double a, double b, double unit) { margin = std::min(margin, std::fabs(a - b) / unit); }
  // The first k of what is sorted.
  void cut(std::vector<std::pair<double, int64_t>>& order, int64_t most = -1) {
    const auto keep = static_cast<size_t>(most < 0 ? k : most);
    if (order.size() <= keep) return;
    between(order[keep - 1].first, order[keep].first, norm);
    order.resize(keep);
  }
  bool small_enough() {
    if (tolerance <= 0) return false;
    between(length(residual), tolerance * norm, norm);
    return length(residual) <= tolerance * norm;
  }
  Integers best(int64_t count, const std::function<bool(int64_t)>& allowed) {
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t j = 0; j < w.n; ++j)
      if (const double found = score(w.product(j, residual)); found > smallest_score * norm && allowed(j))
        order.emplace_back(-found, j);
    std::sort(order.begin(), order.end());
    cut(order, count);
    Integers latents;
    for (const auto& [size, j] : order) latents.push_back(j);
    return latents;
  }
  int64_t pick() {
    const Integers picked = best(1, [&](int64_t j) { return size() < k || holds(j); });
    return picked.empty() ? -1 : picked[0];
  }
  size_t slot_of(int64_t j) {
    if (!holds(j)) support.push_back(j), z.push_back(0);
    return static_cast<size_t>(std::find(support.begin(), support.end(), j) - support.begin());
  }
  void move() {
    residual = x;
    for (size_t i = 0; i < z.size(); ++i) w.add(support[i], -z[i], residual);
  }
  void drop_weakest() {
    double least = INFINITY, second = INFINITY;
    Definition chosen = *this;
    for (size_t i = 0; i < support.size(); ++i) {
      Definition without = *this;
      without.support.erase(without.support.begin() + static_cast<int64_t>(i));
      without.fit();
      const double cost = std::pow(length(without.residual), 2);
      second = std::min(second, std::max(cost, least));
      if (cost < least) least = cost, chosen.support = without.support;
    }
    support = chosen.support;
    between(least, second, norm * norm);
    fit();
  }
  // By Cholesky; columns that nearly depend on each other leave no margin.
  Numbers least_squares(const Integers& on) {
    const size_t count = on.size();
    std::vector<Numbers> lower(count, Numbers(count));
    Numbers found(count);
    for (size_t i = 0; i < count; ++i) {
      Numbers column(static_cast<size_t>(w.d_in));
      w.add(on[i], 1, column);
      found[i] = w.product(on[i], x);
      for (size_t j = 0; j <= i; ++j) {
        double sum = w.product(on[j], column);
        const double whole = sum;
        for (size_t q = 0; q < j; ++q) sum -= lower[i][q] * lower[j][q];
        if (j < i) {
          lower[i][j] = sum / lower[j][j];
          found[i] -= lower[i][j] * found[j];
        } else {
          if (sum < 0.01 * whole) margin = 0;
          lower[i][i] = std::sqrt(std::max(sum, 1e-12 * whole));
          found[i] /= lower[i][i];
        }
      }
    }
    for (size_t i = count; i-- > 0;) {
      for (size_t q = i + 1; q < count; ++q) found[i] -= lower[q][i] * found[q];
      found[i] /= lower[i][i];
    }
    return found;
  }

  void threshold(double mu, const std::vector<uint8_t>& repeated) {
    std::vector<std::pair<double, int64_t>> order;
    Numbers value(static_cast<size_t>(w.n));
    for (int64_t j = 0; j < w.n; ++j) {
      const auto at = std::find(support.begin(), support.end(), j) - support.begin();
      if (at == size() && !repeated.empty() && repeated[static_cast<size_t>(j)]) continue;
      double& own = value[static_cast<size_t>(j)];
      own = (at < size() ? z[static_cast<size_t>(at)] : 0) + mu * w.product(j, residual);
      if (score(own) > std::numeric_limits<float>::epsilon() * norm) order.emplace_back(-score(own), j);
    }
    std::sort(order.begin(), order.end());
    cut(order);
    support.clear(), z.clear();
    for (const auto& [size, j] : order) support.push_back(j), z.push_back(value[static_cast<size_t>(j)]);
    move();
  }
};

// Columns of unit length, and tokens that are a few of them and some noise.
struct Instance {
  Columns w;
  Tokens x;

  static Instance draw(Random& random, int64_t n, int64_t degree, int64_t d_in, int64_t batch, int64_t columns, Element element,
                       bool positive) {
    Columns w = make_columns(random, n, degree, d_in, [&] { return static_cast<float>(random.normal()); });
    for (int64_t j = 0; j < n; ++j) {
      const auto first = w.values.begin() + j * degree;
      const double size = std::sqrt(std::inner_product(first, first + degree, first, 0.0));
      for (int64_t e = 0; e < degree; ++e) first[e] = static_cast<float>(first[e] / size);
    }
    Floats center;
    if (random.below(2))
      std::generate_n(std::back_inserter(center), d_in, [&] { return static_cast<float>(0.1 * random.normal()); });
    Numbers token;
    size_t at = 0;
    Tokens x(batch, d_in, element, [&] {
      if (at % static_cast<size_t>(d_in) == 0) {
        token.assign(static_cast<size_t>(d_in), 0);
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t j = random.below(n), sign = positive || random.below(2) ? 1 : -1;
          w.add(j, static_cast<double>(sign) * (0.5 + 1.5 * random.uniform()), token);
        }
        for (int64_t i = 0; i < d_in; ++i) {
          token[static_cast<size_t>(i)] += 0.1 * random.normal() / std::sqrt(static_cast<double>(d_in));
          if (!center.empty()) token[static_cast<size_t>(i)] += center[static_cast<size_t>(i)];
        }
      }
      return static_cast<float>(token[at++ % static_cast<size_t>(d_in)]);
    });
    x.center = center;
    return {std::move(w), std::move(x)};
  }
};

// Runs a pursuit twice, the second time with the tokens the other way round on other threads: a code depends on its token
// alone. But for NIHT, which sums over a support in the order in which the scan of the tile came upon its columns: there the
// last bits differ.
template <class Arguments>
Code pursue(void (*kernel)(const Arguments&), Arguments a, const Instance& of, int64_t* dependent = nullptr,
            const Code* warm = nullptr) {
  Code code[2];
  const Tokens turned = of.x.reversed();
  const Code turned_warm = warm ? warm->reversed(static_cast<int64_t>(warm->indices.size()) / of.x.batch) : Code{};
  int64_t skipped[2] = {-1, -1};
  for (int round = 0; round < 2; ++round) {
    code[round] = {output<int64_t>(of.x.batch * a.k), output<float>(of.x.batch * a.k)};
    a.x = (round ? turned : of.x).view(), a.dictionary = of.w.view();
    a.threads = round ? 4 - a.threads : a.threads;
    a.indices = code[round].indices.data(), a.codes = code[round].values.data(), a.dependent = &skipped[round];
    if constexpr (std::is_same_v<Arguments, GreedyArguments>)
      if (warm) {
        const Code& start = round ? turned_warm : *warm;
        a.warm_indices = start.indices.data(), a.warm_codes = start.values.data(),
        a.warm = static_cast<int64_t>(warm->indices.size()) / of.x.batch;
      }
    kernel(a);
  }
  bool alone = true;
  if constexpr (std::is_same_v<Arguments, GreedyArguments>) alone = a.method != Greedy::niht;
  if (alone && !(code[1] == code[0].reversed(a.k))) fail("the code of a token depends on its neighbours or the threads");
  if (dependent) *dependent = skipped[0];
  remember(code[0].indices);
  remember(code[0].values);
  return code[0];
}

enum Promise {
  sparse,
  solved,
  positive
};  // of a code: at most k columns; their residual is orthogonal to them; and no code is negative

// What holds of every code; then `define` tells what the code should be, where its choices were clear.
void check_pursuit(const Instance& of, const Code& code, int64_t k, bool is_signed, double tolerance, Promise promise,
                   const std::function<void(Definition&, int64_t)>& define, int64_t& tokens, int64_t& compared) {
  const Columns& w = of.w;
  for (int64_t t = 0; t < of.x.batch; ++t) {
    const int64_t* indices = code.indices.data() + t * k;
    const float* values = code.values.data() + t * k;
    const Numbers x = of.x.token(t);
    const double norm = length(x);
    int64_t used = 0;
    while (used < k && values[used] != 0) ++used;
    Numbers residual = x;
    auto size = [&](int64_t i) { return is_signed ? std::fabs(values[i]) : values[i]; };
    for (int64_t i = 0; i < k; ++i) {
      if (indices[i] < 0 || indices[i] >= w.n || std::find(indices, indices + i, indices[i]) != indices + i)
        fail("token %ld: latent %ld in place %ld is no latent or stands there twice", t, indices[i], i);
      if (!std::isfinite(values[i]) || (i >= used && values[i] != 0)) fail("token %ld: no code in place %ld", t, i);
      if (i < used) w.add(indices[i], -static_cast<double>(values[i]), residual);
      if (i && i < used && !(size(i - 1) > size(i) || (size(i - 1) == size(i) && indices[i - 1] < indices[i])))
        fail("token %ld: codes are not sorted", t);
      if (promise == positive && values[i] < 0) fail("token %ld: a code is negative", t);
    }
    int64_t free = 0;
    for (int64_t i = used; i < k; ++i, ++free) {
      while (std::find(indices, indices + used, free) != indices + used) ++free;
      if (indices[i] != free) fail("token %ld: a zero code is not on the lowest free latent", t);
    }
    if (!(length(residual) <= (1 + 1e-5) * norm)) fail("token %ld: the residual is longer than the token", t);
    if (promise != sparse)
      for (int64_t i = 0; i < used; ++i)
        if (!(std::fabs(w.product(indices[i], residual)) <= 1e-3 * norm))
          fail("token %ld: the residual is not orthogonal to latent %ld", t, indices[i]);
    ++tokens;
    if (!define) continue;
    Definition wanted(w, x, k, is_signed, tolerance);
    if (norm > 0) define(wanted, t);
    if (wanted.margin < clear) continue;
    ++compared;
    int64_t columns = 0;
    for (int64_t p = 0; p < wanted.size(); ++p) {
      const int64_t* at = std::find(indices, indices + used, wanted.support[static_cast<size_t>(p)]);
      const double own = wanted.z[static_cast<size_t>(p)], found = at == indices + used ? 0 : values[at - indices];
      columns += at != indices + used;
      if (!(std::fabs(found - own) <= 5e-4 * norm))
        fail("token %ld: latent %ld has %.9g, and should have %.9g (margin %g)", t, wanted.support[static_cast<size_t>(p)],
             found, own, wanted.margin);
    }
    if (columns != used)
      fail("token %ld: %ld latents that its definition does not have (margin %g)", t, used - columns, wanted.margin);
  }
}

std::string summary(int64_t tokens, int64_t compared, int64_t cases) {
  if (compared * 2 < tokens) fail("only %ld of %ld tokens had clear choices: the test is none", compared, tokens);
  return std::to_string(cases) + " cases, " + std::to_string(tokens) + " tokens, " + std::to_string(compared) + " compared";
}

// Shapes in which columns are met by lists and (d_in 48) with their zeros.
struct Shape {
  int64_t n, degree, d_in;
};
constexpr Shape shapes[] = {{96, 7, 48}, {600, 7, 160}, {300, 4, 130}, {520, 16, 200}, {200, 5, 64}, {400, 8, 96}};

std::string test_block_omp() {
  Random random{6};
  int64_t tokens = 0, compared = 0, cases = 0;
  constexpr int64_t plans[][3] = {{8, 1, 0},  {8, 8, 0},   {8, 4, 0}, {8, 3, 2}, {8, 4, 4},
                                  {24, 8, 8}, {20, 20, 0}, {1, 1, 0}, {5, 5, 3}};
  for (const auto& [k, block, spare] : plans)
    for (int64_t batch : {12, 37, 70}) {
      const Shape s = shapes[cases % 6];
      const bool is_signed = random.below(3) != 0;
      const auto element = static_cast<Element>(random.below(3));
      now = "block_omp, case " + std::to_string(cases);
      const Instance of =
          Instance::draw(random, s.n, s.degree, s.d_in, batch, std::max<int64_t>(2, k / 2), element, !is_signed);
      BlockOmpArguments a{};
      a.k = k, a.block = block, a.spare = spare, a.is_signed = is_signed;
      a.tolerance = random.below(4) ? 0 : 0.3f;
      a.threads = static_cast<int>(1 + random.below(3));
      const Code code = pursue(kernels().block_omp, a, of);
      check_pursuit(
          of, code, k, is_signed, a.tolerance, solved, [&](Definition& d, int64_t) { d.block_omp(block, spare); }, tokens,
          compared);
      ++cases;
    }
  // Every column twice, and a token that is zero: of equal columns the first is taken, and the other depends on it.
  constexpr int64_t stages[][2] = {{1, 0}, {6, 0}, {6, 4}, {12, 0}, {12, 4}};
  for (const auto& [block, spare] : stages) {
    now = "block_omp on repeated columns";
    Instance of = Instance::draw(random, 200, 7, 160, 40, 4, Element::float32, false);
    of.x.center.clear();
    std::copy_n(of.w.rows.begin(), 700, of.w.rows.begin() + 700);
    std::copy_n(of.w.values.begin(), 700, of.w.values.begin() + 700);
    std::fill_n(of.x.floats.begin(), 160, 0.0f);
    BlockOmpArguments a{};
    a.k = 12, a.block = block, a.spare = spare, a.is_signed = true, a.threads = 1;
    int64_t dependent = 0, unused = 0;
    const Code code = pursue(kernels().block_omp, a, of, &dependent);
    if (block > 1 && dependent < 40) fail("only %ld columns were found dependent", dependent);
    for (size_t i = 0; i < code.indices.size(); ++i)
      if (code.values[i] != 0 && code.indices[i] >= 100) fail("latent %ld repeats %ld", code.indices[i], code.indices[i] - 100);
    check_pursuit(of, code, 12, true, 0, solved, {}, unused, unused);
  }
  return summary(tokens, compared, cases);
}

std::string test_greedy(const char* name, Greedy method, bool thresholds) {
  Random random{7 + static_cast<uint64_t>(method)};
  int64_t tokens = 0, compared = 0, cases = 0;
  for (; cases < 24; ++cases) {
    now = std::string(name) + ", case " + std::to_string(cases);
    const Shape s = thresholds ? shapes[1 + 2 * (cases % 2)] : shapes[cases % 6];
    const bool is_signed = method != Greedy::nonnegative && random.below(3) != 0;
    const auto element = static_cast<Element>(random.below(3));
    const int64_t batch = random.one_of<int64_t>({5, 16, 37});
    const bool leave = method == Greedy::nonnegative;  // tokens that no positive code gives: columns leave the fit and return
    const int64_t k = leave ? 16 : method == Greedy::refit || method == Greedy::omp ? random.one_of<int64_t>({8, 1, 20}) : 6;
    Instance of = Instance::draw(random, s.n, s.degree, s.d_in, batch, leave ? 16 : 4, element, !is_signed && !leave);
    GreedyArguments a{};
    a.k = k, a.is_signed = is_signed, a.method = method;
    a.tolerance = random.below(4) ? 0 : 0.3f;
    a.threads = static_cast<int>(1 + random.below(3));
    a.steps = method == Greedy::matching || method == Greedy::gradient ? 2 * k : 12;
    std::vector<uint8_t> repeated;
    if (method == Greedy::niht && cases % 2) {  // every column of the last tenth repeats one of the first
      const int64_t tenth = s.n / 10, size = tenth * s.degree;
      std::copy_n(of.w.rows.begin(), size, of.w.rows.end() - size);
      std::copy_n(of.w.values.begin(), size, of.w.values.end() - size);
      repeated.assign(static_cast<size_t>(s.n), 0);
      std::fill(repeated.end() - tenth, repeated.end(), 1);
      a.repeated = repeated.data(), a.repetitions = tenth;
    }
    Code warm;
    const int64_t start = method == Greedy::refit ? k : k / 2;
    const bool warms = method == Greedy::refit || (method == Greedy::omp && cases % 2 && start);
    if (warms) warm = make_code(random, batch, start, s.n);
    int64_t dependent = 0;
    const Code code =
        pursue(thresholds ? kernels().thresholding : kernels().greedy, a, of, &dependent, warms ? &warm : nullptr);
    const bool solves = method == Greedy::omp || method == Greedy::refit || method == Greedy::cosamp;
    check_pursuit(
        of, code, k, is_signed, a.tolerance,
        method == Greedy::nonnegative ? positive
        : solves                      ? solved
                                      : sparse,
        [&](Definition& d, int64_t t) {
          for (int64_t i = t * start; warms && i < (t + 1) * start; ++i)
            if (warm.values[static_cast<size_t>(i)] != 0) d.support.push_back(warm.indices[static_cast<size_t>(i)]);
          d.fit();
          switch (method) {
            case Greedy::omp:
              return d.block_omp(1, 0);
            case Greedy::matching:
              return d.matching(a.steps);
            case Greedy::gradient:
              return d.gradient(a.steps);
            case Greedy::nonnegative:
              return d.nonnegative();
            case Greedy::refit:
              return;
            case Greedy::cosamp:
              return d.cosamp(a.steps);
            case Greedy::niht:
              return d.niht(a.steps, repeated);
          }
        },
        tokens, compared);
  }
  return summary(tokens, compared, cases);
}

// ---- the rest

std::string test_correlate() {
  Random random{20};
  const int cases = 60;
  for (int which = 0; which < cases; ++which) {
    now = "correlate, case " + std::to_string(which);
    const int64_t degree = (int64_t[]){7, 4, 8, 16, 1, 20}[which % 6],
                  d_in = std::max(degree, random.one_of<int64_t>({7, 16, 33, 130})),
                  n = random.one_of<int64_t>({1, 5, 16, 200, 333}), batch = random.one_of<int64_t>({1, 3, 16, 17, 40});
    const auto whole = [&] { return random.whole(3); };
    const Columns w = make_columns(random, n, degree, d_in, whole);
    Tokens x(batch, d_in, static_cast<Element>(which % 3), whole);
    if (random.below(2)) std::generate_n(std::back_inserter(x.center), d_in, whole);
    Numbers wanted;
    for (int64_t t = 0; t < batch; ++t)
      for (int64_t j = 0; j < n; ++j) wanted.push_back(w.product(j, x.token(t)));
    Floats out = output<float>(batch * n);
    kernels().correlate({x.view(), w.view(), 1 + which % 3, out.data()});
    expect_equal("out", out, wanted);
  }
  // Every float16 and bfloat16 number, through whole vectors and through what is left of them.
  for (const Element element : {Element::float16, Element::bfloat16}) {
    now = element == Element::float16 ? "correlate on every float16" : "correlate on every bfloat16";
    const int64_t d_in = 67;
    Columns unit{d_in, 1, d_in, {}, Floats(static_cast<size_t>(d_in), 1.0f)};
    for (int64_t j = 0; j < d_in; ++j) unit.rows.push_back(static_cast<uint16_t>(j));
    Tokens x(0, d_in, element, {});
    Numbers wanted;
    for (int bits = 0; bits < 65536; ++bits) {
      const double number =
          element == Element::float16 ? from_half(static_cast<uint16_t>(bits)) : from_brain(static_cast<uint16_t>(bits));
      if (std::isfinite(number)) x.halves.push_back(static_cast<uint16_t>(bits)), wanted.push_back(number);
    }
    while (x.halves.size() % static_cast<size_t>(d_in)) x.halves.push_back(0), wanted.push_back(0);
    x.batch = static_cast<int64_t>(wanted.size()) / d_in;
    Floats out = output<float>(static_cast<int64_t>(wanted.size()));
    kernels().correlate({x.view(), unit.view(), 1, out.data()});
    expect_equal("out", out, wanted);
  }
  return std::to_string(cases) + " cases, exact; every float16 and bfloat16 number";
}

std::string test_support_gram() {
  Random random{21};
  const int cases = 40;
  for (int which = 0; which < cases; ++which) {
    now = "support_gram, case " + std::to_string(which);
    const int64_t degree = (int64_t[]){7, 1, 16}[which % 3], d_in = random.one_of<int64_t>({16, 50}),
                  n = random.one_of<int64_t>({12, 80}), k = random.one_of<int64_t>({1, 4, 12}),
                  batch = random.one_of<int64_t>({1, 9});
    const Columns w = make_columns(random, n, degree, d_in, [&] { return random.whole(3); });
    const Code code = make_code(random, batch, k, n);
    Numbers wanted;
    for (int64_t t = 0; t < batch; ++t)
      for (int64_t i = 0; i < k; ++i)
        for (int64_t l = 0; l < k; ++l) {
          Numbers column(static_cast<size_t>(d_in));
          w.add(code.indices[static_cast<size_t>(t * k + i)], 1, column);
          wanted.push_back(w.product(code.indices[static_cast<size_t>(t * k + l)], column));
        }
    Floats out = output<float>(batch * k * k);
    kernels().support_gram({code.indices.data(), w.view(), batch, k, 1 + which % 3, out.data()});
    expect_equal("out", out, wanted);
  }
  return std::to_string(cases) + " cases, exact";
}

void expect_close(const char* name, const Floats& found, const Numbers& wanted, double tolerance) {
  for (size_t i = 0; i < wanted.size(); ++i)
    if (!(std::fabs(found[i] - wanted[i]) <= tolerance * (1e-3 + std::fabs(wanted[i]))))
      fail("%s[%zu] is %.9g, and should be %.9g", name, i, static_cast<double>(found[i]), wanted[i]);
  remember(found);
}

std::string test_unit_columns() {
  Random random{22};
  int cases = 0;
  for (int64_t degree : {1, 4, 7, 16, 33})
    for (int64_t n : {1, 5, 6000}) {
      now = "unit_columns, case " + std::to_string(cases);
      const float floor = 1e-8f;
      Floats raw, gradient, unit = output<float>(n * degree), norm = output<float>(n), back = output<float>(n * degree);
      for (int64_t i = 0; i < n * degree; ++i) {
        // A column of zeros, and columns whose squares are beyond float32.
        raw.push_back(static_cast<float>(random.normal() * (n > 1 && i / degree == 1 ? 0 : i / degree % 5 == 2 ? 1e30 : 1)));
        gradient.push_back(static_cast<float>(random.normal()));
      }
      kernels().unit_columns(raw.data(), n, degree, floor, unit.data(), norm.data(), 1 + cases % 3);
      kernels().unit_columns_backward(gradient.data(), unit.data(), norm.data(), n, degree, back.data(), 1 + cases % 3);
      Numbers unit_wanted, norm_wanted, back_wanted;
      for (int64_t j = 0; j < n; ++j) {
        const Numbers column(raw.begin() + j * degree, raw.begin() + (j + 1) * degree);
        const double size = std::max(length(column), static_cast<double>(floor));
        norm_wanted.push_back(size);
        double along = 0;
        for (int64_t e = 0; e < degree; ++e)
          along += gradient[static_cast<size_t>(j * degree + e)] * column[static_cast<size_t>(e)] / size;
        for (int64_t e = 0; e < degree; ++e) {
          unit_wanted.push_back(column[static_cast<size_t>(e)] / size);
          // Relative to the gradient: what is left of it may be nearly nothing.
          back_wanted.push_back(gradient[static_cast<size_t>(j * degree + e)] - along * column[static_cast<size_t>(e)] / size);
          back[static_cast<size_t>(j * degree + e)] *= norm[static_cast<size_t>(j)];
        }
      }
      expect_close("norm", norm, norm_wanted, 1e-6);
      expect_close("unit", unit, unit_wanted, 1e-6);
      expect_close("gradient", back, back_wanted, 1e-3);
      ++cases;
    }
  now = "unit_columns of infinity";
  for (int threads : {1, 3}) {
    Floats raw(60000, 1.0f), unit = raw, norm = raw;
    raw[41234] = INFINITY;
    bool refused = false;
    try {
      kernels().unit_columns(raw.data(), 20000, 3, 1e-8f, unit.data(), norm.data(), threads);
    } catch (const std::invalid_argument& error) {
      refused = std::strstr(error.what(), "column 13744") != nullptr;
    }
    if (!refused) fail("it is not refused");
  }
  return std::to_string(cases) + " cases, and one that is refused";
}

std::string test_survey() {
  Random random{23};
  int cases = 0;
  for (; cases < 60; ++cases) {
    now = "survey, case " + std::to_string(cases);
    const auto element = static_cast<Element>(cases % 3);
    // The last are large enough for several threads.
    const int64_t d_in = cases >= 57 ? 64 : random.one_of<int64_t>({1, 7, 16, 40}),
                  batch = cases >= 57 ? 16500 : random.one_of<int64_t>({1, 3, 50});
    const double scale = element == Element::float16 ? 1 : random.one_of<double>({1, 0x1p-42, 0x1p42});
    Tokens x(batch, d_in, element, [&] { return static_cast<float>(random.whole(3) * scale); });
    if (random.below(2)) x.center.assign(static_cast<size_t>(d_in), random.whole(1));
    for (int64_t times = random.below(3); times > 0; --times) {
      const auto at = static_cast<size_t>(random.below(batch * d_in));
      if (element == Element::float32) x.floats[at] = random.one_of<float>({NAN, INFINITY, -INFINITY});
      else
        x.halves[at] = element == Element::float16 ? random.one_of<uint16_t>({0x7c00, 0xfc00, 0x7e01})
                                                   : random.one_of<uint16_t>({0x7f80, 0xff80, 0x7fc1});
    }
    TokenSurvey wanted{-1, -1, 0, false};
    for (int64_t t = 0; t < batch; ++t) {
      const Numbers token = x.token(t);
      double most = 0;
      for (double v : token) most = std::isfinite(v) ? std::max(most, std::fabs(v)) : INFINITY;
      if (std::isinf(most)) {
        if (wanted.not_finite < 0) wanted.not_finite = t;
        continue;
      }
      if (most > wanted.largest) wanted.largest = static_cast<float>(most), wanted.at = t;
      wanted.extreme |= most > 0 && !(most >= 0x1p-40 && most <= 0x1p40);
    }
    const TokenSurvey found = kernels().survey_tokens(x.view(), d_in, 1 + cases % 3);
    if (found.not_finite != wanted.not_finite || found.at != wanted.at || found.largest != wanted.largest ||
        found.extreme != wanted.extreme)
      fail("tokens: %ld %ld %g %d, and should be %ld %ld %g %d", found.not_finite, found.at, static_cast<double>(found.largest),
           found.extreme, wanted.not_finite, wanted.at, static_cast<double>(wanted.largest), wanted.extreme);

    const int64_t n = random.one_of<int64_t>({1, 5, 130}), rows = random.one_of<int64_t>({4, 33, 65000});
    Columns w = make_columns(
        random, n, 3, rows, [&] { return static_cast<float>(random.normal()); }, cases % 5 == 4 && rows < 100);
    float largest = 0;
    for (float v : w.values) largest = std::max(largest, std::fabs(v));
    if (cases % 4 == 3)
      w.values[static_cast<size_t>(random.below(static_cast<int64_t>(w.values.size())))] = NAN, largest = INFINITY;
    const int64_t row = w.rows.empty() ? rows - 1 : *std::max_element(w.rows.begin(), w.rows.end());
    const DictionarySurvey columns = kernels().survey_dictionary(w.view());
    const float size = kernels().largest_size(w.values.data(), static_cast<int64_t>(w.values.size()));
    if (columns.largest_row != row || columns.largest != largest || size != largest)
      fail("dictionary: %ld %g, size %g, and should be %ld %g", columns.largest_row, static_cast<double>(columns.largest),
           static_cast<double>(size), row, static_cast<double>(largest));
    remember(Floats{found.largest, columns.largest});
  }
  return std::to_string(cases) + " cases, exact";
}

}  // namespace

int main(int count, char** names) {
  std::vector<std::string> sets(names + 1, names + count);
  if (sets.empty()) {
    std::string all = available_kernels(), name;
    for (char c : all + ",")
      if (c == ',') sets.push_back(name), name.clear();
      else name += c;
  }
  const std::pair<const char*, std::function<std::string()>> tests[] = {
      {"encode_topk", test_encode},
      {"decode", test_decode},
      {"decode_backward", test_decode_backward},
      {"encode_backward", test_encode_backward},
      {"loss", test_loss},
      {"block_omp", test_block_omp},
      {"greedy: omp", [] { return test_greedy("omp", Greedy::omp, false); }},
      {"greedy: mp", [] { return test_greedy("mp", Greedy::matching, false); }},
      {"greedy: gradient", [] { return test_greedy("gradient", Greedy::gradient, false); }},
      {"greedy: nnomp", [] { return test_greedy("nnomp", Greedy::nonnegative, false); }},
      {"greedy: refit", [] { return test_greedy("refit", Greedy::refit, false); }},
      {"thresholding: cosamp", [] { return test_greedy("cosamp", Greedy::cosamp, true); }},
      {"thresholding: niht", [] { return test_greedy("niht", Greedy::niht, true); }},
      {"correlate", test_correlate},
      {"support_gram", test_support_gram},
      {"unit_columns", test_unit_columns},
      {"survey", test_survey},
  };
  poison = true;
  int passed = 0;
  for (const std::string& set : sets) {
    if (!select_kernels(set.c_str())) {
      std::fprintf(stderr, "no instruction set %s here; there are: %s\n", set.c_str(), available_kernels());
      return 1;
    }
    for (const auto& [name, test] : tests) {
      written = 0xcbf29ce484222325u;
      const std::string tried = test();
      std::printf("%-8s  %-20s  ok  %016llx  %s\n", kernels().name, name, static_cast<unsigned long long>(written),
                  tried.c_str());
      std::fflush(stdout);
      ++passed;
    }
  }
  std::printf("%d passed, 0 failed\n", passed);
}
