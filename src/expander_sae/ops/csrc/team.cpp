#include "team.h"

#include <dlfcn.h>

#include <system_error>
#include <thread>
#include <vector>

// Two OpenMP runtimes in one process fight: after each parallel region the idle workers of one spin on the cores the
// other wants. So nothing is linked here; the entry point is looked up in the runtime torch brought into the process. That is
// GCC's entry point, of libgomp. LLVM's runtime, which torch brings on macOS, has another one of its own (`__kmpc_fork_call`),
// and where it does not answer to GCC's name as well, threads are started and ended with each call: they give the same
// results, and cost some tens of microseconds each.
namespace expander {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

GompParallel find_gomp() { return reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel")); }

GompParallel gomp() {
  static const GompParallel found = find_gomp();
  return found;
}

}  // namespace

const char* team_runtime() { return gomp() ? "OpenMP runtime of the process" : "own threads"; }

void run_team(int threads, void (*task)(void*), void* argument) {
  if (threads <= 1) {
    task(argument);
    return;
  }
  if (GompParallel parallel = gomp()) {
    parallel(task, argument, static_cast<unsigned>(threads), 0);
    return;
  }
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i) others.emplace_back(task, argument);
  } catch (const std::system_error&) {
    // The machine gives no more threads: those there are claim all parts.
  }
  task(argument);
  for (auto& other : others) other.join();
}

}  // namespace expander
