// CoSaMP and normalised iterative hard thresholding: every iteration scans all latents once for a tile of tokens, and may
// change the whole support.
#include <atomic>
#include <limits>
#include <vector>

#include "lockstep.h"
#include "scan.h"
#include "team.h"

namespace expander::ISA {
namespace {

// Best first: larger scores, then lower positions.
struct Scored {
  float score;
  int32_t position;
  bool operator<(const Scored& other) const {
    return score > other.score || (score == other.score && position < other.position);
  }
};

// The tile, its residuals (also row by row), and each token's code.
template <int width_, class D, bool absolute>
class TileCodes {
 public:
  static constexpr int width = width_, Q = width / Lockstep::lanes;  // groups of tokens in lockstep

 protected:
  TileCodes(const GreedyArguments& a, int64_t wanted, Scratch& scan_scratch)
      : a_(a), w_(a.dictionary), scan_(w_, nullptr, absolute, wanted, plan_sample(w_.n_latents, wanted), scan_scratch) {}

  void add_to(Pieces& pieces) {
    pieces.add(x_, width * w_.d_in);
    pieces.add(residual_, width * w_.d_in);
    pieces.add(trial_, w_.d_in);
    pieces.add(latents_, width * a_.k);
    pieces.add(codes_, width * a_.k);
  }

  void load(int64_t start, int count) {
    load_tile<width>(a_.x, w_.d_in, start, count, reinterpret_cast<float*>(scan_.tile), scan_.token);
    for (int t = 0; t < width; ++t) {
      alive_[t] = false;
      count_[t] = 0;
      stop(t);
      if (t >= count) continue;
      read_token(a_.x, w_.d_in, start + t, x(t));
      std::copy(x(t), x(t) + w_.d_in, residual(t));
      norm_[t] = length_[t] = std::sqrt(dot(x(t), x(t), w_.d_in));
      alive_[t] = norm_[t] > 0;
    }
  }

  float* x(int t) const { return x_ + t * w_.d_in; }
  float* residual(int t) const { return residual_ + t * w_.d_in; }
  int32_t* latents(int t) const { return latents_ + t * a_.k; }
  float* codes(int t) const { return codes_ + t * a_.k; }
  void stop(int t) { scan_.floor[t] = std::numeric_limits<float>::infinity(); }
  static float score(float value) { return absolute ? std::fabs(value) : value; }

  // trial_ = x - W z; its length.
  float try_code(int t, const int32_t* latents, const float* z, int64_t count) {
    std::copy(x(t), x(t) + w_.d_in, trial_);
    for (int64_t i = 0; i < count; ++i) subtract_column(w_, D::of(w_.degree), latents[i], z[i], trial_);
    return std::sqrt(dot(trial_, trial_, w_.d_in));
  }
  void take_trial(int t, float length) {
    float* tile = reinterpret_cast<float*>(scan_.tile) + t;
    for (int64_t i = 0; i < w_.d_in; ++i) residual(t)[i] = tile[i * width] = trial_[i];
    length_[t] = length;
  }

  void write(int64_t start, int count) {
    for (int t = 0; t < count; ++t)
      write_codes(latents(t), codes(t), count_[t], a_.k, a_.is_signed, a_.indices + (start + t) * a_.k,
                  a_.codes + (start + t) * a_.k);
  }

  const GreedyArguments& a_;
  const Dictionary& w_;
  TileScan<width> scan_;
  float *x_, *residual_, *trial_, *codes_;
  int32_t* latents_;
  int64_t count_[width];
  float norm_[width], length_[width];
  bool alive_[width];
};

template <int width_, class D, bool absolute>
class Cosamp : TileCodes<width_, D, absolute> {
  using Base = TileCodes<width_, D, absolute>;
  using Base::a_, Base::w_, Base::scan_, Base::count_, Base::alive_, Base::norm_, Base::length_;
  static constexpr int lanes = Lockstep::lanes;

 public:
  using Base::Q, Base::width;

