// Pursuits that pick one column at a time, token by token: OMP, its non-negative kin, matching pursuit, gradient pursuit;
// and least squares on a given support. The correlations with all columns are tracked (tracker.h), so that a pick costs what it changes
// instead of a scan of the dictionary.
#include <atomic>

#include "exact.h"
#include "lockstep.h"
#include "team.h"
#include "tracker.h"

namespace expander::ISA {
namespace {

// What all methods keep for the token in hand.
template <class D>
struct Token {
  const GreedyArguments& a;
  const Dictionary& w;
  const int64_t degree;
  Support support;
  SupportWork work;
  float *x, *residual;
  float* change;  // [stride] coefficients on the way, or [d_in]
  int32_t* members;  // nonnegative: every column picked, in the fit or not
  int64_t picked = 0;
  float norm = 0;

  Token(const GreedyArguments& arguments, Scratch& scratch)
      : a(arguments), w(a.dictionary), degree(D::of(w.degree)) {
    const int64_t k = a.k;
    support.stride = stride_for(k);
    Pieces pieces;
    pieces.add(x, w.d_in);
    pieces.add(residual, w.d_in);
    pieces.add(change, std::max(support.stride, w.d_in));
    pieces.add(support.latents, k);
    pieces.add(support.coefficients, support.stride);
    pieces.add(members, k);
    const bool solves = a.method == Greedy::omp || a.method == Greedy::nonnegative;
    pieces.add(support.inverse, solves ? k * support.stride : 0);
    work.add_to(pieces, w.d_in, degree, k);
    pieces.place(scratch);
    work.start(w.d_in);
  }

  void start(int64_t token) {
    read_token(a.x, w.d_in, token, x);
    norm = std::sqrt(dot(x, x, w.d_in));
    std::copy(x, x + w.d_in, residual);
    support.clear();
  }

  // The support of the warm start, columns that depend on earlier ones left out; how many were.
  int64_t warm(int64_t token) {
    int64_t dependent = 0;
    for (int64_t i = 0; i < a.warm; ++i) {
      const int64_t at = token * a.warm + i;
      const int32_t j = static_cast<int32_t>(a.warm_indices[at]);
      if (a.warm_codes[at] == 0.0f || support.count == a.k || support.holds(j)) continue;
      if (!append<D>(w, support, work, j, correlation_with<D>(w, j, x))) ++dependent;
    }
    for (int64_t i = 0; i < support.count; ++i)
      subtract_column(w, degree, support.latents[i], support.coefficients[i], residual);
    return dependent;
  }

