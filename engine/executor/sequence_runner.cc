#include "engine/executor/sequence_runner.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/executor/step_buffers.h"
#include "engine/scheduler/largest_step.h"
#include "kernels/core/status_macros.h"

namespace tessera {

absl::StatusOr<BatchResult> SequenceRunner::Append(const Step& step) {
  const auto count = static_cast<int32_t>(step.token_ids.size());
  StepPlan plan;
  plan.step_id = ++step_id_;
  plan.return_logits = step.return_logits;
  plan.groups.assign(executor_.num_groups(), EmptyPlan());
  BatchPlan& batch = plan.groups[0];
  batch.token_ids.assign(step.token_ids.begin(), step.token_ids.end());
  batch.token_source.assign(count, -1);
  batch.positions.resize(count);
  std::iota(batch.positions.begin(), batch.positions.end(), length_);
  batch.slot_mapping = batch.positions;  // blocks 0, 1, … in order
  batch.cu_seqlens = {0, count};
  length_ += count;
  batch.context_lens = {length_};
  batch.max_blocks = (length_ + block_size_ - 1) / block_size_;
  batch.block_tables.resize(batch.max_blocks);
  std::iota(batch.block_tables.begin(), batch.block_tables.end(), 0);
  const int32_t rows = step.all_rows ? count : 1;
  std::vector<int32_t> next_positions;
  for (int32_t row = count - rows; row < count; ++row) {
    batch.logits_rows.push_back(row);
    next_positions.push_back(batch.positions[row] + 1);
  }
  batch.sampling = GreedyRows(next_positions);
  batch.sampling.num_logprobs.assign(rows, step.num_logprobs);
  if (!step.forced.empty()) batch.sampling.forced.assign(step.forced.begin(), step.forced.end());
  executor_.Submit(std::move(plan));
  if (watchdog_ != nullptr) watchdog_->Begin();
  absl::StatusOr<StepResult> result = executor_.Wait();
  if (watchdog_ != nullptr && !watchdog_->End()) {
    return absl::DeadlineExceededError("the step came too late");
  }
  RETURN_IF_ERROR(result.status());
  return std::move(result->groups[0]);
}

absl::StatusOr<ScoreResult> ScoreTokens(Executor& executor, int32_t block_size, int32_t max_chunk,
                                        absl::Span<const int32_t> token_ids, Watchdog* watchdog) {
  SequenceRunner runner(executor, block_size, watchdog);
  ScoreResult score;
  const size_t total = token_ids.size();
  // The last token runs alone, so that only its logits have to come back.
  for (size_t begin = 0; begin < total;) {
    const size_t end = begin + 1 == total ? total : std::min(begin + max_chunk, total - 1);
    const bool last = end == total;
    const absl::Span<const int32_t> chunk = token_ids.subspan(begin, end - begin);
    // Row i scores token i + 1.
    const absl::Span<const int32_t> next =
        last ? absl::Span<const int32_t>() : token_ids.subspan(begin + 1, end - begin);
    ASSIGN_OR_RETURN(BatchResult result, runner.Append({.token_ids = chunk,
                                                        .all_rows = true,
                                                        .forced = next,
                                                        .num_logprobs = 1,
                                                        .return_logits = last}));
    if (!last) {
      score.logprobs.insert(score.logprobs.end(), result.logprob.begin(), result.logprob.end());
    }
    score.argmax.insert(score.argmax.end(), result.top_tokens.begin(), result.top_tokens.end());
    if (last) score.last_logits = std::move(result.logits);
    begin = end;
  }
  for (float logprob : score.logprobs) score.nll -= logprob;
  if (!score.logprobs.empty()) score.nll /= static_cast<double>(score.logprobs.size());
  return score;
}

}  // namespace tessera
