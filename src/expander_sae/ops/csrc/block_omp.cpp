// Block orthogonal matching pursuit in lockstep over a tile of tokens.
//
// Each stage scans all latents once against the residuals of the whole tile (no [batch, n], no per-token gathers), gives
// every token its best new columns, extends its least-squares problem by them, drops the spare ones, and moves the
// residual to the new coefficients. The scan costs n * degree / lanes, and least squares runs a vector of tokens at a time
// (lockstep.h).
#include <atomic>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "exact.h"
#include "lockstep.h"
#include "scan.h"
#include "team.h"

namespace expander::ISA {
namespace {

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
    for (int64_t e = 0; e < d; ++e) residual_[static_cast<int64_t>(rows[e]) * width + t] += amount * values[e];
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

// Supports that only grow, a vector's lanes of tokens in lockstep.
template <int width_>
class Forward : TilePursuit<width_> {
  using Base = TilePursuit<width_>;
  using Base::a_, Base::w_, Base::picks_, Base::held_, Base::x_, Base::work_, Base::picked_;
  static constexpr int lanes = Lockstep::lanes;

 public:
  using Base::Q, Base::width;

  Forward(const BlockOmpArguments& a, Scratch& scratch, Scratch& scan_scratch)
      : Base(a, scan_scratch), shared_(a.block >= a.k) {
    // Dead slots take room too: with two stages to spare a rebuild is rare, and one makes room enough.
    const int64_t capacity = shared_ ? 2 * a.k : a.k + 2 * picks_;
    Pieces pieces;
    Base::add_to(pieces, capacity);
    pieces.add(latents_, width * capacity);
    pieces.add(change_, capacity);
    pieces.add(own_, capacity);
    for (int g = 0; g < (shared_ ? 1 : Q); ++g) fit_[g].add_to(pieces, capacity, w_);
    pieces.place(scratch);
    work_.start(w_.d_in);
    for (int g = 0; g < Q; ++g) {
      if (shared_) fit_[g] = fit_[0];
      fit_[g].latents = latents_ + g * lanes * capacity;
    }
  }

  // Codes of `count` tokens; how many picked columns were skipped as dependent.
  int64_t run(int64_t start, int count) {
    Base::load(start, count);
    std::fill(latents_, latents_ + width * fit_[0].capacity, -1);
    for (int g = 0; g < Q; ++g) {
      fit_[g].slots = 0;
      if (shared_) write_group(g, start, count);  // nothing yet: a group of zero tokens has no stage
    }
    int64_t dependent = 0;
    bool again = false;
    while (Base::scan(count)) {
      for (int g = 0; g < Q; ++g) {
        if (!any_goes_on(g)) continue;
        dependent += stage(g, std::min(lanes, count - g * lanes), again);
        if (shared_) write_group(g, start, count);
      }
      again = true;
    }
    if (!shared_)
      for (int g = 0; g < Q; ++g) write_group(g, start, count);
    return dependent;
  }

 private:
  bool any_goes_on(int g) const {
    bool any = false;
    for (int t = g * lanes; t < (g + 1) * lanes; ++t) any |= Base::goes_on(t);
    return any;
  }