  // One step of iterative refinement: what rounding left in W_S^T r goes into the coefficients.
  void polish() {
    std::fill(change, change + support.stride, 0.0f);
    for (int64_t i = 0; i < support.count; ++i) change[i] = correlation_with<D>(w, support.latents[i], residual);
    add_solution(support, change, support.coefficients);
    work.unchain(w, support.latents, support.count);
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

  // For the methods that solve: what rounding made no fit is solved again, on the columns picked.
  void finish_fit() {
    if (is_fit<D>(w, support.latents, support.coefficients, support.count, x, norm, change)) return;
    if (a.method == Greedy::nonnegative) {
      support.count = picked;
      std::copy(members, members + picked, support.latents);
      ExactFit().solve_nonnegative(w, support.latents, support.count, x, support.coefficients);
    } else {
      ExactFit().solve(w, support.latents, support.count, x, support.coefficients);
    }
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
    dependent = !find_direction<D>(token.w, token.support, token.work, best.latent);
    if (dependent) break;
    const float amount = best.correlation / token.work.distance;
    for (int64_t i = 0; i < token.support.count; ++i)
      if (token.work.along[i] != 0.0f)
        subtract_column(token.w, token.degree, token.support.latents[i], -amount * token.work.along[i], token.residual);
    subtract_column(token.w, token.degree, best.latent, amount, token.residual);
    take_in(token.w, token.support, token.work, best.latent, amount);
    tracker.follow(token.residual);
  }
  token.polish();
  token.finish_fit();
  return dependent;
}

// residual = x - W z with the coefficients `change`.
template <class D>
void reset_residual(Token<D>& token) {
  std::copy(token.x, token.x + token.w.d_in, token.residual);
  for (int64_t i = 0; i < token.support.count; ++i)
    subtract_column(token.w, token.degree, token.support.latents[i], token.change[i], token.residual);
}

// Lawson and Hanson's inner loop: from the feasible `change` towards the fit on the support, as far as z >= 0 allows,
// columns that reach zero leaving, until the fit is positive. True if column j itself left.
template <class D>
bool walk_to_fit(Token<D>& token, int32_t j) {
  Support& s = token.support;
  bool refused = false;
  while (s.count) {
    float fraction = 1.0f;
    bool blocked = false;
    for (int64_t i = 0; i < s.count; ++i)
      if (s.coefficients[i] <= 0.0f) {
        blocked = true;
        fraction = std::min(fraction, token.change[i] / (token.change[i] - s.coefficients[i]));
      }
    if (!blocked) break;
    if (!(fraction >= 0.0f)) fraction = 0.0f;  // 0 / 0: it entered at zero and stays there
    token.work.unchain(token.w, s.latents, s.count);
    for (int64_t i = s.count - 1; i >= 0; --i) {
      const bool leaves =
          s.coefficients[i] <= 0.0f &&
          !(token.change[i] / (token.change[i] - s.coefficients[i]) > fraction);
      token.change[i] += fraction * (s.coefficients[i] - token.change[i]);
      if (leaves) token.change[i] = -1.0f;
    }
    for (int64_t i = s.count - 1; i >= 0; --i)
      if (token.change[i] < 0.0f) {
        refused |= s.latents[i] == j;
        token.change[i] = token.change[s.count - 1];
        drop(s, i);
      }
    token.work.chain(token.w, s.latents, 0, s.count);
  }
  std::copy(s.coefficients, s.coefficients + s.count, token.change);
  return refused;
}

// Adds j to the fit and makes the fit non-negative again; false where j depends on it.
template <class D>
bool enter(Token<D>& token, int32_t j, bool* refused) {
  Support& s = token.support;
  if (!append<D>(token.w, s, token.work, j, correlation_with<D>(token.w, j, token.x))) return false;
  token.change[s.count - 1] = 0.0f;
  *refused = walk_to_fit(token, j);
  reset_residual(token);
  return true;
}

template <class D, class Track>
bool nonnegative_omp(Token<D>& token, Track& tracker) {
  Support& s = token.support;
  static thread_local std::vector<bool> out;  // members that entered and left at once: their gradient was rounding
  bool dependent = false;
  token.picked = 0;
  while (token.picked < token.a.k && !token.small_enough()) {
    const Best best = tracker.best(token.residual);
    if (best.latent < 0 || !(best.score > smallest_score * token.norm)) break;
    if (std::find(token.members, token.members + token.picked, best.latent) != token.members + token.picked) break;
    bool refused = false;
    dependent = !enter(token, best.latent, &refused);
    if (dependent) break;
    token.members[token.picked++] = best.latent;
    out.assign(static_cast<size_t>(token.picked), false);
    out[static_cast<size_t>(token.picked - 1)] = refused;
    for (int64_t round = 0; round < 3 * token.picked; ++round) {  // members that left may return
      float most = 1e-5f * token.norm;
      int64_t at = -1;
      for (int64_t i = 0; i < token.picked; ++i) {
        if (out[static_cast<size_t>(i)] || s.holds(token.members[i])) continue;
        const float value = correlation_with<D>(token.w, token.members[i], token.residual);
        if (value > most) most = value, at = i;
      }
      if (at < 0) break;
      if (!enter(token, token.members[at], &refused)) refused = true;
      out[static_cast<size_t>(at)] = refused;
    }
    tracker.follow(token.residual);
  }
  token.polish();
  for (int64_t i = 0; i < s.count; ++i) s.coefficients[i] = std::max(s.coefficients[i], 0.0f);
  token.finish_fit();
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
    tracker.follow(token.residual, token.w.rows + best.latent * token.degree, token.degree);
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
      token.change[i] = correlation_with<D>(w, s.latents[i], token.residual);
      length += token.change[i] * token.change[i];
      subtract_column(w, d, s.latents[i], -token.change[i], token.work.image);
    }
    for (int64_t i = 0; i < s.count; ++i)  // each touched row once: it is zero the second time
      for (int64_t e = 0; e < d; ++e) {
        float& value = token.work.image[w.rows[s.latents[i] * d + e]];
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
          case Greedy::nonnegative: dependent += nonnegative_omp(token, tracker); break;
          default:
            if (a.warm) {
              dependent += token.warm(first + t);
              tracker.follow(token.residual);
            }
            dependent += omp(token, tracker);
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
  constexpr int lanes = Lockstep::lanes;
  for_each_part(a.threads, (a.x.batch + lanes - 1) / lanes, [&](int64_t part) {
    static thread_local Scratch scratch;
    const Dictionary& w = a.dictionary;
    Lockstep fit;
    SupportWork work;
    float *x, *own, *left;
    Pieces pieces;
    pieces.add(x, lanes * w.d_in);
    pieces.add(left, w.d_in);
    pieces.add(own, a.k);
    pieces.add(fit.latents, lanes * a.k);
    fit.add_to(pieces, a.k, w);
    work.add_to(pieces, w.d_in, w.degree, a.k);
    pieces.place(scratch);
    work.start(w.d_in);
    std::fill(fit.latents, fit.latents + lanes * a.k, -1);
    fit.prepare(a.k);
    const int64_t first = part * lanes;
    const int count = static_cast<int>(std::min<int64_t>(lanes, a.x.batch - first));
    for (int lane = 0; lane < count; ++lane) {
      read_token(a.x, w.d_in, first + lane, x + lane * w.d_in);
      int64_t total = 0;
      for (int64_t i = (first + lane) * a.warm; i < (first + lane + 1) * a.warm; ++i)
        if (a.warm_codes[i] != 0.0f) fit.latent(lane, total++) = static_cast<int32_t>(a.warm_indices[i]);
      fit.describe<D>(w, work, lane, x + lane * w.d_in, a.k);
    }
    fit.extend(a.k);
    fit.solve();
    for (int lane = 0; lane < count; ++lane) {
      for (int64_t i = 0; i < a.k; ++i) {
        own[i] = fit.coefficient(lane, i);
        dependent += fit.latent(lane, i) >= 0 && fit.dead(lane, i);
      }
      const float* token = x + lane * w.d_in;
      if (!is_fit<D>(w, fit.latents + lane * a.k, own, a.k, token, std::sqrt(dot(token, token, w.d_in)), left))
        ExactFit().solve(w, fit.latents + lane * a.k, a.k, token, own);
      write_codes(fit.latents + lane * a.k, own, a.k, a.k, a.is_signed, a.indices + (first + lane) * a.k,
                  a.codes + (first + lane) * a.k);
    }
  });
  *a.dependent = dependent.load();
}

}  // namespace

void greedy(const GreedyArguments& a) {
  with_degree(a.dictionary, [&](auto degree) {
    using D = decltype(degree);
    if (a.method == Greedy::refit) return refit<D>(a);
    static thread_local Scratch scratch;
    const int64_t nobody = Tracker<D, true>::padded(a.dictionary.n_latents);
    const RowLists lists(a.dictionary, static_cast<int32_t>(nobody), scratch);
    if (a.is_signed && a.method != Greedy::nonnegative) return run<D, true>(a, lists);
    return run<D, false>(a, lists);
  });
}

}  // namespace expander::ISA
