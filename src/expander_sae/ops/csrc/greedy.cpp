// Pursuits that pick one column at a time, token by token: OMP, matching pursuit, gradient pursuit; and least squares on
// a given support. The correlations with all columns are tracked (tracker.h), so that a pick costs what it changes
// instead of a scan of the dictionary.
#include <atomic>
#include <optional>

#include "support.h"
#include "team.h"
#include "tracker.h"

namespace expander::ISA {
namespace {

inline void subtract_column(const Dictionary& w, int64_t degree, int32_t j, float amount, float* residual) {
  const uint16_t* rows = w.rows + j * degree;
  const float* values = w.values + j * degree;
  for (int64_t e = 0; e < degree; ++e) residual[rows[e]] -= amount * values[e];
}

// What all methods keep for the token in hand.
template <class D>
struct Token {
  const GreedyArguments& a;
  const Dictionary& w;
  const int64_t degree;
  Support support;
  RowChains chains;
  float *x, *residual, *change, *image;
  float norm = 0;

  Token(const GreedyArguments& arguments, Scratch& scratch)
      : a(arguments), w(a.dictionary), degree(D::of(w.degree)) {
    const int64_t k = a.k;
    const bool factor = a.method == Greedy::omp || a.method == Greedy::refit;
    Pieces pieces;
    pieces.add(x, w.d_in);
    pieces.add(residual, w.d_in);
    pieces.add(image, w.d_in);
    pieces.add(change, k);
    pieces.add(support.latents, k);
    pieces.add(support.coefficients, k);
    pieces.add(support.projections, k);
    pieces.add(support.factor, factor ? k * (k + 1) / 2 : 0);
    pieces.add(chains.head, w.d_in);
    pieces.add(chains.next, k * degree);
    pieces.place(scratch);
    std::fill(image, image + w.d_in, 0.0f);
    chains.start(w.d_in);
  }

  void start(int64_t token) {
    read_token(a.x, w.d_in, token, x);
    norm = std::sqrt(dot(x, x, w.d_in));
    std::copy(x, x + w.d_in, residual);
    support.count = 0;
  }

  float projection(int32_t j) const {
    float sum = 0;
    for (int64_t e = 0; e < degree; ++e) sum = std::fma(w.values[j * degree + e], x[w.rows[j * degree + e]], sum);
    return sum;
  }

  bool add(int32_t j) { return append<D>(w, support, chains, j, projection(j)); }

  // The support of the warm start, columns that depend on earlier ones left out; how many were.
  int64_t warm(int64_t token) {
    int64_t dependent = 0;
    for (int64_t i = 0; i < a.warm; ++i) {
      const int64_t at = token * a.warm + i;
      const int32_t j = static_cast<int32_t>(a.warm_indices[at]);
      if (a.warm_codes[at] != 0.0f && support.count < a.k && !support.holds(j) && !add(j)) ++dependent;
    }
    solve();
    for (int64_t i = 0; i < support.count; ++i)
      subtract_column(w, degree, support.latents[i], support.coefficients[i], residual);
    return dependent;
  }

  void solve() {
    std::copy(support.projections, support.projections + support.count, support.coefficients);
    support.back_substitute(support.coefficients, support.count);
  }

  // The residual after the last column came in: L^T dz = (0, ..., 0, its projection).
  void move_residual() {
    const int64_t last = support.count - 1;
    const float* row = support.row(last);
    change[last] = support.projections[last] / row[last];
    for (int64_t i = 0; i < last; ++i) change[i] = -change[last] * row[i];
    support.back_substitute(change, last);
    for (int64_t i = 0; i <= last; ++i)
      if (change[i] != 0.0f) subtract_column(w, degree, support.latents[i], change[i], residual);
  }

  bool small_enough() const {
    if (a.tolerance <= 0) return false;
    return std::sqrt(dot(residual, residual, w.d_in)) <= a.tolerance * norm;
  }

  // The slot of column j, a new one if need be.
  int64_t slot_of(int32_t j) {
    int64_t slot = 0;
    while (slot < support.count && support.latents[slot] != j) ++slot;
    if (slot == support.count) {
      support.latents[slot] = j;
      support.coefficients[slot] = 0.0f;
      ++support.count;
    }
    return slot;
  }

