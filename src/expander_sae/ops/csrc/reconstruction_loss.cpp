// Squared error of an SAE and every gradient of it for given codes, in one visit to each token.
//
//   e = W h - (x - center),  g = 2 scale e,  gh_i = <w_i, g>
//   dW_j += h_i g[rows]          (decoder part)
//   dE_j += gh_i (x - center)[rows]   (encoder part; dE is dW when tied)
//   dcenter = sum g - sum gh_i E_i,   dbias_j += gh_i
//
// Fixed codes (from pursuit) take part in the first line and in sum g only.
//
// A sparse dictionary keeps one gradient buffer per part of the batch. A dense one would need d_in * n_latents floats
// each, so there the second phase is cut along d_in instead and needs no buffers at all.
#include <algorithm>
#include <cmath>
#include <vector>

#include "team.h"
#include "vector.h"

namespace expander::ISA {
namespace {

constexpr int64_t max_buffer_floats = int64_t{1} << 27;

inline void mark(uint8_t* fired, int64_t j) {
  __atomic_store_n(fired + j, uint8_t{1}, __ATOMIC_RELAXED);  // std::atomic_ref is not in every standard library of macOS
}

// The gradients of one part of the batch; the first part writes where the result belongs.
struct Part {
  float *decoder, *encoder, *center, *bias;
  double loss = 0;
};

// Adds the gradients of the later parts to those of the first.
void add_up(const std::vector<Part>& parts, float* Part::* member, int64_t size, int threads) {
  if (!(parts[0].*member)) return;
  constexpr int64_t block = 16384;
  for_each_part(threads, (size + block - 1) / block, [&](int64_t index) {
    const int64_t first = index * block, last = std::min(size, first + block);
    float* out = parts[0].*member;
    for (size_t p = 1; p < parts.size(); ++p) {
      const float* from = parts[p].*member;
      for (int64_t i = first; i < last; ++i) out[i] += from[i];
    }
  });
}

// Asks for what the next token will read and add to, while this one is worked on: the latents are anywhere.
inline void prefetch_columns(const LossArguments& a, int64_t token, const Part& part) {
  const int64_t degree = a.decoder.degree;
  for (int64_t i = token * a.k; i < (token + 1) * a.k; ++i) {
    const int64_t at = a.indices[i] * degree;
    __builtin_prefetch(a.decoder.rows + at);
    __builtin_prefetch(a.decoder.values + at);
    __builtin_prefetch(part.decoder + at, 1);
  }
}

template <int degree_>
void sparse_token(const LossArguments& a, int64_t token, float* x, float* e, Part& part) {
  const Dictionary& w = a.decoder;
  const int64_t d_in = w.d_in, degree = degree_ ? degree_ : w.degree, k = a.k;
  const int64_t* indices = a.indices + token * k;
  const float* codes = a.codes + token * k;
  const float* encoder = a.encoder ? a.encoder : w.values;
  float* grad_encoder = a.encoder ? part.encoder : part.decoder;
  float* center = part.center;
  read_token(a.x, d_in, token, x);
  for (int64_t i = 0; i < d_in; ++i) e[i] = -x[i];
  for (int64_t i = 0; i < k; ++i) {
    if (codes[i] == 0.0f) continue;
    const uint16_t* rows = w.rows + indices[i] * degree;
    const float* values = w.values + indices[i] * degree;
    for (int64_t s = 0; s < degree; ++s) e[rows[s]] += codes[i] * values[s];
  }
  Sum16 squares;
  int64_t c = 0;
  const float twice = 2.0f * a.scale;
  for (; c + 16 <= d_in; c += 16) squares.add_products(e + c, e + c);
  float square[16];
  squares.parts(square);
  double loss = 0;
  for (int t = 0; t < 16; ++t) loss += square[t];
  for (; c < d_in; ++c) loss += e[c] * e[c];
  part.loss += loss;
  if (a.residual) {
    float* residual = a.residual + token * d_in;
    for (int64_t i = 0; i < d_in; ++i) residual[i] = -e[i];
  }
  for (int64_t i = 0; i < d_in; ++i) {
    e[i] *= twice;
    center[i] += e[i];
  }
  for (int64_t i = 0; i < k; ++i) {
    const float h = codes[i];
    if (h == 0.0f) continue;
    const int64_t j = indices[i], at = j * degree;
    const uint16_t* rows = w.rows + at;
    mark(a.fired, j);
    for (int64_t s = 0; s < degree; ++s) part.decoder[at + s] += h * e[rows[s]];
    if (a.fixed_codes) continue;
    float gradient = 0;
    for (int64_t s = 0; s < degree; ++s) gradient = multiply_add(w.values[at + s], e[rows[s]], gradient);
    for (int64_t s = 0; s < degree; ++s) {
      grad_encoder[at + s] += gradient * x[rows[s]];
      center[rows[s]] -= gradient * encoder[at + s];
    }
    if (a.grad_bias) part.bias[j] += gradient;
  }
}

template <int degree>
void sparse_loss(const LossArguments& a) {
  const Dictionary& w = a.decoder;
  const int64_t size = w.n_latents * w.degree, batch = a.x.batch;
  const int64_t fits = std::max<int64_t>(1, max_buffer_floats / std::max<int64_t>(1, size));
  const int64_t count = std::max<int64_t>(1, std::min<int64_t>({a.threads, fits, batch}));
  std::vector<Part> parts(static_cast<size_t>(count), Part{a.grad_decoder, a.grad_encoder, a.grad_center, a.grad_bias});
  // Kept between calls: fresh pages for a megabyte of gradients would cost as much as filling them.
  static thread_local std::vector<Scratch> buffers;
  if (static_cast<int64_t>(buffers.size()) < count) buffers.resize(static_cast<size_t>(count));
  for (int64_t index = 1; index < count; ++index) {
    Part& part = parts[static_cast<size_t>(index)];
    Pieces pieces;
    pieces.add(part.decoder, size);
    pieces.add(part.center, w.d_in);
    if (part.encoder) pieces.add(part.encoder, size);
    if (part.bias) pieces.add(part.bias, w.n_latents);
    pieces.place(buffers[static_cast<size_t>(index)]);
  }
  for_each_part(a.threads, count, [&](int64_t index) {
    static thread_local Scratch scratch;
    Part& part = parts[static_cast<size_t>(index)];
    std::fill_n(part.decoder, size, 0.0f);
    std::fill_n(part.center, w.d_in, 0.0f);
    if (part.encoder) std::fill_n(part.encoder, size, 0.0f);
    if (part.bias) std::fill_n(part.bias, w.n_latents, 0.0f);
    float *x, *e;
    Pieces pieces;
    pieces.add(x, w.d_in);
    pieces.add(e, w.d_in);
    pieces.place(scratch);
    const int64_t last = batch * (index + 1) / count;
    for (int64_t token = batch * index / count; token < last; ++token) {
      if (token + 1 < last) prefetch_columns(a, token + 1, part);
      sparse_token<degree>(a, token, x, e, part);
    }
  });
  *a.loss = 0;
  for (const Part& part : parts) *a.loss += part.loss;
  add_up(parts, &Part::decoder, size, a.threads);
  add_up(parts, &Part::encoder, size, a.threads);
  add_up(parts, &Part::center, w.d_in, a.threads);
  add_up(parts, &Part::bias, w.n_latents, a.threads);
}

void dense_loss(const LossArguments& a) {
  const int64_t batch = a.x.batch, k = a.k, d_in = a.decoder.d_in, n = a.decoder.n_latents;
  const float* decoder = a.decoder.values;
  const float* encoder = a.encoder ? a.encoder : decoder;
  float* grad_encoder = a.encoder ? a.grad_encoder : a.grad_decoder;
  const float twice = 2.0f * a.scale;
  std::vector<float> x_all(static_cast<size_t>(batch * d_in)), g_all(static_cast<size_t>(batch * d_in)),
      gradients(static_cast<size_t>(batch * k));
  std::vector<double> losses(static_cast<size_t>(batch));
  constexpr int64_t block = 16;
  for_each_part(a.threads, (batch + block - 1) / block, [&](int64_t part) {
    for (int64_t token = part * block; token < std::min(batch, (part + 1) * block); ++token) {
      float* x = x_all.data() + token * d_in;
      float* e = g_all.data() + token * d_in;
      read_token(a.x, d_in, token, x);
      for (int64_t c = 0; c < d_in; ++c) e[c] = -x[c];
      for (int64_t i = token * k; i < (token + 1) * k; ++i) {
        const float h = a.codes[i];
        const float* column = decoder + a.indices[i] * d_in;
        if (h != 0.0f)
          for (int64_t c = 0; c < d_in; ++c) e[c] += h * column[c];
      }
      double loss = 0;
      for (int64_t c = 0; c < d_in; ++c) loss += static_cast<double>(e[c]) * e[c];
      losses[static_cast<size_t>(token)] = loss;
      if (a.residual)
        for (int64_t c = 0; c < d_in; ++c) a.residual[token * d_in + c] = -e[c];
      for (int64_t c = 0; c < d_in; ++c) e[c] *= twice;
      for (int64_t i = token * k; i < (token + 1) * k; ++i) {
        gradients[static_cast<size_t>(i)] = 0;
        if (a.codes[i] == 0.0f) continue;
        mark(a.fired, a.indices[i]);
        if (a.fixed_codes) continue;
        const float* column = decoder + a.indices[i] * d_in;
        Sum16 products;
        int64_t c = 0;
        for (; c + 16 <= d_in; c += 16) products.add_products(e + c, column + c);
        float part[16], gradient = 0;
        products.parts(part);
        for (int t = 0; t < 16; ++t) gradient += part[t];
        for (; c < d_in; ++c) gradient += e[c] * column[c];
        gradients[static_cast<size_t>(i)] = gradient;
      }
    }
  });
  *a.loss = 0;
  for (double loss : losses) *a.loss += loss;
  const int64_t stripes = std::min<int64_t>(std::max<int64_t>(1, d_in / 64), a.threads);
  for_each_part(a.threads, stripes, [&](int64_t stripe) {
    const int64_t first = d_in * stripe / stripes, last = d_in * (stripe + 1) / stripes;
    for (int64_t j = 0; j < n; ++j) {
      std::fill(a.grad_decoder + j * d_in + first, a.grad_decoder + j * d_in + last, 0.0f);
      if (a.encoder) std::fill(grad_encoder + j * d_in + first, grad_encoder + j * d_in + last, 0.0f);
    }
    std::fill(a.grad_center + first, a.grad_center + last, 0.0f);
    for (int64_t token = 0; token < batch; ++token) {
      const float* x = x_all.data() + token * d_in;
      const float* g = g_all.data() + token * d_in;
      for (int64_t c = first; c < last; ++c) a.grad_center[c] += g[c];
      for (int64_t i = token * k; i < (token + 1) * k; ++i) {
        const float h = a.codes[i], gradient = gradients[static_cast<size_t>(i)];
        if (h == 0.0f) continue;
        const int64_t at = a.indices[i] * d_in;
        for (int64_t c = first; c < last; ++c) a.grad_decoder[at + c] += h * g[c];
        if (a.fixed_codes) continue;
        for (int64_t c = first; c < last; ++c) grad_encoder[at + c] += gradient * x[c];
        for (int64_t c = first; c < last; ++c) a.grad_center[c] -= gradient * encoder[at + c];
      }
    }
  });
  if (!a.grad_bias) return;
  std::fill(a.grad_bias, a.grad_bias + n, 0.0f);
  for (int64_t i = 0; i < batch * k; ++i) a.grad_bias[a.indices[i]] += gradients[static_cast<size_t>(i)];
}

}  // namespace

void loss(const LossArguments& a) {
  if (!a.decoder.rows) return dense_loss(a);
  switch (a.decoder.degree) {
    case 4: return sparse_loss<4>(a);
    case 7: return sparse_loss<7>(a);
    case 8: return sparse_loss<8>(a);
    case 16: return sparse_loss<16>(a);
    default: return sparse_loss<0>(a);
  }
}

}  // namespace expander::ISA
