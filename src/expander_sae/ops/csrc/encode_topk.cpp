// Fused gather-reduce + exact TopK.
//
// Tiles of tokens run over all latents (scan.h); what is left per token is ranked exactly. No [batch, n] anywhere.
#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "team.h"
#include "scan.h"

namespace expander::ISA {
namespace {

// What a pre-activation must exceed to become a code.
inline float floor_of(const EncodeArguments& a) {
  return a.is_signed ? -std::numeric_limits<float>::infinity() : 0.0f;
}

// Writes the best k of `found`, sorted; fills up with zero codes on the lowest free latents.
void finish(const EncodeArguments& a, const Candidates& found, int64_t token, int32_t* rank) {
  int64_t* indices = a.indices + token * a.k;
  float* values = a.values + token * a.k;
  rank_candidates(found.values, found.count, rank);
  for (int64_t i = 0; i < found.count; ++i)
    if (rank[i] < a.k) {
      indices[rank[i]] = found.latents[i];
      values[rank[i]] = found.values[i];
    }
  int64_t filled = found.count, latent = 0;
  while (filled < a.k) {
    if (std::find(indices, indices + found.count, latent) == indices + found.count) {
      indices[filled] = latent;
      values[filled++] = 0.0f;
    }
    ++latent;
  }
}

// What the chunks of the latents found for each token, merged in the order of the latents.
class Partial {
 public:
  Partial(const EncodeArguments& a, int64_t chunks) : a_(a), chunks_(chunks), slots_(slots_for(a.k)) {
    Pieces pieces;
    pieces.add(values_, a.x.batch * chunks * slots_ + 16);
    pieces.add(latents_, a.x.batch * chunks * slots_);
    pieces.add(counts_, a.x.batch * chunks);
    pieces.add(rank_, chunks * slots_);
    pieces.place(memory_);
  }
  Candidates at(int64_t token, int64_t chunk) {
    const int64_t slot = (token * chunks_ + chunk) * slots_;
    return {values_ + slot, latents_ + slot, 0};
  }
  void put(int64_t token, int64_t chunk, const Candidates& found) {
    const Candidates to = at(token, chunk);
    if (to.values != found.values) {
      std::copy(found.values, found.values + found.count, to.values);
      std::copy(found.latents, found.latents + found.count, to.latents);
    }
    counts_[token * chunks_ + chunk] = found.count;
  }
  void finish_token(int64_t token) {
    Candidates all = at(token, 0);
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      const Candidates part = at(token, chunk);
      const int64_t count = counts_[token * chunks_ + chunk];
      std::copy(part.values, part.values + count, all.values + all.count);
      std::copy(part.latents, part.latents + count, all.latents + all.count);
      all.count += count;
    }
    finish(a_, all, token, rank_);
  }

 private:
  const EncodeArguments& a_;
  int64_t chunks_, slots_;
  Scratch memory_;
  float* values_;
  int32_t* latents_;
  int64_t* counts_;
  int32_t* rank_;
};

template <int width>
void run(const EncodeArguments& a) {
  const int64_t n = a.dictionary.n_latents;
  const int64_t tiles = (a.x.batch + width - 1) / width;
  // Few tiles: the latents are cut into one chunk per thread as well, and the chunks merged afterwards.
  const int64_t chunks = tiles >= a.threads ? 1 : std::min<int64_t>(a.threads, std::max<int64_t>(1, n / 256));
  std::optional<Partial> partial;
  if (chunks > 1) partial.emplace(a, chunks);
  for_each_part(a.threads, tiles * chunks, [&](int64_t part) {
    static thread_local Scratch scratch;
    const int64_t tile = part / chunks, chunk = part % chunks;
    const int64_t first = n * chunk / chunks, last = n * (chunk + 1) / chunks;
    TileScan<width> job(a.dictionary, a.bias, false, a.k, plan_sample(last - first, a.k), scratch);
    const int64_t start = tile * width;
    const int count = static_cast<int>(std::min<int64_t>(width, a.x.batch - start));
    load_tile<width>(a.x, a.dictionary.d_in, start, count, reinterpret_cast<float*>(job.tile), job.token);
    for (int t = 0; t < width; ++t) job.floor[t] = t < count ? floor_of(a) : std::numeric_limits<float>::infinity();
    job.scan(count, first, last);
    for (int t = 0; t < count; ++t) {
      if (partial)
        partial->put(start + t, chunk, job.found[t]);
      else
        finish(a, job.found[t], start + t, job.rank);
    }
  });
  if (partial)
    for (int64_t token = 0; token < a.x.batch; ++token) partial->finish_token(token);
}

// One token: its activations fit the first-level cache, so plain scalar gathers win over a padded tile.
void run_single(const EncodeArguments& a) {
  const int64_t n = a.dictionary.n_latents, d_in = a.dictionary.d_in;
  // Waking a thread takes as long as some hundred thousand multiply-adds.
  const int64_t chunks = std::clamp<int64_t>(n * a.dictionary.degree / 100000, 1, a.threads);
  Partial partial(a, chunks);
  for (int64_t token = 0; token < a.x.batch; ++token) {
    for_each_part(a.threads, chunks, [&](int64_t chunk) {
      static thread_local Scratch scratch;
      float* x;
      int32_t* rank;
      Pieces pieces;
      pieces.add(x, d_in);
      pieces.add(rank, slots_for(a.k));
      pieces.place(scratch);
      read_token(a.x, d_in, token, x);
      Candidates found = partial.at(token, chunk);
      scan_token(a.dictionary, a.bias, false, x, n * chunk / chunks, n * (chunk + 1) / chunks, floor_of(a), a.k, found, rank);
      partial.put(token, chunk, found);
    });
    partial.finish_token(token);
  }
}

}  // namespace

void encode_topk(const EncodeArguments& a) {
  // The tile, [d_in, tile] floats, has to stay in the second-level cache beside the dictionary.
  const int tile = a.tile ? a.tile
                   : a.x.batch < 3   ? 1
                   : a.x.batch <= 8  ? 8
                   : a.x.batch <= 16 ? 16
                   : a.x.batch <= 32 ? 32
                   : a.dictionary.d_in <= 3072 ? 64
                   : a.dictionary.d_in <= 6144 ? 32 : 16;
  switch (std::min(tile, largest_tile)) {
    case 1: return run_single(a);
    case 8: return run<8>(a);
    case 16: return run<16>(a);
    case 32: return run<32>(a);
    default: return run<largest_tile>(a);
  }
}

}  // namespace expander::ISA