  void write(int64_t token) const {
    write_codes(support.latents, support.coefficients, support.count, a.k, a.is_signed, a.indices + token * a.k,
                a.codes + token * a.k);
  }
};

// Returns whether the picked column depended on the support.
template <class D, class Track>
bool omp(Token<D>& token, Track& tracker) {
  bool dependent = false;
  while (token.support.count < token.a.k && !token.small_enough()) {
    const Best best = tracker.best(token.residual);
    if (best.latent < 0 || !(best.score > smallest_score * token.norm) || token.support.holds(best.latent)) break;
    dependent = !token.add(best.latent);
    if (dependent) break;
    token.move_residual();
    tracker.follow(token.residual);
  }
  token.solve();
  return dependent;
}

template <class D, class Track>
Best pick(Token<D>& token, Track& tracker) {
  Best best = tracker.best(token.residual);
  // A full support goes on among its own columns.
  if (token.support.count == token.a.k) best = tracker.best_of(token.support.latents, token.a.k, token.residual);
  if (!(best.score > smallest_score * token.norm)) best.latent = -1;
  return best;
}

template <class D, class Track>
void matching_pursuit(Token<D>& token, Track& tracker) {
  for (int64_t step = 0; step < token.a.steps && !token.small_enough(); ++step) {
    const Best best = pick(token, tracker);
    if (best.latent < 0) return;
    const float* values = token.w.values + best.latent * token.degree;
    float square = 0;
    for (int64_t e = 0; e < token.degree; ++e) square += values[e] * values[e];
    const float amount = best.correlation / square;
    token.support.coefficients[token.slot_of(best.latent)] += amount;
    subtract_column(token.w, token.degree, best.latent, amount, token.residual);
    tracker.follow(token.residual);
  }
}

template <class D, class Track>
void gradient_pursuit(Token<D>& token, Track& tracker) {
  Support& s = token.support;
  const Dictionary& w = token.w;
  const int64_t d = token.degree;
  for (int64_t step = 0; step < token.a.steps && !token.small_enough(); ++step) {
    const Best best = pick(token, tracker);
    if (best.latent < 0) return;
    token.slot_of(best.latent);
    float length = 0, image = 0;
    for (int64_t i = 0; i < s.count; ++i) {
      token.change[i] = tracker.correlation(s.latents[i], token.residual);
      length += token.change[i] * token.change[i];
      subtract_column(w, d, s.latents[i], -token.change[i], token.image);
    }
    for (int64_t i = 0; i < s.count; ++i)  // each touched row once: it is zero the second time
      for (int64_t e = 0; e < d; ++e) {
        float& value = token.image[w.rows[s.latents[i] * d + e]];
        image += value * value;
        value = 0.0f;
      }
    const float amount = length / image;
    for (int64_t i = 0; i < s.count; ++i) {
      s.coefficients[i] += amount * token.change[i];
      subtract_column(w, d, s.latents[i], amount * token.change[i], token.residual);
    }
    tracker.follow(token.residual);
  }
}

template <class D, bool absolute>
void run(const GreedyArguments& a, const RowLists& lists) {
  std::atomic<int64_t> dependent{0};
  for_each_part(a.threads, (a.x.batch + 15) / 16, [&](int64_t part) {
    static thread_local Scratch scratch, tracker_scratch;
    Token<D> token(a, scratch);
    Tracker<D, absolute> tracker(a.dictionary, lists, tracker_scratch);
    const int64_t first = part * 16;
    const int count = static_cast<int>(std::min<int64_t>(16, a.x.batch - first));
    tracker.load(a.x, first, count);
    for (int t = 0; t < count; ++t) {
      token.start(first + t);
      tracker.turn_to(t, token.x, token.norm);
      if (token.norm > 0) {
        switch (a.method) {
          case Greedy::matching: matching_pursuit(token, tracker); break;
          case Greedy::gradient: gradient_pursuit(token, tracker); break;
          default:
            if (a.warm) {
              dependent += token.warm(first + t);
              tracker.follow(token.residual);
            }
            dependent += omp(token, tracker);
            token.chains.remove(a.dictionary, token.support);
        }
      }
      token.write(first + t);
    }
  });
  *a.dependent = dependent.load();
}

template <class D>
void refit(const GreedyArguments& a) {
  std::atomic<int64_t> dependent{0};
  constexpr int64_t block = 16;
  for_each_part(a.threads, (a.x.batch + block - 1) / block, [&](int64_t part) {
    static thread_local Scratch scratch;
    Token<D> token(a, scratch);
    for (int64_t t = part * block; t < std::min(a.x.batch, (part + 1) * block); ++t) {
      token.start(t);
      dependent += token.warm(t);
      token.chains.remove(a.dictionary, token.support);
      token.write(t);
    }
  });
  *a.dependent = dependent.load();
}

}  // namespace

void greedy(const GreedyArguments& a) {
  with_degree(a.dictionary.degree, [&](auto degree) {
    using D = decltype(degree);
    if (a.method == Greedy::refit) return refit<D>(a);
    static thread_local Scratch scratch;
    const RowLists lists(a.dictionary, scratch);
    if (a.is_signed) return run<D, true>(a, lists);
    return run<D, false>(a, lists);
  });
}

}  // namespace expander::ISA
