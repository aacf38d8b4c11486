// Block orthogonal matching pursuit in lockstep over a tile of tokens.
//
// Each stage scans all latents once against the residuals of the whole tile (no [batch, n], no per-token gathers), gives
// every token its best new columns, extends its least-squares problem by them (elimination.h), and moves the residual by
// the change of the coefficients. The scan costs n * degree / lanes.
#include <atomic>
#include <limits>

#include "scan.h"
#include "elimination.h"
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
    const int64_t stride = stride_for(a.k), size = Elimination::size_for(a.k);
    Pieces pieces;
    pieces.add(x_, width * w_.d_in);
    pieces.add(latents_, width * a.k);
    // With a single stage nothing outlives a token.
    const int64_t kept = a.block >= a.k ? 0 : size;
    pieces.add(reduced_, width * kept + size);
    pieces.add(inverse_, width * a.k);
    pieces.add(right_, width * stride);
    pieces.add(coefficients_, width * stride);
    pieces.add(before_, stride);
    work_.add_to(pieces, w_.d_in, w_.degree, a.k);
    pieces.place(scratch);
    work_.start(w_.d_in);
    for (int t = 0; t < width; ++t)
      support_[t] = {latents_ + t * a.k,  coefficients_ + t * stride, reduced_ + t * kept, inverse_ + t * a.k,
                     right_ + t * stride, 0, stride};
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
    Elimination& support = support_[t];
    rank_candidates(found.values, found.count, rank);
    const int64_t best = std::min(a_.block, found.count);
    const int64_t before = support.count;
    // The candidates in the order of their rank, behind the columns that are there.
    static thread_local std::vector<int32_t> picked;
    picked.assign(static_cast<size_t>(best), -1);
    for (int64_t i = 0; i < found.count; ++i)
      if (rank[i] < best) picked[static_cast<size_t>(rank[i])] = found.latents[i];
    int64_t total = before;
    for (int32_t j : picked)
      if (total < a_.k && !support.holds(j)) support.latents[total++] = j;
    if (total == before) return false;
    std::copy(support.coefficients, support.coefficients + before, before_);
    dependent += support.extend<D>(w_, work_, x_ + t * w_.d_in, total);
    std::fill(before_ + before, before_ + support.count, 0.0f);
    if (support.count == before) return false;
    support.solve();
    return true;
  }

  // Applies the change of the coefficients to the residual in the tile.
  void move_residual(float* residual, int t) {
    const Elimination& s = support_[t];
    const int64_t d = D::of(w_.degree);
    for (int64_t i = 0; i < s.count; ++i) {
      const float change = s.coefficients[i] - before_[i];
      if (change == 0.0f) continue;
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

  void write(int64_t token, const Elimination& s) const {
    write_codes(s.latents, s.coefficients, s.count, a_.k, a_.is_signed, a_.indices + token * a_.k,
                a_.values + token * a_.k);
  }

  const BlockOmpArguments& a_;
  const Dictionary& w_;
  TileScan<16, Q, D, absolute> scan_;
  float *x_, *reduced_, *inverse_, *right_, *coefficients_, *before_;
  SupportWork work_;
  int32_t* latents_;
  Elimination support_[width];
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

template <class D, bool absolute>
void run_width(const BlockOmpArguments& a) {
  if (a.x.batch <= 16 * a.threads) return run<1, D, absolute>(a);
  // Wide tiles scan faster, but between stages every token of the tile keeps its least-squares problem in the cache.
  if (a.block >= a.k && a.dictionary.d_in <= 3072) return run<4, D, absolute>(a);
  return run<2, D, absolute>(a);
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
