// A measured load: many equal requests at a fixed concurrency.
#ifndef TESSERA_SERVER_COMMANDS_WORKLOAD_H_
#define TESSERA_SERVER_COMMANDS_WORKLOAD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/text_generator.h"

namespace tessera {

// Ordinary tokens, not control tokens, in every published vocabulary.
constexpr int32_t kPlainTokens = 1000;

struct Workload {
  int32_t num_requests = 1;
  int32_t concurrency = 1;
  int32_t input_len = 128;            // tokens
  int32_t output_len = 128;           // tokens
  int32_t vocab_size = kPlainTokens;  // of the model; prompts draw only from the first kPlainTokens
};

// Times in seconds.
struct WorkloadResult {
  std::vector<double> time_to_first_token;
  std::vector<double> inter_token;
  std::vector<double> end_to_end;
  double seconds = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t num_failed = 0;
  std::string first_error;
};

// Prompts are different random tokens, so that the prefix cache does not help.
WorkloadResult RunWorkload(TextGenerator* generator, const Workload& workload);

// Request number `index` of a workload: greedy, ends by its length.
v1::GenerateRequest WorkloadRequest(const Workload& workload, int32_t index);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_WORKLOAD_H_
