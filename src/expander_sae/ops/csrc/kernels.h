// The kernels' plain-pointer interface. One table per instruction set; dispatch.cpp picks one.
#pragma once
#include <atomic>
#include <cstdint>

namespace expander {

// For tests: scratch is filled with NaN bits (as integers -1) whenever it is handed out, so that reading what nothing wrote
// shows. No result may depend on it.
inline std::atomic<bool> poison{false};
inline bool poisoned() { return poison.load(std::memory_order_relaxed); }

enum class Element : int { float32, bfloat16, float16 };

// Rows are uint16 [n_latents, degree], or null for a dense dictionary (degree == d_in, row e is e).
struct Dictionary {
  const uint16_t* rows;
  const float* values;
  int64_t n_latents, degree, d_in;
  const int32_t* lengths = nullptr;  // [n_latents] entries of a column, those behind them are zero; null: all have `degree`
  int64_t length(int64_t j) const { return lengths ? lengths[j] : degree; }
};

struct Activations {
  const void* data;  // [batch, d_in], contiguous
  Element element;
  int64_t batch;
  const float* center;  // [d_in], subtracted first, or null
};

struct EncodeArguments {
  Activations x;
  Dictionary dictionary;
  const float* bias;  // [n_latents] or null
  int64_t k;
  bool is_signed;
  int threads;
  int tile;  // 0 chooses
  int64_t* indices;
  float* values;
};

struct DecodeArguments {
  const int64_t* indices;  // [batch, k]
  const float* codes;      // [batch, k]
  Dictionary dictionary;
  const float* offset;  // [d_in] added, or null
  int64_t batch, k;
  int threads;
  float* out;  // [batch, d_in]
};

struct DecodeBackwardArguments {
  const int64_t* indices;
  const float* codes;
  Dictionary dictionary;
  int64_t batch, k;
  int threads;
  const float* grad_out;  // [batch, d_in]
  float* grad_codes;      // [batch, k] or null
  float* grad_values;     // [n_latents, degree], zeroed by the kernel, or null
};

struct EncodeBackwardArguments {
  const int64_t* indices;
  const float* grad_codes;  // [batch, k]; zero where the code has no gradient
  Activations x;
  Dictionary dictionary;
  int64_t k;
  int threads;
  float* grad_x;       // [batch, d_in] or null
  float* grad_values;  // [n_latents, degree] or null
  float* grad_bias;    // [n_latents] or null
};

// Loss  scale * sum ||x - center - W h||^2  and all its gradients for given codes h = topk(E^T (x - center) + bias).
struct LossArguments {
  const int64_t* indices;
  const float* codes;
  Activations x;
  Dictionary decoder;
  const float* encoder;  // encoder values on the same rows, or null when tied or when the codes are fixed
  int64_t k;
  float scale;
  bool fixed_codes;  // the codes come from elsewhere: no gradient flows through them
  int threads;
  double* loss;           // one number: sum ||e||^2, unscaled
  float* grad_decoder;    // [n_latents, degree]
  float* grad_encoder;    // [n_latents, degree] or null when tied
  float* grad_center;     // [d_in]
  float* grad_bias;       // [n_latents] or null
  float* residual;        // [batch, d_in] x - x_hat, or null
  uint8_t* fired;         // [n_latents], set to 1 where a code is non-zero
};

// What every pursuit is given: at most k codes of each x - center.
struct PursuitArguments {
  Activations x;
  Dictionary dictionary;
  int64_t k;
  bool is_signed;   // pick by |score|; otherwise by score, positive only
  float tolerance;  // stop where ||r|| <= tolerance * ||x - center||
  int threads;
  int64_t* indices;    // [batch, k]
  float* codes;        // [batch, k]
  int64_t* dependent;  // how many picked columns lay in the span of the support and were skipped
};

// Orthogonal matching pursuit, `block` columns per stage, from the residual x - center. With `spare` a stage picks so many
// columns more, and drops those that matter least until it has grown by `block`.
struct BlockOmpArguments : PursuitArguments {
  int64_t block, spare;
};

enum class Greedy : int { omp, matching, gradient, nonnegative, refit, cosamp, niht };

// Pursuit one column at a time from the residual x - center; `refit` is least squares on the warm start's support.
struct GreedyArguments : PursuitArguments {
  Greedy method;
  int64_t steps;  // picks of matching and gradient pursuit, iterations of cosamp and niht
  const int64_t* warm_indices;  // [batch, warm], for omp and refit
  const float* warm_codes;      // [batch, warm]; zero: no column
  int64_t warm;
  const uint8_t* repeated;  // [n_latents] columns that niht leaves out because they repeat an earlier one, or null
  int64_t repetitions;      // how many
};

struct CorrelateArguments {
  Activations x;
  Dictionary dictionary;
  int threads;
  float* out;  // [batch, n_latents]
};

struct SupportGramArguments {
  const int64_t* indices;  // [batch, k]
  Dictionary dictionary;
  int64_t batch, k;
  int threads;
  float* out;  // [batch, k, k]
};

// What the numbers of a dictionary and of a batch allow; NaN and infinity count as infinity.
struct DictionarySurvey {
  int64_t largest_row;  // d_in - 1 for a dense dictionary
  float largest;        // |value|
};
struct TokenSurvey {
  int64_t not_finite;  // the first token whose x holds NaN or infinity, or -1
  int64_t at;          // the first token with the largest |x - center|, or -1 where all are zero
  float largest;       // |x - center|
  bool extreme;        // in some token, the largest |x - center| is not zero and not within 2^-40 and 2^40
};

// Every kernel once: name, result, arguments. The table's members, each set's declarations and its table are made of this.
#define EXPANDER_KERNELS(KERNEL)                                                                                            \
  KERNEL(encode_topk, void, (const EncodeArguments&))                                                                       \
  KERNEL(decode, void, (const DecodeArguments&))                                                                            \
  KERNEL(decode_backward, void, (const DecodeBackwardArguments&))                                                           \
  KERNEL(encode_backward, void, (const EncodeBackwardArguments&))                                                           \
  KERNEL(loss, void, (const LossArguments&))                                                                                \
  KERNEL(block_omp, void, (const BlockOmpArguments&))                                                                       \
  KERNEL(greedy, void, (const GreedyArguments&))                                                                            \
  KERNEL(thresholding, void, (const GreedyArguments&))                                                                      \
  KERNEL(correlate, void, (const CorrelateArguments&))                                                                      \
  KERNEL(support_gram, void, (const SupportGramArguments&))                                                                 \
  KERNEL(unit_columns, void, (const float* raw, int64_t n, int64_t degree, float floor, float* unit, float* norm, int threads)) \
  KERNEL(unit_columns_backward, void,                                                                                       \
         (const float* gradient, const float* unit, const float* norm, int64_t n, int64_t degree, float* out, int threads)) \
  KERNEL(survey_dictionary, DictionarySurvey, (const Dictionary&))                                                          \
  KERNEL(survey_tokens, TokenSurvey, (const Activations&, int64_t d_in, int threads))                                       \
  KERNEL(largest_size, float, (const float* values, int64_t count))  // infinity where one is NaN

struct KernelTable {
  const char* name;
#define EXPANDER_MEMBER(kernel, result, arguments) result(*kernel) arguments;
  EXPANDER_KERNELS(EXPANDER_MEMBER)
#undef EXPANDER_MEMBER
};

const KernelTable& kernels();             // the best this machine runs
bool select_kernels(const char* name);    // for tests: false if unknown or not runnable
const char* available_kernels();          // comma-separated

}  // namespace expander
