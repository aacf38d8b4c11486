// Block orthogonal matching pursuit in lockstep over a tile of tokens.
//
// Each stage scans all latents once against the residuals of the whole tile (no [batch, n], no per-token gathers), gives
// every token its best new columns, extends its least-squares problem by them, drops the spare ones, and moves the
// residual to the new coefficients. The scan costs n * degree / lanes. A support that only grows is kept as a Gaussian
// elimination (elimination.h); one that drops columns as the explicit inverse (support.h).
#include <atomic>
#include <limits>
#include <type_traits>

#include "scan.h"
#include "elimination.h"
#include "team.h"

namespace expander::ISA {
namespace {

template <int Q, class D, bool absolute, bool backward>
class Pursuit {
 public:
  static constexpr int width = 16 * Q;
  using Fit = std::conditional_t<backward, Support, Elimination>;

  Pursuit(const BlockOmpArguments& a, Scratch& scratch, Scratch& scan_scratch)
      : a_(a), w_(a.dictionary), capacity_(a.k + a.spare), picks_(a.block + a.spare),
        scan_(w_, nullptr, picks_, picks_ == 1 ? SamplePlan{} : plan_sample(w_.n_latents, picks_), scan_scratch) {
    const int64_t stride = stride_for(capacity_);
    const int64_t size = backward ? capacity_ * stride : Elimination::size_for(capacity_);
    Pieces pieces;
    pieces.add(x_, width * w_.d_in);
    pieces.add(latents_, width * capacity_);
    // With a single stage nothing outlives a token.
    const int64_t kept = a.block >= a.k && !backward ? 0 : size;
    pieces.add(matrix_, width * kept + size);
    pieces.add(inverse_, backward ? 0 : width * capacity_);
    pieces.add(right_, backward ? 0 : width * stride);
    pieces.add(coefficients_, width * stride);
    pieces.add(change_, stride);
    pieces.add(picked_, picks_);
    work_.add_to(pieces, w_.d_in, w_.degree, capacity_);
    pieces.place(scratch);
    work_.start(w_.d_in);
    for (int t = 0; t < width; ++t) {
      Fit& fit = fit_[t];
      fit.latents = latents_ + t * capacity_;
      fit.coefficients = coefficients_ + t * stride;
      fit.stride = stride;
      if constexpr (backward) {
        fit.inverse = matrix_ + t * kept;
      } else {
        fit.reduced = matrix_ + t * kept;
        fit.inverse = inverse_ + t * capacity_;
        fit.right = right_ + t * stride;
      }
    }
  }

  // Codes of `count` tokens; how many picked columns were skipped as dependent.
  int64_t run(int64_t start, int count) {
    float* residual = reinterpret_cast<float*>(scan_.tile);
    load_tile<width>(a_.x, w_.d_in, start, count, residual, scan_.token);
    int64_t dependent = 0;
    for (int t = 0; t < width; ++t) {
      scan_.floor[t] = std::numeric_limits<float>::infinity();
      if (t >= count) continue;
      float* x = x_ + t * w_.d_in;
      read_token(a_.x, w_.d_in, start + t, x);
      norm_[t] = std::sqrt(dot(x, x, w_.d_in));
      fit_[t].count = 0;
      if constexpr (backward) fit_[t].clear();
      if (norm_[t] > 0) scan_.floor[t] = smallest_score * norm_[t];
    }
    bool going = true;
    while (going) {
      if (picks_ == 1)
        scan_.scan_best(count);
      else
        scan_.scan(count, 0, w_.n_latents);
      going = false;
      for (int t = 0; t < count; ++t) {
        if (!(scan_.floor[t] < std::numeric_limits<float>::infinity())) continue;
        const bool more = stage(residual, t, dependent);
        if (!more || fit_[t].count == a_.k || small_enough(residual, t))
          scan_.floor[t] = std::numeric_limits<float>::infinity();
        else
          going = true;
      }
    }
    for (int t = 0; t < count; ++t) write(residual, start + t, t);
    return dependent;
  }

 private:
  // Picks this stage's columns, refits, drops the spare ones, and moves the residual; false where nothing new came.
  bool stage(float* residual, int t, int64_t& dependent) {
    Fit& fit = fit_[t];
    const int64_t fresh = order_picks(t);
    if (fresh == 0) return false;
    const int64_t before = fit.count;
    const float* x = x_ + t * w_.d_in;
    if constexpr (backward) {
      add_columns(residual, t, fit.coefficients);  // slots move: take all out, put all back
      work_.chain(w_, fit.latents, 0, before);
      for (int64_t i = 0; i < fresh; ++i)
        if (!append<D>(w_, fit, work_, picked_[i], correlation_with<D>(w_, picked_[i], x))) ++dependent;
      work_.unchain(w_, fit.latents, fit.count);
      const bool more = fit.count > before;
      while (fit.count > std::min(before + a_.block, a_.k)) drop_weakest(fit);
      for (int64_t i = 0; i < fit.count; ++i) change_[i] = -fit.coefficients[i];
      add_columns(residual, t, change_);
      return more;
    } else {
      std::copy(fit.coefficients, fit.coefficients + before, change_);
      std::copy(picked_, picked_ + fresh, fit.latents + before);
      dependent += fit.template extend<D>(w_, work_, x, before + fresh);
      if (fit.count == before) return false;
      fit.solve();
      std::fill(change_ + before, change_ + fit.count, 0.0f);
      for (int64_t i = 0; i < fit.count; ++i) change_[i] -= fit.coefficients[i];
      add_columns(residual, t, change_);
      return true;
    }
  }