  Cosamp(const GreedyArguments& a, Scratch& scratch, Scratch& scan_scratch)
      : Base(a, std::min(2 * a.k, a.dictionary.n_latents), scan_scratch) {
    const int64_t capacity = 3 * a.k;
    Pieces pieces;
    Base::add_to(pieces);
    pieces.add(fit_.latents, lanes * capacity);
    pieces.add(chosen_, lanes * a.k);
    fit_.add_to(pieces, capacity, w_);
    work_.add_to(pieces, w_.d_in, w_.degree, capacity);
    pieces.place(scratch);
    work_.start(w_.d_in);
  }

  void run(int64_t start, int count) {
    Base::load(start, count);
    for (int64_t step = 0; step < a_.steps; ++step) {
      bool any = false;
      for (int t = 0; t < count; ++t) {
        alive_[t] = alive_[t] && length_[t] > a_.tolerance * norm_[t];
        scan_.floor[t] = alive_[t] ? smallest_score * norm_[t] : std::numeric_limits<float>::infinity();
        any |= alive_[t];
      }
      if (!any) break;
      scan_.scan(count, 0, w_.n_latents);
      for (int g = 0; g < Q; ++g) iterate(g, std::min(lanes, count - g * lanes));
    }
    Base::write(start, count);
  }

 private:
  void iterate(int g, int count) {
    const int64_t capacity = fit_.capacity;
    std::fill(fit_.latents, fit_.latents + lanes * capacity, -1);
    int64_t last = 0;
    for (int lane = 0; lane < count; ++lane)
      if (alive_[g * lanes + lane]) last = std::max(last, merge(g * lanes + lane, fit_.latents + lane * capacity));
    if (!last) return;
    solve(g, count, last);
    // The k largest, in that order.
    int64_t most = 0;
    std::fill(chosen_, chosen_ + lanes * a_.k, -1);
    for (int lane = 0; lane < count; ++lane) {
      if (!alive_[g * lanes + lane]) continue;
      order_.clear();
      for (int64_t i = 0; i < last; ++i)
        if (fit_.latent(lane, i) >= 0 && !fit_.dead(lane, i)) {
          const float size = Base::score(fit_.coefficient(lane, i));
          if (size > 0) order_.push_back({size, static_cast<int32_t>(i)});
        }
      std::sort(order_.begin(), order_.end());
      const int64_t kept = std::min<int64_t>(a_.k, static_cast<int64_t>(order_.size()));
      for (int64_t i = 0; i < kept; ++i) chosen_[lane * a_.k + i] = fit_.latent(lane, order_[static_cast<size_t>(i)].position);
      most = std::max(most, kept);
    }
    std::fill(fit_.latents, fit_.latents + lanes * capacity, -1);
    for (int lane = 0; lane < count; ++lane) std::copy(chosen_ + lane * a_.k, chosen_ + lane * a_.k + most, &fit_.latent(lane, 0));
    solve(g, count, most);
    for (int lane = 0; lane < count; ++lane) {
      const int t = g * lanes + lane;
      if (alive_[t]) accept(t, lane, most);
    }
  }

  // The support and then the candidates that are not in it, best first: how many.
  int64_t merge(int t, int32_t* to) {
    int64_t total = 0;
    for (int64_t i = 0; i < count_[t]; ++i) to[total++] = Base::latents(t)[i];
    const Candidates& found = scan_.found[t];
    order_.clear();
    for (int64_t i = 0; i < found.count; ++i) order_.push_back({found.values[i], found.latents[i]});
    std::sort(order_.begin(), order_.end());
    const int64_t best = std::min<int64_t>(scan_.k, static_cast<int64_t>(order_.size()));
    for (int64_t i = 0; i < best; ++i) {
      const int32_t j = order_[static_cast<size_t>(i)].position;
      if (std::find(to, to + count_[t], j) == to + count_[t]) to[total++] = j;
    }
    return total;
  }

  void solve(int g, int count, int64_t last) {
    fit_.slots = 0;
    fit_.prepare(last);
    for (int lane = 0; lane < count; ++lane) fit_.template describe<D>(w_, work_, lane, Base::x(g * lanes + lane), last);
    fit_.extend(last);
    fit_.solve();
  }

