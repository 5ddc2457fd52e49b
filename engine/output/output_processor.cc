#include "engine/output/output_processor.h"

#include <algorithm>
#include <utility>

namespace tessera {

TokenLogprobs LogprobsOfRow(const BatchResult& result, int32_t row, int32_t num_top) {
  TokenLogprobs out{
      .token = result.token[row], .logprob = result.logprob[row], .rank = result.rank[row]};
  const int32_t count = std::min(num_top, result.num_top);
  const size_t begin = static_cast<size_t>(row) * result.num_top;
  out.top.reserve(count);
  for (int32_t i = 0; i < count; ++i) {
    out.top.push_back({result.top_tokens[begin + i], result.top_logprobs[begin + i]});
  }
  return out;
}

OutputProcessor::OutputProcessor(std::shared_ptr<const Tokenizer> tokenizer,
                                 std::shared_ptr<const GenerateRequest> request, int32_t choice)
    : request_(std::move(request)),
      choice_(choice),
      detokenizer_(std::move(tokenizer), {.skip_special = request_->output.skip_special_tokens}),
      stops_(request_->stopping.stop, request_->stopping.include_stop),
      splitter_(*request_) {
  usage_.prompt_tokens = static_cast<int32_t>(request_->prompt_ids.size());
}

void OutputProcessor::CollectPromptLogprobs(const SequenceUpdate& update,
                                            const BatchResult& result) {
  const int32_t num_top = request_->sampling.prompt_logprobs.value_or(0);
  for (int32_t i = 0; i < update.num_prompt_rows; ++i) {
    prompt_logprobs_.push_back(LogprobsOfRow(result, update.first_prompt_row + i, num_top));
  }
}

bool OutputProcessor::AppendText(const SequenceUpdate& update, TokenDelta* delta) {
  const int32_t token = update.token;
  std::string text;
  detokenizer_.Push(token, &text);
  if (request_->stopping.stop.empty()) {
    splitter_.Push(token, text, delta);
    return false;
  }
  std::string shown;
  const bool may_stop =
      !update.in_structure && usage_.completion_tokens > request_->stopping.min_tokens;
  const int32_t stop = stops_.Push(text, may_stop, &shown);
  splitter_.Push(-1, shown, delta);
  if (stop == StopMatcher::kNoMatch) return false;
  stop_string_ = request_->stopping.stop[stop];
  return true;
}

void OutputProcessor::FlushText(TokenDelta* delta) {
  if (!stop_string_.has_value()) {
    std::string text;
    detokenizer_.Finish(&text);
    std::string shown;
    stops_.Push(text, /*may_stop=*/false, &shown);
    stops_.Finish(&shown);
    splitter_.Push(-1, shown, delta);
  }
  splitter_.Finish(delta);
}

void OutputProcessor::FinishChoice(const SequenceUpdate& update, TokenDelta* delta) {
  FlushText(delta);
  ChoiceFinish finish{.thinking_budget_enforced = update.thinking_budget_enforced};
  if (stop_string_.has_value()) {
    finish.stop_string = stop_string_;
  } else {
    finish.reason = update.finish->reason;
    if (update.finish->stop_token_id >= 0) finish.stop_token_id = update.finish->stop_token_id;
  }
  if (finish.reason == FinishReason::kStop && splitter_.num_tool_calls() > 0 &&
      !request_->output.named_call) {
    finish.reason = FinishReason::kToolCalls;
  }
  delta->finish = std::move(finish);
  finished_ = true;
}

std::optional<TokenDelta> OutputProcessor::Process(const SequenceUpdate& update,
                                                   const BatchResult& result) {
  CollectPromptLogprobs(update, result);
  usage_.cached_tokens = update.num_cached;
  if (update.token < 0) return std::nullopt;
  ++usage_.completion_tokens;
  usage_.reasoning_tokens = update.reasoning_tokens;

  TokenDelta delta{.choice = choice_};
  delta.token_ids.push_back(update.token);
  delta.prompt_logprobs = std::exchange(prompt_logprobs_, {});
  if (request_->sampling.logprobs.has_value()) {
    delta.logprobs.push_back(LogprobsOfRow(result, update.row, *request_->sampling.logprobs));
  }
  // The text of the token that ends the choice is shown like a stop string.
  const bool ends_by_token = update.finish.has_value() && update.finish->stop_token_id >= 0;
  const bool stopped =
      (!ends_by_token || request_->stopping.include_stop) && AppendText(update, &delta);
  if (stopped || update.finish.has_value()) FinishChoice(update, &delta);
  delta.usage = usage_;
  return delta;
}

}  // namespace tessera
