// One choice of one request as the scheduler sees it: tokens, progress, blocks.
#ifndef TESSERA_ENGINE_SCHEDULER_SEQUENCE_H_
#define TESSERA_ENGINE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/grammar/structure_state.h"
#include "engine/grammar/token_mask.h"
#include "engine/kv/kv_cache_manager.h"
#include "engine/scheduler/beam_group.h"
#include "engine/scheduler/thinking_budget.h"
#include "engine/scheduler/token_counts.h"
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
  std::shared_ptr<BeamGroup> beams;       // of a request that searches; null: none
  bool wants_prompt_logprobs = false;     // the first choice of a request that asks for them
  absl::Time queued_at;                   // engine time; ageing and order count from here
};

enum class SequenceState : uint8_t { kWaiting, kRunning, kFinished };

// Why the tokens of a sequence end it.
struct TokenFinish {
  FinishReason reason = FinishReason::kStop;
  int32_t stop_token_id = -1;
};

struct TenantAccount;

// Owned by a Scheduler. Members below the line belong to it.
class Sequence {
 public:
  // `max_model_len` bounds prompt and output together.
  Sequence(SequenceInit init, int32_t max_model_len);

  // A beam that goes on from where this one is; waiting, without blocks.
  std::unique_ptr<Sequence> Fork(SequenceId id) const;

  SequenceId id() const { return init_.id; }
  const GenerateRequest& request() const { return *init_.request; }
  uint64_t seed() const { return init_.seed; }
  absl::Time queued_at() const { return init_.queued_at; }
  const std::vector<int32_t>& tokens() const { return tokens_; }  // prompt, then output
  int32_t num_tokens() const { return static_cast<int32_t>(tokens_.size()); }
  int32_t prompt_length() const { return prompt_length_; }
  int32_t num_output() const { return num_tokens() - prompt_length_; }
  const std::vector<int32_t>& stop_ids() const { return init_.stop_ids; }
  // What the next draw may choose from; null: every token. Valid until the next call or Append.
  const TokenMask* NextMask();
  BeamGroup* beams() const { return init_.beams.get(); }  // null: draws its tokens
  // Alternatives that a beam's row lists.
  int32_t num_candidates() const {
    return CandidatesPerBeam(request(), static_cast<int32_t>(stop_ids().size()));
  }
  // Whether `token` as the next one would end the text of a beam; the sequence does not change.
  // NextMask must be of this step.
  bool WouldEnd(int32_t token, TokenFinish* finish) const;
  // The token the next step has to produce, -1: free choice.
  int32_t ForcedToken() const;
  bool has_penalties() const { return counts_output_; }
  // What the penalties of the next draw look at; empty without penalties.
  const TokenCounts& token_counts() const { return token_counts_; }
  const ThinkingBudget& thinking() const { return thinking_; }
  // Tokens including those that steps under way draw: the position of the next token to draw.
  int32_t next_position() const { return num_tokens() + num_drawing; }
  // Whether the next token comes too early to end the text: fewer count so far than min_tokens asks
  // for, even if all of those that steps under way draw do. A structure says itself where it may
  // end.
  bool in_min_tokens() const {
    return structure_ == nullptr && counted_tokens() + num_drawing < request().stopping.min_tokens;
  }
  bool reads_prefix_cache() const;
  // Prompt logprobs still to be reported: those of positions [num_prompt_logprobs + 1, prompt).
  bool needs_prompt_logprobs() const;

  // Whether a step may be planned for it now. While a step draws its next token, not if that
  // token ends it by length for sure, nor if the draw after it depends on which one it is: a word
  // of several tokens that may have to be banned, a thinking budget that may close, a token that
  // may be reasoning and not count for min_tokens, a structure. A beam waits for all others.
  bool CanBePlanned() const;

  // Whether the next token to be appended may end the text.
  bool may_stop() const { return counted_tokens() >= request().stopping.min_tokens; }
  // Appends a sampled token and says whether it ends the sequence.
  bool Append(int32_t token, TokenFinish* finish);
  // The last token was part of a structure: stop strings do not end it.
  bool in_structure() const { return in_structure_; }
  // The last token broke the structure, or that could not be told: the request has to end.
  bool structure_broken() const { return structure_broken_; }

  // --- Progress, changed by the scheduler ---
  SequenceState state = SequenceState::kWaiting;
  TenantAccount* tenant = nullptr;  // while it waits or runs
  bool planned = false;             // part of the step that is being planned
  int32_t num_steps = 0;            // steps under way that it is part of
  int32_t num_computed = 0;         // leading tokens whose K and V are in the blocks
  int32_t num_planned = 0;          // the same once the steps under way have ended
  int32_t num_drawing = 0;   // tokens that steps under way draw; the host does not know them yet
  int32_t drawing_row = -1;  // row of the latest of them, in the last planned step
  int32_t num_preemptions = 0;
  int32_t num_prompt_logprobs = 0;  // reported, or asked for in a step under way
  int32_t num_cached = -1;  // prompt tokens found at the first admission; -1: never admitted
  SequenceBlocks kv;
  int32_t penalty_slot = -1;      // see PenaltySlots
  bool penalties_listed = false;  // a plan has brought the counts to the slot
  double beam_sum = 0;            // of the output's log-probabilities
  // What may follow a beam, once a step has said so; the beam is in no step then.
  std::optional<BeamCandidates> candidates;
  std::vector<TokenLogprobs> beam_logprobs;  // of the output, when the request asks for them

 private:
  Sequence(const Sequence& parent, SequenceId id);
  // Leaves a structure that costs a penalty when the mask does not allow `token`.
  bool LeavesStructure(int32_t token) const;
  bool Ends(int32_t token, StructureState::Verdict verdict, bool may_end, int32_t length,
            TokenFinish* finish) const;
  bool counts_answer() const {
    return request().reasoning.parse && !request().stopping.stop_in_reasoning;
  }
  // Output tokens that count for min_tokens.
  int32_t counted_tokens() const {
    return counts_answer() ? thinking_.answer_tokens() : num_output();
  }

  const SequenceInit init_;
  const int32_t prompt_length_;
  int32_t max_tokens_;  // prompt and output
  std::vector<int32_t> tokens_;
  bool lists_prompt_tokens_ = false;  // for penalties
  bool counts_output_ = false;
  bool bans_long_words_ = false;  // of several tokens
  TokenCounts token_counts_;
  ThinkingBudget thinking_;
  std::unique_ptr<StructureState> structure_;  // null: none
  const TokenMask* mask_ = nullptr;            // what NextMask returned last
  bool in_structure_ = false;
  bool structure_broken_ = false;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_SEQUENCE_H_
