// One choice of one request as the scheduler sees it: tokens, progress, blocks.
#ifndef TESSERA_ENGINE_SCHEDULER_SEQUENCE_H_
#define TESSERA_ENGINE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/kv/kv_cache_manager.h"
#include "engine/scheduler/thinking_budget.h"
#include "engine/scheduler/token_counts.h"
#include "engine/scheduler/token_mask.h"
#include "engine/types.h"

namespace tessera {

// Unique for the life of the process.
enum class SequenceId : uint64_t {};

struct SequenceInit {
  SequenceId id{};
  std::shared_ptr<const GenerateRequest> request;
  uint64_t seed = 0;
  // Sorted; output tokens that end the text (eos unless ignored, stop ids).
  std::vector<int32_t> stop_ids;
  std::shared_ptr<const TokenMask> mask;  // of the request's choices; null: none
  bool wants_prompt_logprobs = false;     // the first choice of a request that asks for them
  absl::Time queued_at;                   // engine time; ageing and order count from here
};

enum class SequenceState : uint8_t { kWaiting, kRunning, kFinished };

// Why the tokens of a sequence end it.
struct TokenFinish {
  FinishReason reason = FinishReason::kStop;
  int32_t stop_token_id = -1;
};

// Owned by a Scheduler. Members below the line belong to it.
class Sequence {
 public:
  // `max_model_len` bounds prompt and output together.
  Sequence(SequenceInit init, int32_t max_model_len);

  SequenceId id() const { return init_.id; }
  const GenerateRequest& request() const { return *init_.request; }
  uint64_t seed() const { return init_.seed; }
  absl::Time queued_at() const { return init_.queued_at; }
  const std::vector<int32_t>& tokens() const { return tokens_; }  // prompt, then output
  int32_t num_tokens() const { return static_cast<int32_t>(tokens_.size()); }
  int32_t prompt_length() const { return prompt_length_; }
  int32_t num_output() const { return num_tokens() - prompt_length_; }
  const std::vector<int32_t>& stop_ids() const { return init_.stop_ids; }
  // What the next draw may choose from; null: every token.
  const std::shared_ptr<const TokenMask>& mask() const { return init_.mask; }
  const TokenCounts& token_counts() const { return token_counts_; }
  const ThinkingBudget& thinking() const { return thinking_; }
  bool in_min_tokens() const { return num_output() < request().stopping.min_tokens; }
  bool reads_prefix_cache() const;
  // Prompt logprobs still to be reported: those of positions [num_prompt_logprobs + 1, prompt).
  bool needs_prompt_logprobs() const;

  // Appends a sampled token and says whether it ends the sequence.
  bool Append(int32_t token, TokenFinish* finish);

  // --- Progress, changed by the scheduler ---
  SequenceState state = SequenceState::kWaiting;
  bool in_flight = false;    // part of the submitted step
  int32_t num_computed = 0;  // leading tokens whose K and V are in the blocks
  int32_t num_prompt_logprobs = 0;
  int32_t num_cached = -1;  // prompt tokens found at the first admission; -1: never admitted
  SequenceBlocks kv;

 private:
  const SequenceInit init_;
  const int32_t prompt_length_;
  int32_t max_tokens_;  // prompt and output
  std::vector<int32_t> tokens_;
  bool lists_prompt_tokens_ = false;  // for penalties
  bool counts_output_ = false;
  TokenCounts token_counts_;
  ThinkingBudget thinking_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_SEQUENCE_H_