  int64_t stage(int g, int count, bool again) {
    Lockstep& fit = fit_[g];
    const float* tokens = x_ + g * lanes * w_.d_in;
    int64_t fresh[lanes] = {}, most = 0, dependent = 0;
    if (again && (shared_ || fit.slots + picks_ > fit.capacity)) {
      if (shared_) fit.slots = fit.capacity;  // the memory is another group's by now
      fit.template rebuild<D>(w_, work_, tokens);
      fit.solve();
    }
    for (int lane = 0; lane < count; ++lane) {
      const int t = g * lanes + lane;
      if (!Base::goes_on(t)) continue;
      fresh[lane] = Base::order_picks(t, a_.k - held_[t], [&](int32_t j) { return fit.holds(lane, j); });
      most = std::max(most, fresh[lane]);
      if (!fresh[lane]) Base::stop(t);
      std::copy(picked_, picked_ + fresh[lane], &fit.latent(lane, fit.slots));
    }
    const int64_t old = fit.slots, last = old + most;
    fit.prepare(last);
    for (int lane = 0; lane < lanes; ++lane) {
      std::fill(&fit.latent(lane, old) + fresh[lane], &fit.latent(lane, old) + most, -1);
      if (fresh[lane]) fit.template describe<D>(w_, work_, lane, tokens + lane * w_.d_in, last);
    }
    std::copy(fit.coefficients, fit.coefficients + old, change_);
    std::fill(change_ + old, change_ + last, Native{});
    fit.extend(last);
    fit.solve();
    for (int64_t i = 0; i < last; ++i) change_[i] -= fit.coefficients[i];
    const float* change = reinterpret_cast<const float*>(change_);
    for (int lane = 0; lane < count; ++lane) {
      const int t = g * lanes + lane;
      if (!fresh[lane]) continue;
      int64_t added = 0;
      for (int64_t i = old; i < old + fresh[lane]; ++i) {
        if (fit.dead(lane, i))
          fit.latent(lane, i) = -1, ++dependent;
        else
          ++added;
      }
      if (!added) {
        Base::stop(t);
        continue;
      }
      held_[t] += added;
      for (int64_t i = 0; i < last; ++i) {
        const float amount = change[i * lanes + lane];
        if (amount != 0.0f) Base::add_column(t, fit.latent(lane, i), amount);
      }
      Base::stop_where_done(t);
    }
    return dependent;
  }

  void write_group(int g, int64_t start, int count) {
    const Lockstep& fit = fit_[g];
    for (int lane = 0; lane < std::min(lanes, count - g * lanes); ++lane) {
      for (int64_t i = 0; i < fit.slots; ++i) own_[i] = fit.coefficient(lane, i);
      Base::write(g * lanes + lane, start + g * lanes + lane, fit.latents + lane * fit.capacity, own_, fit.slots);
    }
  }

  const bool shared_;  // one stage is all there is as a rule: the groups take turns in one memory
  int32_t* latents_;
  Native* change_;
  float* own_;
  Lockstep fit_[Q];
};

// Supports that also lose columns, in lockstep too: every stage factors the Gram matrices anew, so that errors do
// not grow from stage to stage. A column keeps its slot as long as it stays, and new ones take the slots that are free.
template <int width_>
class Backward : TilePursuit<width_> {
  using Base = TilePursuit<width_>;
  using Base::a_, Base::w_, Base::picks_, Base::held_, Base::x_, Base::work_, Base::picked_;
  static constexpr int lanes = Lockstep::lanes;

 public:
  using Base::Q, Base::width;

  Backward(const BlockOmpArguments& a, Scratch& scratch, Scratch& scan_scratch)
      : Base(a, scan_scratch), capacity_(a.k + a.spare) {
    Pieces pieces;
    Base::add_to(pieces, capacity_);
    pieces.add(latents_, width * capacity_);
    pieces.add(gram_, Q * packed(capacity_, 0));
    pieces.add(right_, Q * capacity_);
    pieces.add(coefficients_, Q * capacity_);
    pieces.add(kept_, lanes * capacity_);
    pieces.add(fresh_, lanes * capacity_);
    pieces.add(own_, capacity_);
    pieces.add(live_, capacity_);
    fit_.add_to(pieces, capacity_, w_);
    inverse_.add_to(pieces, capacity_);
    pieces.place(scratch);
    work_.start(w_.d_in);
  }

  // Codes of `count` tokens; how many picked columns were skipped as dependent.
  int64_t run(int64_t start, int count) {
    Base::load(start, count);
    std::fill(latents_, latents_ + width * capacity_, -1);
    // A free slot is zero in all of these: a lane without a column there passes through least squares as zeros.
    std::fill(gram_, gram_ + Q * packed(capacity_, 0), Native{});
    std::fill(right_, right_ + Q * capacity_, Native{});
    std::fill(coefficients_, coefficients_ + Q * capacity_, Native{});
    std::fill(used_, used_ + Q, 0);
    int64_t dependent = 0;
    while (Base::scan(count))
      for (int g = 0; g < Q; ++g) dependent += stage(g, std::min(lanes, count - g * lanes));
    for (int g = 0; g < Q; ++g) {
      fit_.factor(gram(g), right_ + g * capacity_, used_[g]);
      fit_.solve();
      for (int lane = 0; lane < std::min(lanes, count - g * lanes); ++lane) {
        for (int64_t i = 0; i < used_[g]; ++i) own_[i] = fit_.coefficient(lane, i);
        Base::write(g * lanes + lane, start + g * lanes + lane, latents(g, lane), own_, used_[g]);
      }
    }
    return dependent;
  }

