// W^T (x - center) in full, and the Gram matrix of chosen supports: what pursuit and the certificates read.
#include <algorithm>

#include "team.h"
#include "tile.h"

namespace expander::ISA {
namespace {

template <class D>
void run_degree(const CorrelateArguments& a) {
  constexpr int width = 16;
  const Dictionary& w = a.dictionary;
  for_each_part(a.threads, (a.x.batch + width - 1) / width, [&](int64_t part) {
    static thread_local Scratch scratch;
    Native* tile;
    float* token;
    Pieces pieces;
    pieces.add(tile, w.d_in * (width / native_lanes));
    pieces.add(token, w.d_in);
    pieces.place(scratch);
    const int64_t start = part * width;
    const int count = static_cast<int>(std::min<int64_t>(width, a.x.batch - start));
    load_tile<width>(a.x, w.d_in, start, count, reinterpret_cast<float*>(tile), token);
    for (int64_t j = 0; j < w.n_latents; j += native_lanes) {
      const size_t size = static_cast<size_t>(std::min<int64_t>(native_lanes, w.n_latents - j));
      correlate_sixteen<D>(w, tile, j, w.n_latents, [&](int t, const Native& found) {
        if (t >= count) return;
        float* to = a.out + (start + t) * w.n_latents + j;
        if (size == native_lanes)
          store_unaligned(to, found);
        else
          std::memcpy(to, &found, size * 4);
      });
    }
  });
}

}  // namespace

void correlate(const CorrelateArguments& a) {
  with_degree(a.dictionary, [&](auto degree) { run_degree<decltype(degree)>(a); });
}

void support_gram(const SupportGramArguments& a) {
  const Dictionary& w = a.dictionary;
  const int64_t k = a.k, d = w.degree;
  for_each_part(a.threads, a.batch, [&](int64_t token) {
    static thread_local Scratch scratch;
    float* spread = static_cast<float*>(scratch.reserve(static_cast<size_t>(w.d_in) * 4));
    std::fill(spread, spread + w.d_in, 0.0f);
    const int64_t* support = a.indices + token * k;
    float* out = a.out + token * k * k;
    for (int64_t i = 0; i < k; ++i) {
      const uint16_t* rows = w.rows + support[i] * d;
      const float* values = w.values + support[i] * d;
      for (int64_t e = 0; e < d; ++e) spread[rows[e]] = values[e];
      for (int64_t l = 0; l <= i; ++l) {
        const uint16_t* other = w.rows + support[l] * d;
        const float* other_values = w.values + support[l] * d;
        float gram = 0;
        for (int64_t e = 0; e < d; ++e) gram += other_values[e] * spread[other[e]];
        out[i * k + l] = out[l * k + i] = gram;
      }
      for (int64_t e = 0; e < d; ++e) spread[rows[e]] = 0.0f;
    }
  });
}

}  // namespace expander::ISA
