#include "server/response_accumulator.h"

#include <algorithm>
#include <utility>

#include "engine/text/reasoning_steps.h"
#include "server/thinking_choice.h"

namespace tessera {
namespace {

constexpr int64_t kBytesPerToken = 4;
constexpr int64_t kBytesPerLogprob = 48;  // an object each, and its place in a list
constexpr int64_t kBytesPerDelta = 32;

void SetUsage(const Usage& usage, v1::Usage* out) {
  out->set_prompt_tokens(usage.prompt_tokens);
  out->set_cached_tokens(usage.cached_tokens);
  out->set_completion_tokens(usage.completion_tokens);
  out->set_reasoning_tokens(usage.reasoning_tokens);
}

// Returns the size of what was added.
int64_t AddLogprobs(const std::vector<TokenLogprobs>& in,
                    google::protobuf::RepeatedPtrField<v1::TokenLogprobs>* out) {
  int64_t bytes = 0;
  for (const TokenLogprobs& entry : in) {
    v1::TokenLogprobs* added = out->Add();
    added->set_token_id(entry.token);
    added->set_logprob(entry.logprob);
    added->set_rank(entry.rank);
    for (const TokenAlternative& alternative : entry.top) {
      v1::TokenAlternative* top = added->add_top();
      top->set_token_id(alternative.token);
      top->set_logprob(alternative.logprob);
    }
    bytes += kBytesPerLogprob * static_cast<int64_t>(1 + entry.top.size());
  }
  return bytes;
}

int64_t AddToolCall(const ToolCallDelta& delta, v1::Choice* choice) {
  v1::ToolCall* call = nullptr;
  for (v1::ToolCall& existing : *choice->mutable_tool_calls()) {
    if (existing.index() == delta.index) call = &existing;
  }
  if (call == nullptr) {
    call = choice->add_tool_calls();
    call->set_index(delta.index);
  }
  if (!delta.id.empty()) call->set_id(delta.id);
  if (!delta.name.empty()) call->set_name(delta.name);
  call->mutable_arguments()->append(delta.arguments_fragment);
  return static_cast<int64_t>(delta.id.size() + delta.name.size() +
                              delta.arguments_fragment.size());
}

v1::Finish::Reason ReasonOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::Finish::REASON_STOP;
    case FinishReason::kLength:
      return v1::Finish::REASON_LENGTH;
    case FinishReason::kToolCalls:
      return v1::Finish::REASON_TOOL_CALLS;
    case FinishReason::kCancelled:
      break;
  }
  return v1::Finish::REASON_CANCELLED;
}

void SetFinish(const ChoiceFinish& finish, v1::Finish* out) {
  out->set_reason(ReasonOf(finish.reason));
  out->set_thinking_budget_enforced(finish.thinking_budget_enforced);
  if (finish.confidence) {
    out->mutable_confidence()->set_mean(finish.confidence->mean);
    out->mutable_confidence()->set_lowest(finish.confidence->lowest);
    out->mutable_confidence()->set_tokens(finish.confidence->num_tokens);
  }
  if (finish.beam_score) out->set_beam_score(*finish.beam_score);
  if (finish.stop_string) {
    out->set_stop(*finish.stop_string);
  } else if (finish.stop_token_id) {
    out->set_stop_token_id(*finish.stop_token_id);
  }
}

}  // namespace

void ResponseAccumulator::Begin(std::string request_id, const v1::GenerateRequest& request) {
  const v1::ResponseOptions& response = request.response();
  request_id_ = std::move(request_id);
  with_token_ids_ = !response.has_token_ids() || response.token_ids();
  with_steps_ = response.reasoning_steps();
  thinking_ = ChosenThinking(request);
}

v1::Choice* ResponseAccumulator::ChoiceEntry(int32_t index) {
  for (v1::Choice& choice : *pending_.mutable_choices()) {
    if (choice.index() == index) return &choice;
  }
  v1::Choice* choice = pending_.add_choices();
  choice->set_index(index);
  return choice;
}

void ResponseAccumulator::Add(TokenDelta delta) {
  v1::Choice* choice = ChoiceEntry(delta.choice);
  bytes_ += kBytesPerDelta + static_cast<int64_t>(delta.text.size() + delta.reasoning.size());
  choice->mutable_text()->append(delta.text);
  choice->mutable_reasoning()->append(delta.reasoning);
  if (with_token_ids_) {
    choice->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
    bytes_ += kBytesPerToken * static_cast<int64_t>(delta.token_ids.size());
  }
  for (const ToolCallDelta& call : delta.tool_calls) bytes_ += AddToolCall(call, choice);
  bytes_ += AddLogprobs(delta.logprobs, choice->mutable_logprobs());
  bytes_ += AddLogprobs(delta.prompt_logprobs, choice->mutable_prompt_logprobs());
  SetUsage(delta.usage, choice->mutable_usage());
  if (delta.finish) SetFinish(*delta.finish, choice->mutable_finish());
  if (with_steps_) AddSteps(delta, choice);

  const auto index = static_cast<size_t>(delta.choice);
  if (index >= usage_.size()) usage_.resize(index + 1);
  usage_[index] = delta.usage;
}

void ResponseAccumulator::AddSteps(const TokenDelta& delta, v1::Choice* choice) {
  const auto index = static_cast<size_t>(delta.choice);
  if (index >= reasoning_.size()) reasoning_.resize(index + 1);
  reasoning_[index].append(delta.reasoning);
  if (!delta.finish) return;
  bytes_ += static_cast<int64_t>(reasoning_[index].size());
  for (std::string& step : SplitReasoningSteps(reasoning_[index])) {
    choice->add_reasoning_steps(std::move(step));
  }
  reasoning_[index].clear();
}

v1::GenerateResponse ResponseAccumulator::Take() {
  Usage total;
  // The other choices find in the cache what the first one computed.
  if (!usage_.empty()) total.cached_tokens = usage_.front().cached_tokens;
  for (const Usage& usage : usage_) {
    total.prompt_tokens = std::max(total.prompt_tokens, usage.prompt_tokens);
    total.completion_tokens += usage.completion_tokens;
    total.reasoning_tokens += usage.reasoning_tokens;
  }
  SetUsage(total, pending_.mutable_usage());
  pending_.set_request_id(request_id_);
  if (thinking_) *pending_.mutable_thinking() = *std::exchange(thinking_, std::nullopt);
  v1::GenerateResponse taken;
  taken.Swap(&pending_);
  bytes_ = 0;
  return taken;
}

}  // namespace tessera