  // The new code, if it is better; a token stops where ||r|| falls by less than a thousandth.
  void accept(int t, int lane, int64_t last) {
    found_.clear();
    values_.clear();
    for (int64_t i = 0; i < last; ++i)
      if (fit_.latent(lane, i) >= 0 && fit_.coefficient(lane, i) != 0.0f) {
        found_.push_back(fit_.latent(lane, i));
        values_.push_back(fit_.coefficient(lane, i));
      }
    const float before = length_[t];
    const auto count = static_cast<int64_t>(found_.size());
    const float length = Base::try_code(t, found_.data(), values_.data(), count);
    alive_[t] = length < 0.999f * before;
    if (!(length < before)) return;
    std::copy(found_.begin(), found_.end(), Base::latents(t));
    std::copy(values_.begin(), values_.end(), Base::codes(t));
    count_[t] = count;
    Base::take_trial(t, length);
  }

  Lockstep fit_;
  SupportWork work_;
  int32_t* chosen_;  // [lanes, k]
  std::vector<Scored> order_;
  std::vector<int32_t> found_;
  std::vector<float> values_;
};

template <int width_, class D, bool absolute>
class Niht : TileCodes<width_, D, absolute> {
  using Base = TileCodes<width_, D, absolute>;
  using Base::a_, Base::w_, Base::scan_, Base::count_, Base::alive_, Base::norm_, Base::length_, Base::trial_;

 public:
  using Base::width;

  // Outside a support of k there must be k candidates that are no repetition.
  Niht(const GreedyArguments& a, Scratch& scratch, Scratch& scan_scratch)
      : Base(a, std::min(2 * a.k + a.repetitions, a.dictionary.n_latents), scan_scratch) {
    Pieces pieces;
    Base::add_to(pieces);
    pieces.add(image_, w_.d_in);
    pieces.place(scratch);
    gradient_.resize(static_cast<size_t>(a.k));
  }

  void run(int64_t start, int count) {
    Base::load(start, count);
    for (int t = 0; t < count; ++t) scan_.floor[t] = alive_[t] ? 0.0f : std::numeric_limits<float>::infinity();
    scan_.scan(count, 0, w_.n_latents);
    for (int t = 0; t < count; ++t) {
      if (!alive_[t]) continue;
      threshold(t, 1.0f);  // S is the k largest of W^T x; z is zero there
      count_[t] = static_cast<int64_t>(proposed_.size());
      for (int64_t i = 0; i < count_[t]; ++i) {
        Base::latents(t)[i] = proposed_[static_cast<size_t>(i)];
        Base::codes(t)[i] = 0.0f;
      }
    }
    for (int64_t step = 0; step < a_.steps; ++step) {
      bool any = false;
      for (int t = 0; t < count; ++t) {
        alive_[t] = alive_[t] && length_[t] > a_.tolerance * norm_[t] && count_[t] > 0;
        if (!alive_[t]) Base::stop(t);
        any |= alive_[t];
      }
      if (!any) break;
      if (step) scan_.scan(count, 0, w_.n_latents);  // the first is known: the residual is x
      for (int t = 0; t < count; ++t)
        if (alive_[t]) iterate(t);
    }
    Base::write(start, count);
  }

 private:
  void iterate(int t) {
    const float before = length_[t];
    const int64_t size = count_[t], d = D::of(w_.degree);
    std::fill(image_, image_ + w_.d_in, 0.0f);
    float square = 0;
    for (int64_t i = 0; i < size; ++i) {
      const float g = correlation_with<D>(w_, Base::latents(t)[i], Base::residual(t));
      gradient_[static_cast<size_t>(i)] = g;
      square += g * g;
      subtract_column(w_, d, Base::latents(t)[i], -g, image_);
    }
    const float image = dot(image_, image_, w_.d_in);
    float mu = image > 0 ? square / image : 1.0f;
    for (int round = 0; round < 60; ++round) {
      threshold(t, mu);
      const auto count = static_cast<int64_t>(proposed_.size());
      const float length = Base::try_code(t, proposed_.data(), values_.data(), count);
      if (acceptable(t, mu)) {
        std::copy(proposed_.begin(), proposed_.end(), Base::latents(t));
        std::copy(values_.begin(), values_.end(), Base::codes(t));
        count_[t] = count;
        Base::take_trial(t, length);
        break;
      }
      mu *= shrink;
    }
    alive_[t] = length_[t] < (1.0f - 1e-6f) * before;
  }

