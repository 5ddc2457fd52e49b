#include "engine/scheduler/thinking_budget.h"

#include <algorithm>
#include <cstddef>

namespace tessera {

ThinkingBudget::ThinkingBudget(const ReasoningParams& params, absl::Span<const int32_t> prompt)
    : params_(params), enforced_(params.cut_before_start) {
  if (Disabled()) return;
  for (size_t i = prompt.size(); i > 0; --i) {
    if (prompt[i - 1] == params.end_token_id) return;
    if (prompt[i - 1] == params.start_token_id) {
      thinking_ = true;
      section_tokens_ = static_cast<int32_t>(prompt.size() - i);
      return;
    }
  }
}

bool ThinkingBudget::Disabled() const {
  return params_.starts_closed || params_.start_token_id < 0 || params_.end_token_id < 0;
}

bool ThinkingBudget::IsOver() const {
  return thinking_ && params_.max_thinking_tokens.has_value() &&
         section_tokens_ >= *params_.max_thinking_tokens && !params_.close_token_ids.empty();
}

int32_t ThinkingBudget::ForcedToken() const {
  if (num_forced_ == 0 && !IsOver()) return -1;
  return params_.close_token_ids[num_forced_];
}

bool ThinkingBudget::MayForceAfter(int32_t unknown) const {
  if (Disabled() || !params_.max_thinking_tokens.has_value() || params_.close_token_ids.empty()) {
    return false;
  }
  // Outside of a section the first of the unknown tokens may begin one.
  const int32_t longest = thinking_ ? section_tokens_ + unknown : unknown - 1;
  return num_forced_ > 0 || longest >= *params_.max_thinking_tokens;
}

void ThinkingBudget::Push(int32_t token) {
  if (Disabled()) {
    ++answer_tokens_;
    return;
  }
  const bool was_forced = ForcedToken() == token;
  if (was_forced) {
    enforced_ = true;
    ++num_forced_;
  }
  if (token == params_.start_token_id) {
    thinking_ = true;
    section_tokens_ = 0;
  } else if (token == params_.end_token_id) {
    thinking_ = false;
    // Drawn while others were forced: they are of no use any more.
    if (!was_forced) num_forced_ = 0;
  } else if (thinking_) {
    ++section_tokens_;
    ++reasoning_tokens_;
  } else {
    ++answer_tokens_;
  }
  if (num_forced_ == static_cast<int32_t>(params_.close_token_ids.size())) {
    if (num_forced_ > 0) thinking_ = false;  // the sequence closes, whatever it consists of
    num_forced_ = 0;
  }
}

}  // namespace tessera
