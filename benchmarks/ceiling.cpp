// How fast this machine can do the scan's multiply-adds: random rows of a tile [d_in, width], contiguous lanes, the tile in the
// first- or second-level cache, a new sum every eight rows, and nothing else: no thresholds, no candidates, no dictionary to
// stream. The best of tiles of 16, 32 and 64 tokens.
//
//     ceiling D_IN THREADS SECONDS    prints billions of multiply-adds a second, all threads together
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float V __attribute__((vector_size(lanes * 4)));
constexpr int degree = 8;

// The largest sum of all columns: every sum is needed, or the compiler leaves its multiply-adds out.
template <int width>
[[gnu::noinline]] void run(const V* tile, const uint16_t* rows, const float* values, int64_t entries, V* out) {
  constexpr int count = width / lanes;
  V most[count] = {};
  for (int64_t i = 0; i < entries; i += degree) {
    V sum[count] = {};
    for (int e = 0; e < degree; ++e) {
      const V* row = tile + static_cast<int64_t>(rows[i + e]) * count;
      for (int q = 0; q < count; ++q) sum[q] += values[i + e] * row[q];
    }
    for (int q = 0; q < count; ++q) most[q] = sum[q] > most[q] ? sum[q] : most[q];
  }
  for (int q = 0; q < count; ++q) out[q] = most[q];
}

template <int width>
double rate(int64_t d_in, int threads, double seconds) {
  constexpr int count = width / lanes;
  constexpr int64_t entries = 4096;
  std::atomic<int64_t> done{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> team;
  const auto start = std::chrono::steady_clock::now();
  for (int t = 0; t < threads; ++t)
    team.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      V* tile = static_cast<V*>(std::aligned_alloc(4096, static_cast<size_t>((d_in * width * 4 + 4095) / 4096 * 4096)));
      for (int64_t i = 0; i < d_in * count; ++i) tile[i] = V{} + 1e-3f;
      std::vector<uint16_t> rows(entries);
      std::vector<float> values(entries, 0.5f);
      for (auto& row : rows) row = static_cast<uint16_t>(random() % static_cast<unsigned>(d_in));
      V out[count];
      int64_t own = 0;
      while (!stop.load(std::memory_order_relaxed)) {
        run<width>(tile, rows.data(), values.data(), entries, out);
        asm volatile("" ::"r"(out) : "memory");  // what is in `out` is needed, and the next round is no repetition
        own += entries * width;
      }
      done += own;
      std::free(tile);
    });
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (auto& thread : team) thread.join();
  return static_cast<double>(done) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 1e9;
}

int main(int, char** argv) {
  const int64_t d_in = std::atoll(argv[1]);
  const int threads = std::atoi(argv[2]);
  const double seconds = std::atof(argv[3]) / 3;
  double best = std::max(rate<16>(d_in, threads, seconds), rate<32>(d_in, threads, seconds));
  if (lanes > 4) best = std::max(best, rate<64>(d_in, threads, seconds));  // no more accumulators than registers
  std::printf("%.3f\n", best);
}
