// One sequence through an executor, without scheduler or sampling policy: what `tessera score`
// and the model tests use.
#ifndef TESSERA_ENGINE_EXECUTOR_SEQUENCE_RUNNER_H_
#define TESSERA_ENGINE_EXECUTOR_SEQUENCE_RUNNER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/executor/executor.h"
#include "engine/scheduler/step_plan.h"
#include "engine/watchdog.h"

namespace tessera {

// Uses KV blocks 0, 1, … of the first group; the executor must have enough of them and nobody else
// may use it meanwhile.
class SequenceRunner {
 public:
  // `watchdog`: of steps, perhaps.
  SequenceRunner(Executor& executor, int32_t block_size, Watchdog* watchdog = nullptr)
      : executor_(executor), block_size_(block_size), watchdog_(watchdog) {}

  struct Step {
    absl::Span<const int32_t> token_ids;
    // Logits rows: all tokens of the step, or the last one only.
    bool all_rows = false;
    // Per row >= 0: score this token; -1: draw greedily. Empty: draw greedily everywhere.
    absl::Span<const int32_t> forced;
    int32_t num_logprobs = -1;
    bool return_logits = false;
  };
  // Appends the tokens to the sequence and computes them in one step.
  absl::StatusOr<BatchResult> Append(const Step& step);
  int32_t length() const { return length_; }

 private:
  Executor& executor_;
  const int32_t block_size_;
  Watchdog* const watchdog_;
  int32_t length_ = 0;
  uint64_t step_id_ = 0;
};

struct ScoreResult {
  std::vector<float> logprobs;     // [T - 1]: of token i + 1 given the tokens up to i
  std::vector<int32_t> argmax;     // [T]: most likely next token at every position
  double nll = 0;                  // mean of -logprobs
  std::vector<float> last_logits;  // [vocab_size]
};

// Scores a sequence in chunks of at most `max_chunk` tokens.
absl::StatusOr<ScoreResult> ScoreTokens(Executor& executor, int32_t block_size, int32_t max_chunk,
                                        absl::Span<const int32_t> token_ids,
                                        Watchdog* watchdog = nullptr);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_SEQUENCE_RUNNER_H_
