// Block orthogonal matching pursuit in lockstep over a tile of tokens.
//
// Each stage scans all latents once against the residuals of the whole tile (no [batch, n], no per-token gathers), gives
// every token its best new columns, extends the token's Cholesky factor of the support's Gram matrix by one row each, and
// moves the residual by the change of the coefficients. A column costs O(t * degree) for its Gram row and O(t^2) for the
// triangular solves at support size t; the scan costs n * degree / lanes.
#include <atomic>
#include <limits>

#include "scan.h"
#include "support.h"
#include "team.h"

namespace expander::ISA {
namespace {

template <int Q, class D, bool absolute>
class Pursuit {
 public:
  static constexpr int width = 16 * Q;

  Pursuit(const BlockOmpArguments& a, Scratch& scratch, Scratch& scan_scratch)
      : a_(a), w_(a.dictionary),
        scan_(w_, nullptr, a.block, a.block == 1 ? SamplePlan{} : plan_sample(w_.n_latents, a.block), scan_scratch) {
    const int64_t triangle = a.k * (a.k + 1) / 2;
    Pieces pieces;
    pieces.add(x_, width * w_.d_in);
    pieces.add(latents_, width * a.k);
    pieces.add(factor_, width * triangle);
    pieces.add(projections_, width * a.k);
    pieces.add(coefficients_, width * a.k);
    pieces.add(solution_, a.k);
    pieces.add(chains_.head, w_.d_in);
    pieces.add(chains_.next, a.k * w_.degree);
    pieces.place(scratch);
    chains_.start(w_.d_in);
    for (int t = 0; t < width; ++t)
      support_[t] = {latents_ + t * a.k, factor_ + t * triangle, projections_ + t * a.k, coefficients_ + t * a.k, 0};
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
      support_[t].count = 0;
      if (norm_[t] > 0) scan_.floor[t] = smallest_score * norm_[t];
    }
    for (bool going = true; going;) {
      if (a_.block == 1)
        scan_.scan_best(count);
      else
        scan_.scan(count, 0, w_.n_latents);
      going = false;
      for (int t = 0; t < count; ++t) {
        if (!(scan_.floor[t] < std::numeric_limits<float>::infinity())) continue;
        const bool more = extend(scan_.found[t], scan_.rank, t, dependent);
        if (more) move_residual(residual, t);
        if (!more || support_[t].count == a_.k || small_enough(residual, t))
          scan_.floor[t] = std::numeric_limits<float>::infinity();
        else
          going = true;
      }
    }
    for (int t = 0; t < count; ++t) write(start + t, support_[t]);
    return dependent;
  }

 private:
  // Appends this stage's columns, best first; false where none could be.
  bool extend(const Candidates& found, int32_t* rank, int t, int64_t& dependent) {
    Support& support = support_[t];
    rank_candidates(found.values, found.count, rank);
    const int64_t best = std::min(a_.block, found.count);
    const int64_t before = support.count;
    chains_.add(w_, support);
    for (int64_t wanted = 0; wanted < best && support.count < a_.k; ++wanted) {
      const int64_t i = std::find(rank, rank + found.count, static_cast<int32_t>(wanted)) - rank;
      const int32_t j = found.latents[i];
      if (support.holds(j)) continue;
      const float target = pre_activation<D>(w_, nullptr, x_ + t * w_.d_in, j);
      if (!append<D>(w_, support, chains_, j, target)) ++dependent;
    }
    chains_.remove(w_, support);
    return support.count > before;
  }

  // Solves L^T z = projections and applies the change of z to the residual in the tile.
  void move_residual(float* residual, int t) {
    Support& s = support_[t];
    std::copy(s.projections, s.projections + s.count, solution_);
    s.back_substitute(solution_, s.count);
    const int64_t d = D::of(w_.degree);
    for (int64_t i = 0; i < s.count; ++i) {
      const float change = solution_[i] - s.coefficients[i];
      s.coefficients[i] = solution_[i];
      const uint16_t* rows = w_.rows + s.latents[i] * d;
      const float* values = w_.values + s.latents[i] * d;
      for (int64_t e = 0; e < d; ++e) residual[static_cast<int64_t>(rows[e]) * width + t] -= change * values[e];
    }
  }

  bool small_enough(const float* residual, int t) const {
    if (a_.tolerance <= 0) return false;
    double energy = 0;
    for (int64_t i = 0; i < w_.d_in; ++i) energy += static_cast<double>(residual[i * width + t]) * residual[i * width + t];
    return energy <= static_cast<double>(a_.tolerance) * a_.tolerance * norm_[t] * norm_[t];
  }

  void write(int64_t token, const Support& s) const {
    write_codes(s.latents, s.coefficients, s.count, a_.k, a_.is_signed, a_.indices + token * a_.k,
                a_.values + token * a_.k);
  }

  const BlockOmpArguments& a_;
  const Dictionary& w_;
  TileScan<16, Q, D, absolute> scan_;
  float *x_, *factor_, *projections_, *coefficients_, *solution_;
  RowChains chains_;
  int32_t* latents_;
  Support support_[width];
  float norm_[width];
};

template <int Q, class D, bool absolute>
void run(const BlockOmpArguments& a) {
  constexpr int width = 16 * Q;
  std::atomic<int64_t> dependent{0};
  for_each_part(a.threads, (a.x.batch + width - 1) / width, [&](int64_t part) {
    static thread_local Scratch scratch, scan_scratch;
    Pursuit<Q, D, absolute> pursuit(a, scratch, scan_scratch);
    const int64_t start = part * width;
    dependent += pursuit.run(start, static_cast<int>(std::min<int64_t>(width, a.x.batch - start)));
  });
  *a.dependent = dependent.load();
}

template <class D>
void run_degree(const BlockOmpArguments& a) {
  const bool few = a.x.batch <= 16 * a.threads;
  if (a.is_signed) return few ? run<1, D, true>(a) : run<2, D, true>(a);
  return few ? run<1, D, false>(a) : run<2, D, false>(a);
}

}  // namespace

void block_omp(const BlockOmpArguments& a) {
  with_degree(a.dictionary.degree, [&](auto degree) { run_degree<decltype(degree)>(a); });
}

}  // namespace expander::ISA
