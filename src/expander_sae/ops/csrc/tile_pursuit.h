// What both ways of block OMP share: a tile of tokens, the scan for new columns, and the codes at the end.
//
// Each stage scans all latents once against the residuals of the whole tile (no [batch, n], no per-token gathers), gives
// every token its best new columns, extends its least-squares problem by them, drops the spare ones, and moves the
// residual to the new coefficients. The scan costs n * degree / lanes, and least squares runs a vector of tokens at a time
// (lockstep.h).
#pragma once
#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "exact.h"
#include "lockstep.h"
#include "scan.h"
#include "team.h"

namespace expander::ISA {

using D = Degree<0>;  // what is compiled for a degree is the scan

// What both ways of fitting share: the tile, the scan, and which tokens go on.
template <int width_>
class TilePursuit {
 public:
  static constexpr int width = width_, Q = width / Lockstep::lanes;  // groups of tokens in lockstep

 protected:
  TilePursuit(const BlockOmpArguments& a, Scratch& scan_scratch)
      : a_(a), w_(a.dictionary), picks_(a.block + a.spare),
        scan_(w_, nullptr, a.is_signed, picks_, picks_ == 1 ? SamplePlan{} : plan_sample(w_.n_latents, picks_), scan_scratch) {}

  void add_to(Pieces& pieces, int64_t slots) {
    pieces.add(x_, width * w_.d_in);
    pieces.add(picked_, picks_);
    pieces.add(left_, w_.d_in);
    work_.add_to(pieces, w_.d_in, w_.degree, slots);
  }

  void load(int64_t start, int count) {
    residual_ = reinterpret_cast<float*>(scan_.tile);
    load_tile<width>(a_.x, w_.d_in, start, count, residual_, scan_.token);
    for (int t = 0; t < width; ++t) {
      stop(t);
      held_[t] = 0;
      if (t >= count) continue;
      float* x = x_ + t * w_.d_in;
      read_token(a_.x, w_.d_in, start + t, x);
      norm_[t] = std::sqrt(dot(x, x, w_.d_in));
      if (norm_[t] > 0) scan_.floor[t] = smallest_score * norm_[t];
    }
  }
  void stop(int t) { scan_.floor[t] = std::numeric_limits<float>::infinity(); }
  bool goes_on(int t) const { return scan_.floor[t] < std::numeric_limits<float>::infinity(); }

  // Looks for new columns where tokens go on; false where none does.
  bool scan(int count) {
    bool any = false;
    for (int t = 0; t < count; ++t) any |= goes_on(t);
    if (!any) return false;
    if (picks_ == 1)
      scan_.scan_best(count);
    else
      scan_.scan(count, 0, w_.n_latents);
    return true;
  }

  // Candidates that are not in the support yet, best first, at most `room`, into picked_: how many.
  template <class Holds>
  int64_t order_picks(int t, int64_t room, Holds&& holds) {
    const Candidates& found = scan_.found[t];
    rank_candidates(found.values, found.count, scan_.rank);
    const int64_t best = std::min(picks_, found.count);
    std::fill(picked_, picked_ + best, -1);
    for (int64_t i = 0; i < found.count; ++i)
      if (scan_.rank[i] < best) picked_[scan_.rank[i]] = found.latents[i];
    int64_t fresh = 0;
    for (int64_t i = 0; i < best && fresh < room; ++i)
      if (!holds(picked_[i])) picked_[fresh++] = picked_[i];
    return fresh;
  }

  // residual += amount * w_j
  void add_column(int t, int32_t latent, float amount) {
    const int64_t d = D::of(w_.degree);
    const uint16_t* rows = w_.rows + latent * d;
    const float* values = w_.values + latent * d;
    for (int64_t e = 0; e < D::length(w_, latent); ++e) residual_[static_cast<int64_t>(rows[e]) * width + t] += amount * values[e];
  }

  void stop_where_done(int t) {
    if (held_[t] == a_.k || small_enough(t)) stop(t);
  }

  // Token t of the tile, the batch's `token`.
  void write(int t, int64_t token, const int32_t* latents, float* coefficients, int64_t count) {
    const float* x = x_ + t * w_.d_in;
    if (!is_fit<D>(w_, latents, coefficients, count, x, norm_[t], left_)) ExactFit().solve(w_, latents, count, x, coefficients);
    write_codes(latents, coefficients, count, a_.k, a_.is_signed, a_.indices + token * a_.k, a_.codes + token * a_.k);
  }

  const BlockOmpArguments& a_;
  const Dictionary& w_;
  const int64_t picks_;
  TileScan<width> scan_;
  float *x_, *residual_, *left_;
  int32_t* picked_;
  SupportWork work_;
  float norm_[width];
  int64_t held_[width];  // columns in the support

 private:
  bool small_enough(int t) const {
    if (a_.tolerance <= 0) return false;
    double energy = 0;
    for (int64_t i = 0; i < w_.d_in; ++i) energy += static_cast<double>(residual_[i * width + t]) * residual_[i * width + t];
    return energy <= static_cast<double>(a_.tolerance) * a_.tolerance * norm_[t] * norm_[t];
  }
};

template <class Pursuit>
void run(const BlockOmpArguments& a) {
  constexpr int width = Pursuit::width;
  std::atomic<int64_t> dependent{0};
  for_each_part(a.threads, (a.x.batch + width - 1) / width, [&](int64_t part) {
    static thread_local Scratch scratch, scan_scratch;
    Pursuit pursuit(a, scratch, scan_scratch);
    const int64_t start = part * width;
    dependent += pursuit.run(start, static_cast<int>(std::min<int64_t>(width, a.x.batch - start)));
  });
  *a.dependent = dependent.load();
}

// Stages that pick spare columns and drop as many (block_omp_spare.cpp).
void block_omp_with_spare(const BlockOmpArguments& a);

}  // namespace expander::ISA
