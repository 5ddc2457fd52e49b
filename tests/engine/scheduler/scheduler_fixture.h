// Builds requests and drives a scheduler step by step.
#ifndef TESSERA_TESTS_ENGINE_SCHEDULER_SCHEDULER_FIXTURE_H_
#define TESSERA_TESTS_ENGINE_SCHEDULER_SCHEDULER_FIXTURE_H_

#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "engine/scheduler/scheduler.h"

namespace tessera {

inline std::shared_ptr<GenerateRequest> MakeRequest(int32_t prompt_length, int32_t max_tokens = 8) {
  auto request = std::make_shared<GenerateRequest>();
  request->prompt_ids.resize(prompt_length);
  std::iota(request->prompt_ids.begin(), request->prompt_ids.end(), 10);
  request->stopping.max_tokens = max_tokens;
  return request;
}

inline std::unique_ptr<Sequence> MakeSequence(uint64_t id, std::shared_ptr<GenerateRequest> request,
                                              absl::Time queued_at = absl::UnixEpoch(),
                                              std::vector<int32_t> stop_ids = {}) {
  std::shared_ptr<const TokenMask> mask = MaskOf(request->sampling, /*vocab_size=*/50);
  const bool wants_prompt_logprobs = request->sampling.prompt_logprobs.has_value();
  return std::make_unique<Sequence>(SequenceInit{.id = static_cast<SequenceId>(id),
                                                 .request = std::move(request),
                                                 .seed = 40 + id,
                                                 .stop_ids = std::move(stop_ids),
                                                 .mask = std::move(mask),
                                                 .wants_prompt_logprobs = wants_prompt_logprobs,
                                                 .queued_at = queued_at},
                                    /*max_model_len=*/1000);
}

inline SchedulerOptions SmallOptions() {
  SchedulerOptions options;
  options.max_num_seqs = 4;
  options.max_num_batched_tokens = 16;
  options.max_prefill_chunk = 8;
  options.block_size = 4;
  options.num_blocks = 64;
  options.max_model_len = 1000;
  options.vocab_size = 50;
  return options;
}

// Every row gives `token` (or what is forced).
inline BatchResult ResultOf(const BatchPlan& plan, int32_t token = 9) {
  BatchResult result;
  for (int32_t forced : plan.sampling.forced) {
    result.token.push_back(forced >= 0 ? forced : token);
    result.logprob.push_back(-1.0F);
    result.rank.push_back(1);
  }
  return result;
}

inline std::vector<int32_t> ChunkLengths(const BatchPlan& plan) {
  std::vector<int32_t> lengths;
  for (int32_t s = 0; s < plan.num_sequences(); ++s) {
    lengths.push_back(plan.cu_seqlens[s + 1] - plan.cu_seqlens[s]);
  }
  return lengths;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_SCHEDULER_SCHEDULER_FIXTURE_H_
