// Block orthogonal matching pursuit in lockstep over a tile of tokens (tile_pursuit.h), and the way to stages with spare columns.
#include "tile_pursuit.h"

namespace expander::ISA {
namespace {

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

}  // namespace

void block_omp(const BlockOmpArguments& a) {
  if (a.spare) return block_omp_with_spare(a);
  if (a.x.batch <= 16 * a.threads) return run<Forward<16>>(a);
  // Wide tiles scan faster, but between stages every token of the tile keeps its least-squares problem in the cache.
  if (a.block >= a.k && a.dictionary.d_in <= 3072) return run<Forward<largest_tile>>(a);
  return run<Forward<32>>(a);
}

}  // namespace expander::ISA
