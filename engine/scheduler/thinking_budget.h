// Whether a sequence is inside <think>…</think>, how long, and what is forced when it thinks too
// long.
#ifndef TESSERA_ENGINE_SCHEDULER_THINKING_BUDGET_H_
#define TESSERA_ENGINE_SCHEDULER_THINKING_BUDGET_H_

#include <cstdint>

#include "absl/types/span.h"
#include "engine/types.h"

namespace tessera {

// Works on token ids. A later <think> opens a new section and restarts the budget, not the count of
// reasoning tokens. Not thread-safe.
class ThinkingBudget {
 public:
  // `params` must outlive the object. A <think> left open by the prompt counts from there.
  ThinkingBudget(const ReasoningParams& params, absl::Span<const int32_t> prompt);

  // The token the next step has to produce, -1: free choice.
  int32_t ForcedToken() const;
  // Whether a token may be forced once `unknown` more have been pushed, whatever they are.
  bool MayForceAfter(int32_t unknown) const;
  // The next output token.
  void Push(int32_t token);

  // Output tokens between the tags, forced ones included, the tags themselves not.
  int32_t reasoning_tokens() const { return reasoning_tokens_; }
  bool enforced() const { return enforced_; }
  // Output tokens that are no reasoning, nor one of the tags.
  int32_t answer_tokens() const { return answer_tokens_; }

 private:
  bool Disabled() const;
  bool IsOver() const;

  const ReasoningParams& params_;
  bool thinking_ = false;
  bool enforced_ = false;
  int32_t section_tokens_ = 0;  // since the last <think>
  int32_t num_forced_ = 0;      // of close_token_ids
  int32_t reasoning_tokens_ = 0;
  int32_t answer_tokens_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_THINKING_BUDGET_H_