  // The k largest of z + mu W^T r, into proposed_ and values_.
  void threshold(int t, float mu) {
    const int32_t* support = Base::latents(t);
    const float rounding = std::numeric_limits<float>::epsilon() * norm_[t];
    pool_.clear();
    auto offer = [&](int32_t latent, float value) {
      if (Base::score(value) > rounding) pool_.push_back({{Base::score(value), latent}, value});
    };
    for (int64_t i = 0; i < count_[t]; ++i)
      offer(support[i], Base::codes(t)[i] + mu * gradient_[static_cast<size_t>(i)]);
    const Candidates& found = scan_.found[t];
    for (int64_t i = 0; i < found.count; ++i) {
      const int32_t j = found.latents[i];
      if (a_.repeated && a_.repeated[j]) continue;
      if (std::find(support, support + count_[t], j) != support + count_[t]) continue;
      offer(j, mu * correlation_with<D>(w_, j, Base::residual(t)));
    }
    const size_t kept = std::min(pool_.size(), static_cast<size_t>(a_.k));
    auto before = [](const Offer& a, const Offer& b) { return a.key < b.key; };
    if (kept < pool_.size()) std::nth_element(pool_.begin(), pool_.begin() + static_cast<int64_t>(kept), pool_.end(), before);
    // In one order, whatever was offered besides: sums in another one differ in their last bits.
    std::sort(pool_.begin(), pool_.begin() + static_cast<int64_t>(kept), before);
    proposed_.clear();
    values_.clear();
    for (size_t i = 0; i < kept; ++i) {
      proposed_.push_back(pool_[i].key.position);
      values_.push_back(pool_[i].value);
    }
  }

  // On the same support always; on another while mu ||W (z' - z)||^2 <= 0.99 ||z' - z||^2. trial_ is the residual of z'.
  bool acceptable(int t, float mu) {
    const int32_t* support = Base::latents(t);
    const float* z = Base::codes(t);
    float change = 0;
    size_t shared = 0;
    for (int64_t i = 0; i < count_[t]; ++i) change += z[i] * z[i];
    for (size_t p = 0; p < proposed_.size(); ++p) {
      const int32_t* at = std::find(support, support + count_[t], proposed_[p]);
      const float old = at == support + count_[t] ? 0.0f : z[at - support];
      shared += at != support + count_[t];
      change += (values_[p] - old) * (values_[p] - old) - old * old;
    }
    if (shared == proposed_.size() && static_cast<int64_t>(shared) == count_[t]) return true;
    float image = 0;
    const float* residual = Base::residual(t);
    for (int64_t i = 0; i < w_.d_in; ++i) image += (trial_[i] - residual[i]) * (trial_[i] - residual[i]);
    return mu * image <= (1.0f - margin) * change;
  }

  struct Offer {
    Scored key;
    float value;
  };
  static constexpr float margin = 0.01f, shrink = 1.0f / (2.0f * (1.0f - margin));
  float* image_;
  std::vector<float> gradient_, values_;
  std::vector<int32_t> proposed_;
  std::vector<Offer> pool_;
};

template <class Pursuit>
void run(const GreedyArguments& a) {
  constexpr int width = Pursuit::width;
  for_each_part(a.threads, (a.x.batch + width - 1) / width, [&](int64_t part) {
    static thread_local Scratch scratch, scan_scratch;
    Pursuit pursuit(a, scratch, scan_scratch);
    const int64_t start = part * width;
    pursuit.run(start, static_cast<int>(std::min<int64_t>(width, a.x.batch - start)));
  });
}

}  // namespace

// The degree is read at run time: least squares and the line search take most of the time, and every degree compiled in is
// another copy of all of this.
void thresholding(const GreedyArguments& a) {
  using D = Degree<0>;
  if (a.method == Greedy::cosamp) return a.is_signed ? run<Cosamp<16, D, true>>(a) : run<Cosamp<16, D, false>>(a);
  return a.is_signed ? run<Niht<16, D, true>>(a) : run<Niht<16, D, false>>(a);
}

}  // namespace expander::ISA
