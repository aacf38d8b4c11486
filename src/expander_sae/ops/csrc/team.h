// A team of threads on the OpenMP runtime that torch has already loaded.
#pragma once
#include <cstdint>

namespace expander {

// Runs task(argument) once on each of `threads` threads and returns when all have finished.
void run_team(int threads, void (*task)(void*), void* argument);

// "libgomp (shared with the process)" or "own threads".
const char* team_runtime();

// Runs body(part) for part in [0, parts): parts are claimed in order by whichever thread is free.
template <class Body>
void for_each_part(int threads, int64_t parts, Body&& body);

}  // namespace expander

#include <atomic>

namespace expander {

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
    int64_t parts;
    Body* body;
  } shared;
  shared.parts = parts;
  shared.body = &body;
  run_team(
      threads,
      [](void* raw) {
        auto* all = static_cast<Shared*>(raw);
        for (int64_t part; (part = all->next.fetch_add(1, std::memory_order_relaxed)) < all->parts;) (*all->body)(part);
      },
      &shared);
}

}  // namespace expander
