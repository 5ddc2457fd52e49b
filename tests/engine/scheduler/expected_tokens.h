// What a request has to produce when it runs alone, straight from the rules.
#ifndef TESSERA_TESTS_ENGINE_SCHEDULER_EXPECTED_TOKENS_H_
#define TESSERA_TESTS_ENGINE_SCHEDULER_EXPECTED_TOKENS_H_

#include <cstdint>
#include <vector>

#include "engine/types.h"

namespace tessera {

struct ExpectedOutput {
  std::vector<int32_t> tokens;  // output
  FinishReason reason = FinishReason::kLength;
  bool unusable = false;               // ended because nothing could be drawn
  std::vector<float> prompt_logprobs;  // of positions 1 … prompt length - 1
  int32_t reasoning_tokens = 0;
};

struct ExpectedOptions {
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids;
  int32_t max_model_len = 0;
  int32_t vocab_size = 0;
};

ExpectedOutput ExpectedTokens(const GenerateRequest& request, const ExpectedOptions& options);

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_SCHEDULER_EXPECTED_TOKENS_H_
