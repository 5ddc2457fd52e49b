// What a measured load consists of: how long requests are, and when each is sent.
#ifndef TESSERA_SERVER_COMMANDS_LOAD_PLAN_H_
#define TESSERA_SERVER_COMMANDS_LOAD_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

struct PlannedRequest {
  absl::Duration at;         // since the start; meaningless in a closed loop
  int32_t input_len = 128;   // tokens
  int32_t output_len = 128;  // tokens
};

struct LoadPlan {
  std::vector<PlannedRequest> requests;  // open loop: in the order of `at`
  // Open loop: every request has its time, whatever became of those before. Closed loop: the next
  // one is sent when one ends.
  bool is_open = false;
  int32_t concurrency = 1;  // at a time; open loop: at most
};

struct LoadShape {
  int32_t num_requests = 1;
  int32_t concurrency = 1;
  int32_t input_len = 128;   // tokens; the median where lengths vary
  int32_t output_len = 128;  // tokens; the same
  // Lengths as conversations have them: log-normal around the medians, with a standard deviation of
  // the logarithm of 1.0 for prompts and 0.7 for answers, at most 16 medians.
  bool chat_lengths = false;
  double rate = 0;  // requests per second of a Poisson process; 0: closed loop
  uint64_t seed = 1;
};

// The same shape is the same plan.
LoadPlan MakeLoadPlan(const LoadShape& shape);

// One request a line: {"at": seconds, "input": tokens, "output": tokens}; "at" in every line (an
// open loop, whose order is mended) or in none. Takes the lengths of `shape` no notice of; times
// without "at" are those of its rate, and its num_requests, if not 0, is how many lines are used.
// INVALID_ARGUMENT names the line.
absl::StatusOr<LoadPlan> PlanOfTrace(const std::string& text, const LoadShape& shape);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_LOAD_PLAN_H_
