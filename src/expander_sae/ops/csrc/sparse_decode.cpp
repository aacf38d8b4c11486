// Decoding from codes, its gradients, and the gradients of the encoder: all O(k * degree) per token.
//
// Tokens are cut into one fixed part per gradient buffer; the buffers are added in order afterwards. So the result
// depends on the number of threads and on nothing else.
#include <algorithm>
#include <cmath>
#include <vector>

#include "team.h"
#include "vector.h"

namespace expander::ISA {
namespace {

constexpr int64_t max_buffer_floats = int64_t{1} << 27;  // half a GiB of gradient buffers at most

int64_t buffer_count(int threads, int64_t batch, int64_t size) {
  const int64_t fits = std::max<int64_t>(1, max_buffer_floats / std::max<int64_t>(1, size));
  return std::max<int64_t>(1, std::min<int64_t>({threads, fits, batch}));
}

// Gradient buffers of `size` floats: the first is the output itself.
class Buffers {
 public:
  Buffers(float* out, int64_t size, int64_t count) : out_(out), size_(size), count_(count) {
    if (out && count > 1) extra_.resize(static_cast<size_t>(size * (count - 1)));
  }
  float* zeroed(int64_t part) {
    if (!out_) return nullptr;
    float* buffer = part == 0 ? out_ : extra_.data() + (part - 1) * size_;
    std::fill(buffer, buffer + size_, 0.0f);
    return buffer;
  }
  void add_up(int threads) {
    if (!out_ || count_ == 1) return;
    constexpr int64_t block = 16384;
    for_each_part(threads, (size_ + block - 1) / block, [&](int64_t part) {
      const int64_t first = part * block, last = std::min(size_, first + block);
      for (int64_t b = 1; b < count_; ++b) {
        const float* from = extra_.data() + (b - 1) * size_;
        for (int64_t i = first; i < last; ++i) out_[i] += from[i];
      }
    });
  }

 private:
  float* out_;
  int64_t size_, count_;
  // Not value-initialised twice: every part is zeroed by the thread that fills it.
  std::vector<float> extra_;
};

inline void add_scaled(float* to, float scale, const float* values, const uint16_t* rows, int64_t degree) {
  if (rows)
    for (int64_t e = 0; e < degree; ++e) to[rows[e]] += scale * values[e];
  else
    for (int64_t e = 0; e < degree; ++e) to[e] += scale * values[e];
}

inline float dot(const float* x, const float* values, const uint16_t* rows, int64_t degree) {
  float sum = 0;
  if (rows) {
    for (int64_t e = 0; e < degree; ++e) sum = multiply_add(values[e], x[rows[e]], sum);
    return sum;
  }
  Sum16 products;
  int64_t e = 0;
  for (; e + 16 <= degree; e += 16) products.add_products(x + e, values + e);
  float part[16];
  products.parts(part);
  for (int t = 0; t < 16; ++t) sum += part[t];
  for (; e < degree; ++e) sum += values[e] * x[e];
  return sum;
}

// to[e] += scale * x[rows[e]]
inline void add_gathered(float* to, float scale, const float* x, const uint16_t* rows, int64_t degree) {
  if (rows)
    for (int64_t e = 0; e < degree; ++e) to[e] += scale * x[rows[e]];
  else
    for (int64_t e = 0; e < degree; ++e) to[e] += scale * x[e];
}

inline const uint16_t* rows_of(const Dictionary& w, int64_t j) { return w.rows ? w.rows + j * w.degree : nullptr; }

}  // namespace

void decode(const DecodeArguments& a) {
  const Dictionary& w = a.dictionary;
  constexpr int64_t block = 16;
  for_each_part(a.threads, (a.batch + block - 1) / block, [&](int64_t part) {
    for (int64_t token = part * block; token < std::min(a.batch, (part + 1) * block); ++token) {
      float* out = a.out + token * w.d_in;
      if (a.offset)
        std::copy(a.offset, a.offset + w.d_in, out);
      else
        std::fill(out, out + w.d_in, 0.0f);
      for (int64_t i = token * a.k; i < (token + 1) * a.k; ++i) {
        const int64_t j = a.indices[i];
        if (a.codes[i] != 0.0f) add_scaled(out, a.codes[i], w.values + j * w.degree, rows_of(w, j), w.degree);
      }
    }
  });
}

void decode_backward(const DecodeBackwardArguments& a) {
  const Dictionary& w = a.dictionary;
  const int64_t size = w.n_latents * w.degree;
  const int64_t parts = a.grad_values ? buffer_count(a.threads, a.batch, size) : std::min<int64_t>(a.threads, a.batch);
  Buffers buffers(a.grad_values, size, parts);
  for_each_part(a.threads, std::max<int64_t>(1, parts), [&](int64_t part) {
    float* grad_values = buffers.zeroed(part);
    const int64_t first = a.batch * part / parts, last = a.batch * (part + 1) / parts;
    for (int64_t token = first; token < last; ++token) {
      const float* grad_out = a.grad_out + token * w.d_in;
      for (int64_t i = token * a.k; i < (token + 1) * a.k; ++i) {
        const int64_t j = a.indices[i];
        const uint16_t* rows = rows_of(w, j);
        if (a.grad_codes) a.grad_codes[i] = dot(grad_out, w.values + j * w.degree, rows, w.degree);
        if (grad_values && a.codes[i] != 0.0f)
          add_gathered(grad_values + j * w.degree, a.codes[i], grad_out, rows, w.degree);
      }
    }
  });
  buffers.add_up(a.threads);
}

void encode_backward(const EncodeBackwardArguments& a) {
  const Dictionary& w = a.dictionary;
  const int64_t size = w.n_latents * w.degree, batch = a.x.batch;
  const int64_t parts = buffer_count(a.threads, batch, a.grad_values ? size : w.n_latents);
  Buffers values(a.grad_values, size, parts), bias(a.grad_bias, w.n_latents, parts);
  for_each_part(a.threads, std::max<int64_t>(1, parts), [&](int64_t part) {
    static thread_local Scratch scratch;
    float* x = static_cast<float*>(scratch.reserve(static_cast<size_t>(w.d_in) * 4));
    float* grad_values = values.zeroed(part);
    float* grad_bias = bias.zeroed(part);
    const int64_t first = batch * part / parts, last = batch * (part + 1) / parts;
    for (int64_t token = first; token < last; ++token) {
      if (grad_values) read_token(a.x, w.d_in, token, x);
      float* grad_x = a.grad_x ? a.grad_x + token * w.d_in : nullptr;
      if (grad_x) std::fill(grad_x, grad_x + w.d_in, 0.0f);
      for (int64_t i = token * a.k; i < (token + 1) * a.k; ++i) {
        const float g = a.grad_codes[i];
        if (g == 0.0f) continue;
        const int64_t j = a.indices[i];
        const uint16_t* rows = rows_of(w, j);
        if (grad_values) add_gathered(grad_values + j * w.degree, g, x, rows, w.degree);
        if (grad_x) add_scaled(grad_x, g, w.values + j * w.degree, rows, w.degree);
        if (grad_bias) grad_bias[j] += g;
      }
    }
  });
  values.add_up(a.threads);
  bias.add_up(a.threads);
}

}  // namespace expander::ISA
