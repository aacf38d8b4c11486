// A team of threads on the OpenMP runtime that torch has already loaded.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>

namespace expander {

// Runs task(argument) once on each of `threads` threads and returns when all have finished.
void run_team(int threads, void (*task)(void*), void* argument);

// "OpenMP runtime of the process" or "own threads".
const char* team_runtime();

// Runs body(part) for part in [0, parts): parts are claimed in order by whichever thread is free. No exception may leave a
// team's thread, or the process ends: the first one stops the others and is thrown here, after all have finished.
template <class Body>
void for_each_part(int threads, int64_t parts, Body&& body) {
  if (parts <= 0) return;
  if (threads > parts) threads = static_cast<int>(parts);
  if (threads <= 1) {
    for (int64_t part = 0; part < parts; ++part) body(part);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;
    int64_t parts;
    Body* body;
  } shared;
  shared.parts = parts;
  shared.body = &body;
  run_team(
      threads,
      [](void* raw) {
        auto* all = static_cast<Shared*>(raw);
        try {
          for (int64_t part; (part = all->next.fetch_add(1, std::memory_order_relaxed)) < all->parts;) (*all->body)(part);
        } catch (...) {
          if (!all->failed.exchange(true)) all->error = std::current_exception();
          all->next.store(all->parts);
        }
      },
      &shared);
  if (shared.error) std::rethrow_exception(shared.error);
}

}  // namespace expander
