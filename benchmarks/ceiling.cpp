// How fast this machine can do the scan's multiply-adds: random rows of a tile [d_in, 64], contiguous lanes, the tile in the
// first- or second-level cache, and nothing else: no thresholds, no candidates, no dictionary to stream.
//
//     ceiling D_IN THREADS SECONDS    prints billions of multiply-adds a second, all threads together
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
// As wide as the tiles of the core: no more accumulators than registers.
constexpr int width = lanes == 4 ? 32 : 64, count = width / lanes;

// Every accumulator waits for its last multiply-add; there are enough of them to keep the units busy.
void run(const V* tile, const uint16_t* rows, const float* values, int64_t entries, V* out) {
  V sum[count] = {};
  for (int64_t i = 0; i < entries; ++i) {
    const V* row = tile + static_cast<int64_t>(rows[i]) * count;
    for (int q = 0; q < count; ++q) sum[q] += values[i] * row[q];
  }
  for (int q = 0; q < count; ++q) out[q] = sum[q];
}

int main(int, char** argv) {
  const int64_t d_in = std::atoll(argv[1]);
  const int threads = std::atoi(argv[2]);
  const double seconds = std::atof(argv[3]);
  constexpr int64_t entries = 4096;
  std::atomic<int64_t> done{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> team;
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
        run(tile, rows.data(), values.data(), entries, out);
        volatile float keep = out[0][0];
        (void)keep;
        own += entries * width;
      }
      done += own;
      std::free(tile);
    });
  const auto start = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (auto& thread : team) thread.join();
  const double spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%.3f\n", static_cast<double>(done) / spent / 1e9);
}
