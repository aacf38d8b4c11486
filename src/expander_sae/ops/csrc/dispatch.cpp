#include <cstring>

#include "kernels.h"

namespace expander {

#define DECLARE(isa)                                                                                                  \
  namespace isa {                                                                                                     \
  void encode_topk(const EncodeArguments&);                                                                           \
  void decode(const DecodeArguments&);                                                                                \
  void decode_backward(const DecodeBackwardArguments&);                                                               \
  void encode_backward(const EncodeBackwardArguments&);                                                               \
  void loss(const LossArguments&);                                                                                    \
  void block_omp(const BlockOmpArguments&);                                                                           \
  void greedy(const GreedyArguments&);                                                                                \
  void thresholding(const GreedyArguments&);                                                                          \
  void correlate(const CorrelateArguments&);                                                                          \
  void support_gram(const SupportGramArguments&);                                                                     \
  void unit_columns(const float*, int64_t, int64_t, float, float*, float*, int);                                      \
  void unit_columns_backward(const float*, const float*, const float*, int64_t, int64_t, float*, int);                \
  DictionarySurvey survey_dictionary(const Dictionary&);                                                              \
  TokenSurvey survey_tokens(const Activations&, int64_t, int);                                                        \
  float largest_size(const float*, int64_t);                                                                          \
  const KernelTable table = {#isa, encode_topk, decode, decode_backward, encode_backward, loss, block_omp, greedy,    \
                             thresholding, correlate, support_gram, unit_columns, unit_columns_backward,              \
                             survey_dictionary, survey_tokens, largest_size};                                         \
  }

DECLARE(baseline)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
#endif

namespace {

bool runs(const KernelTable& table) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (&table == &avx2::table)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (&table == &avx512::table)
    return runs(avx2::table) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512cd");
#endif
  (void)table;
  return true;
}

#if defined(__x86_64__)
const KernelTable* const tables[] = {&avx512::table, &avx2::table, &baseline::table};
#else
const KernelTable* const tables[] = {&baseline::table};
#endif

const KernelTable* best() {
  for (const KernelTable* table : tables)
    if (runs(*table)) return table;
  return &baseline::table;
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