  // Candidates that are not in the support yet, best first, as many as fit: how many.
  int64_t order_picks(int t) {
    const Candidates& found = scan_.found[t];
    const Fit& fit = fit_[t];
    rank_candidates(found.values, found.count, scan_.rank);
    const int64_t best = std::min(picks_, found.count);
    std::fill(picked_, picked_ + best, -1);
    for (int64_t i = 0; i < found.count; ++i)
      if (scan_.rank[i] < best) picked_[scan_.rank[i]] = found.latents[i];
    int64_t fresh = 0;
    for (int64_t i = 0; i < best; ++i)
      if (fit.count + fresh < capacity_ && !fit.holds(picked_[i])) picked_[fresh++] = picked_[i];
    return fresh;
  }

  // residual += W_S amounts
  void add_columns(float* residual, int t, const float* amounts) {
    const Fit& fit = fit_[t];
    const int64_t d = D::of(w_.degree);
    for (int64_t i = 0; i < fit.count; ++i) {
      if (amounts[i] == 0.0f) continue;
      const uint16_t* rows = w_.rows + fit.latents[i] * d;
      const float* values = w_.values + fit.latents[i] * d;
      for (int64_t e = 0; e < d; ++e) residual[static_cast<int64_t>(rows[e]) * width + t] += amounts[i] * values[e];
    }
  }

  bool small_enough(const float* residual, int t) const {
    if (a_.tolerance <= 0) return false;
    double energy = 0;
    for (int64_t i = 0; i < w_.d_in; ++i) energy += static_cast<double>(residual[i * width + t]) * residual[i * width + t];
    return energy <= static_cast<double>(a_.tolerance) * a_.tolerance * norm_[t] * norm_[t];
  }

  void write(const float* residual, int64_t token, int t) {
    Fit& fit = fit_[t];
    if constexpr (backward) {
      // One step of iterative refinement takes what rounding left in W_S^T r.
      const int64_t d = D::of(w_.degree);
      std::fill(work_.gram, work_.gram + fit.stride, 0.0f);
      for (int64_t i = 0; i < fit.count; ++i)
        for (int64_t e = fit.latents[i] * d; e < (fit.latents[i] + 1) * d; ++e)
          work_.gram[i] += w_.values[e] * residual[static_cast<int64_t>(w_.rows[e]) * width + t];
      add_solution(fit, work_.gram, fit.coefficients);
    }
    write_codes(fit.latents, fit.coefficients, fit.count, a_.k, a_.is_signed, a_.indices + token * a_.k,
                a_.values + token * a_.k);
  }

  const BlockOmpArguments& a_;
  const Dictionary& w_;
  const int64_t capacity_, picks_;
  TileScan<16, Q, D, absolute> scan_;
  float *x_, *matrix_, *inverse_, *right_, *coefficients_, *change_;
  int32_t *latents_, *picked_;
  SupportWork work_;
  Fit fit_[width];
  float norm_[width];
};

template <int Q, class D, bool absolute, bool backward>
void run(const BlockOmpArguments& a) {
  constexpr int width = 16 * Q;
  std::atomic<int64_t> dependent{0};
  for_each_part(a.threads, (a.x.batch + width - 1) / width, [&](int64_t part) {
    static thread_local Scratch scratch, scan_scratch;
    Pursuit<Q, D, absolute, backward> pursuit(a, scratch, scan_scratch);
    const int64_t start = part * width;
    dependent += pursuit.run(start, static_cast<int>(std::min<int64_t>(width, a.x.batch - start)));
  });
  *a.dependent = dependent.load();
}

template <class D, bool absolute>
void run_width(const BlockOmpArguments& a) {
  if (a.spare) {
    if (a.x.batch <= 16 * a.threads) return run<1, D, absolute, true>(a);
    return run<2, D, absolute, true>(a);
  }
  if (a.x.batch <= 16 * a.threads) return run<1, D, absolute, false>(a);
  // Wide tiles scan faster, but between stages every token of the tile keeps its least-squares problem in the cache.
  if (a.block >= a.k && a.dictionary.d_in <= 3072) return run<4, D, absolute, false>(a);
  return run<2, D, absolute, false>(a);
}

template <class D>
void run_degree(const BlockOmpArguments& a) {
  if (a.is_signed) return run_width<D, true>(a);
  return run_width<D, false>(a);
}

}  // namespace

void block_omp(const BlockOmpArguments& a) {
  with_degree(a.dictionary.degree, [&](auto degree) { run_degree<decltype(degree)>(a); });
}

}  // namespace expander::ISA
