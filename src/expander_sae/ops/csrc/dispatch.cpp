#include <cstring>
#include <iterator>

#include "kernels.h"

namespace expander {

#define EXPANDER_DECLARE(kernel, result, arguments) result kernel arguments;
#define EXPANDER_NAME(kernel, result, arguments) , kernel
#define EXPANDER_SET(isa)                                     \
  namespace isa {                                             \
  EXPANDER_KERNELS(EXPANDER_DECLARE)                          \
  const KernelTable table = {#isa EXPANDER_KERNELS(EXPANDER_NAME)}; \
  }

// The build says which sets it made.
#if defined(EXPANDER_NEON)
EXPANDER_SET(neon)
#endif
#if defined(EXPANDER_BASELINE)
EXPANDER_SET(baseline)
#endif
#if defined(EXPANDER_AVX2)
EXPANDER_SET(avx2)
#endif
#if defined(EXPANDER_AVX512)
EXPANDER_SET(avx512)
#endif

namespace {

bool runs(const KernelTable& table) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
                        __builtin_cpu_supports("f16c");
  if (!std::strcmp(table.name, "avx2")) return has_avx2;
  if (!std::strcmp(table.name, "avx512"))
    return has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
#endif
  (void)table;
  return true;
}

// The best first.
const KernelTable* const tables[] = {
#if defined(EXPANDER_AVX512)
    &avx512::table,
#endif
#if defined(EXPANDER_AVX2)
    &avx2::table,
#endif
#if defined(EXPANDER_NEON)
    &neon::table,
#endif
#if defined(EXPANDER_BASELINE)
    &baseline::table,
#endif
};

const KernelTable* best() {
  for (const KernelTable* table : tables)
    if (runs(*table)) return table;
  return tables[std::size(tables) - 1];  // what every machine of this kind runs
}

const KernelTable*& current() {
  static const KernelTable* chosen = best();
  return chosen;
}

}  // namespace

const KernelTable& kernels() { return *current(); }

bool select_kernels(const char* name) {
  for (const KernelTable* table : tables)
    if (!std::strcmp(table->name, name) && runs(*table)) {
      current() = table;
      return true;
    }
  return false;
}

const char* available_kernels() {
  static char names[64];
  names[0] = 0;
  for (const KernelTable* table : tables)
    if (runs(*table)) {
      if (names[0]) std::strcat(names, ",");
      std::strcat(names, table->name);
    }
  return names;
}

}  // namespace expander