 private:
  Native* gram(int g) const { return gram_ + g * packed(capacity_, 0); }
  int32_t* latents(int g, int lane) const { return latents_ + (g * lanes + lane) * capacity_; }
  bool is_fresh(int lane, int64_t slot) const { return fresh_[lane * capacity_ + slot] != 0; }

  // Picks this stage's columns, refits, drops the spare ones, and moves the residual.
  int64_t stage(int g, int count) {
    int64_t found[lanes] = {}, most = 0, dependent = 0;
    std::fill(fresh_, fresh_ + lanes * capacity_, 0);
    for (int lane = 0; lane < count; ++lane) {
      const int t = g * lanes + lane;
      if (!Base::goes_on(t)) continue;
      found[lane] = pick(g, lane);
      most = std::max(most, found[lane]);
      if (!found[lane]) Base::stop(t);
    }
    if (!most) return 0;
    const int64_t last = used_[g];
    for (int lane = 0; lane < count; ++lane)
      if (found[lane]) describe(g, lane);
    fit_.factor(gram(g), right_ + g * capacity_, last);
    bool anew = false;
    for (int lane = 0; lane < count; ++lane)
      if (found[lane] && crowded_out(g, lane)) {
        put_new_ones_last(g, lane);
        anew = true;
      }
    if (anew) fit_.factor(gram(g), right_ + g * capacity_, last);
    fit_.solve();

    int64_t drop[lanes] = {};
    for (int lane = 0; lane < count; ++lane) {
      if (!found[lane]) continue;
      const int t = g * lanes + lane;
      int32_t* own = latents(g, lane);
      int64_t live = 0, added = 0;
      for (int64_t i = 0; i < last; ++i) {
        if (own[i] < 0) continue;
        if (fit_.dead(lane, i)) {
          own[i] = -1;
          ++dependent;
        } else {
          ++live;
          added += is_fresh(lane, i);
        }
      }
      const int64_t after = std::min(std::min(held_[t] + a_.block, a_.k), live);
      drop[lane] = live - after;
      held_[t] = after;
      if (!added) Base::stop(t);
    }
    std::copy(latents(g, 0), latents(g, 0) + lanes * capacity_, kept_);
    bool any = false;
    for (int lane = 0; lane < count; ++lane) any |= drop[lane] > 0;
    if (any) {
      inverse_.invert(fit_);
      inverse_.drop_weakest(fit_.coefficients, latents(g, 0), capacity_, drop);
    }

    Native* before = coefficients_ + g * capacity_;
    for (int64_t i = 0; i < last; ++i) before[i] -= fit_.coefficients[i];
    const float* change = reinterpret_cast<const float*>(before);
    for (int lane = 0; lane < count; ++lane) {
      if (!found[lane]) continue;
      for (int64_t i = 0; i < last; ++i) {
        const int32_t latent = kept_[lane * capacity_ + i];
        if (latent >= 0) Base::add_column(g * lanes + lane, latent, change[i * lanes + lane]);
      }
      if (Base::goes_on(g * lanes + lane)) Base::stop_where_done(g * lanes + lane);
    }
    std::copy(fit_.coefficients, fit_.coefficients + last, before);
    clear_free_slots(g);
    return dependent;
  }

