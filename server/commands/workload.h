// A measured load: sends what a plan says and notes how each request fared.
#ifndef TESSERA_SERVER_COMMANDS_WORKLOAD_H_
#define TESSERA_SERVER_COMMANDS_WORKLOAD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/commands/load_plan.h"
#include "server/text_generator.h"

namespace tessera {

// Ordinary tokens, not control tokens, in every published vocabulary.
constexpr int32_t kPlainTokens = 1000;

struct RequestStyle {
  int32_t vocab_size = kPlainTokens;  // of the model; prompts draw only from the first kPlainTokens
  // A chat message of as many common words, for servers whose tokens are not known.
  bool is_chat = false;
  bool ignore_eos = true;  // answers end by their length
};

// Greedy. Prompts of different seeds are different, so that the prefix cache does not help.
v1::GenerateRequest MadeRequest(const PlannedRequest& planned, const RequestStyle& style,
                                int32_t seed);

// One request that was sent. Times in seconds, since it was due: in an open loop that it was sent
// late counts as the server's time, as it does for a user.
struct RequestSample {
  absl::Status status;
  double lateness = 0;
  double time_to_first_token = 0;  // 0: it had none
  double end_to_end = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  std::vector<double> inter_token;
};

struct WorkloadResult {
  std::vector<RequestSample> samples;  // in the order in which they ended
  double seconds = 0;

  int64_t num_failed() const;
  int64_t output_tokens() const;
  // Of the first request that failed; OK: none did.
  absl::Status first_error() const;
  std::vector<double> All(double RequestSample::*time) const;  // of requests that ended well
  std::vector<double> inter_token() const;
};

struct WorkloadProgress {
  double seconds = 0;
  int64_t sent = 0;
  int64_t done = 0;  // failed ones included
  int64_t failed = 0;
  int64_t output_tokens = 0;
};

struct WorkloadControl {
  absl::Duration stop_after = absl::InfiniteDuration();  // nothing is sent later
  const std::atomic<bool>* cancelled =
      nullptr;  // once true: nothing is sent, what runs is given up
  // Called from a thread of its own, every `period`; may be empty.
  std::function<void(const WorkloadProgress&)> on_progress;
  absl::Duration period = absl::Seconds(1);
};

WorkloadResult RunWorkload(TextGenerator* generator, const LoadPlan& plan,
                           const RequestStyle& style, const WorkloadControl& control = {});

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_WORKLOAD_H_
