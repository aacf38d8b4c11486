// Forward-backward pursuit: stages of block OMP that pick spare columns and drop those that matter least.
#include <stdexcept>
#include <utility>

#include "lockstep_inverse.h"
#include "tile_pursuit.h"

namespace expander::ISA {
namespace {

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

  // One stage of a group: how many of the columns it picked were dependent.
  int64_t stage(int g, int count) {
    if (!pick_all(g, count)) return 0;
    const int64_t last = used_[g];
    fit(g, count, last);
    int64_t drop[lanes] = {};
    const int64_t dependent = settle(g, count, last, drop);
    std::copy(latents(g, 0), latents(g, 0) + lanes * capacity_, kept_);
    if (std::any_of(drop, drop + lanes, [](int64_t columns) { return columns > 0; })) {
      inverse_.invert(fit_);
      inverse_.drop_weakest(fit_.coefficients, latents(g, 0), capacity_, drop);
    }
    move(g, count, last);
    clear_free_slots(g);
    return dependent;
  }

  // New columns of every token that goes on, into found_; false where no token has any.
  bool pick_all(int g, int count) {
    bool any = false;
    std::fill(found_, found_ + lanes, 0);
    std::fill(fresh_, fresh_ + lanes * capacity_, 0);
    for (int lane = 0; lane < count; ++lane) {
      const int t = g * lanes + lane;
      if (!Base::goes_on(t)) continue;
      found_[lane] = pick(g, lane);
      any |= found_[lane] > 0;
      if (!found_[lane]) Base::stop(t);
    }
    return any;
  }

  // Describes the new columns and solves for all. Where one stands before a column of an earlier stage and crowds it out, the
  // new ones go last, and it is they that are dependent.
  void fit(int g, int count, int64_t last) {
    for (int lane = 0; lane < count; ++lane)
      if (found_[lane]) describe(g, lane);
    fit_.factor(gram(g), right_ + g * capacity_, last);
    bool anew = false;
    for (int lane = 0; lane < count; ++lane)
      if (found_[lane] && crowded_out(g, lane)) {
        put_new_ones_last(g, lane);
        anew = true;
      }
    if (anew) fit_.factor(gram(g), right_ + g * capacity_, last);
    fit_.solve();
  }

  // Takes dependent columns out (how many), and counts what each token has to drop; one that nothing was added to stops.
  int64_t settle(int g, int count, int64_t last, int64_t* drop) {
    int64_t dependent = 0;
    for (int lane = 0; lane < count; ++lane) {
      if (!found_[lane]) continue;
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
    return dependent;
  }

  // Moves the residuals by what the coefficients changed, those of dropped columns (still in kept_) to zero.
  void move(int g, int count, int64_t last) {
    Native* before = coefficients_ + g * capacity_;
    for (int64_t i = 0; i < last; ++i) before[i] -= fit_.coefficients[i];
    const float* change = reinterpret_cast<const float*>(before);
    for (int lane = 0; lane < count; ++lane) {
      if (!found_[lane]) continue;
      for (int64_t i = 0; i < last; ++i) {
        const int32_t latent = kept_[lane * capacity_ + i];
        if (latent >= 0) Base::add_column(g * lanes + lane, latent, change[i * lanes + lane]);
      }
      if (Base::goes_on(g * lanes + lane)) Base::stop_where_done(g * lanes + lane);
    }
    std::copy(fit_.coefficients, fit_.coefficients + last, before);
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
  int64_t found_[lanes];                     // how many
  float* own_;
  NativeInts* live_;  // [capacity]
  int64_t used_[Q];  // slots in use
  Lockstep fit_;
  LockstepInverse inverse_;
};

}  // namespace

void block_omp_with_spare(const BlockOmpArguments& a) {
  return a.x.batch <= 16 * a.threads ? run<Backward<16>>(a) : run<Backward<32>>(a);
}

}  // namespace expander::ISA