  // This stage's new columns, into free slots: how many.
  int64_t pick(int g, int lane) {
    const int t = g * lanes + lane;
    int32_t* own = latents(g, lane);
    const int64_t fresh = Base::order_picks(t, capacity_ - held_[t], [&](int32_t j) {
      int32_t same = 0;
      for (int64_t i = 0; i < used_[g]; ++i) same |= own[i] == j;
      return same != 0;
    });
    int64_t slot = 0;
    for (int64_t i = 0; i < fresh; ++i) {
      while (slot < capacity_ && own[slot] >= 0) ++slot;
      if (slot == capacity_) throw std::logic_error("block OMP has no slot left for a new column");
      own[slot] = picked_[i];
      fresh_[lane * capacity_ + slot] = 1;
    }
    if (fresh) used_[g] = std::max(used_[g], slot + 1);
    return fresh;
  }

  void describe(int g, int lane) {
    describe_columns<D>(w_, work_, fit_.meetings, latents(g, lane), used_[g], lane, x_ + (g * lanes + lane) * w_.d_in, gram(g),
                        right_ + g * capacity_, [&](int64_t slot) { return is_fresh(lane, slot); });
  }

  // Whether a column of an earlier stage came out as dependent, because a new one stands before it.
  bool crowded_out(int g, int lane) const {
    bool any = false;
    for (int64_t i = 0; i < used_[g]; ++i) any |= latents(g, lane)[i] >= 0 && !is_fresh(lane, i) && fit_.dead(lane, i);
    return any;
  }

  // Rare: it is the new one that has to go.
  void put_new_ones_last(int g, int lane) {
    int32_t* own = latents(g, lane);
    float* z = reinterpret_cast<float*>(coefficients_ + g * capacity_) + lane;
    uint8_t* fresh = fresh_ + lane * capacity_;
    const int64_t last = used_[g];
    std::vector<std::pair<int32_t, float>> order;
    for (const bool which : {false, true})
      for (int64_t i = 0; i < last; ++i)
        if (own[i] >= 0 && (fresh[i] != 0) == which) order.emplace_back(own[i], z[i * lanes]);
    int64_t old = 0;
    for (int64_t i = 0; i < last; ++i) old += own[i] >= 0 && !fresh[i];
    float* entries = reinterpret_cast<float*>(gram(g)) + lane;
    for (int64_t i = 0; i < packed(last, 0); ++i) entries[i * lanes] = 0.0f;
    for (int64_t i = 0; i < last; ++i) {
      const bool there = i < static_cast<int64_t>(order.size());
      own[i] = there ? order[static_cast<size_t>(i)].first : -1;
      z[i * lanes] = there ? order[static_cast<size_t>(i)].second : 0.0f;
      fresh[i] = there;  // all are described again
    }
    describe(g, lane);
    for (int64_t i = 0; i < old; ++i) fresh[i] = 0;
  }

  // What stands in a slot without a column is zero, for the next that takes it.
  void clear_free_slots(int g) {
    Native* entries = gram(g);
    for (int64_t i = 0; i < used_[g]; ++i) {
      int32_t* flags = reinterpret_cast<int32_t*>(live_ + i);
      for (int lane = 0; lane < lanes; ++lane) flags[lane] = latents(g, lane)[i] >= 0 ? -1 : 0;
      const NativeInts live = live_[i];
      for (int64_t j = 0; j <= i; ++j, ++entries) *entries = (Native)((NativeInts)*entries & live & live_[j]);
    }
  }

  const int64_t capacity_;
  int32_t *latents_, *kept_;
  Native *gram_, *right_, *coefficients_;  // of each group
  uint8_t* fresh_;                           // [lanes, capacity] picked in this stage
  float* own_;
  NativeInts* live_;  // [capacity]
  int64_t used_[Q];  // slots in use
  Lockstep fit_;
  LockstepInverse inverse_;
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

}  // namespace

void block_omp(const BlockOmpArguments& a) {
  const bool few = a.x.batch <= 16 * a.threads;
  if (a.spare) return few ? run<Backward<16>>(a) : run<Backward<32>>(a);
  if (few) return run<Forward<16>>(a);
  // Wide tiles scan faster, but between stages every token of the tile keeps its least-squares problem in the cache.
  if (a.block >= a.k && a.dictionary.d_in <= 3072) return run<Forward<largest_tile>>(a);
  return run<Forward<32>>(a);
}

}  // namespace expander::ISA
