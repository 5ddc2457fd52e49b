#include "engine/output/output_processor.h"

#include <algorithm>
#include <utility>

namespace tessera {
namespace {

// The tags that parsers look for are control tokens in some tokenizers: whether the text shows
// those is no reason for not finding the tags.
std::vector<int32_t> ParsedTags(const Tokenizer& tokenizer, const GenerateRequest& request) {
  std::vector<int32_t> ids;
  const auto add = [&](std::string_view tag) {
    if (const auto id = tokenizer.TokenId(tag)) ids.push_back(*id);
  };
  if (request.reasoning.parse) {
    add("<think>");
    add("</think>");
  }
  if (request.output.tool_call_format != ToolCallFormat::kNone) {
    add("<tool_call>");
    add("</tool_call>");
  }
  return ids;
}

}  // namespace

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
      tokenizer_(tokenizer),
      detokenizer_(tokenizer, {.skip_special = request_->output.skip_special_tokens,
                               .keep = ParsedTags(*tokenizer, *request_)}),
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
  std::string text;
  detokenizer_.Push(update.token, &text);
  const bool may_stop = update.may_stop && !update.in_structure;
  return !splitter_.Push({.token = update.token, .text = text, .may_stop = may_stop}, delta);
}

void OutputProcessor::FlushText(bool is_cut, TokenDelta* delta) {
  std::string text;
  detokenizer_.Finish(&text);
  splitter_.Push({.token = -1, .text = text}, delta);
  splitter_.Finish(is_cut ? TextEnd::kCut : TextEnd::kStopped, delta);
}

// Called before the token counts as reasoning in usage_.
void OutputProcessor::MeasureConfidence(const SequenceUpdate& update, const BatchResult& result) {
  const ReasoningParams& reasoning = request_->reasoning;
  const bool is_tag =
      update.token == reasoning.start_token_id || update.token == reasoning.end_token_id;
  const bool is_reasoning = update.reasoning_tokens > usage_.reasoning_tokens;
  const bool is_end = update.finish.has_value() && update.finish->stop_token_id >= 0;
  confidence_.Add({.logprob = result.logprob[update.row],
                   .text = tokenizer_->TokenBytes(update.token),
                   .is_answer = !is_tag && !is_reasoning && !is_end});
}

void OutputProcessor::FinishChoice(const SequenceUpdate& update, TokenDelta* delta) {
  const bool is_cut = !splitter_.stop() && update.finish->reason != FinishReason::kStop;
  FlushText(is_cut, delta);
  ChoiceFinish finish{.thinking_budget_enforced = update.thinking_budget_enforced};
  if (splitter_.stop()) {
    finish.stop_string = request_->stopping.stop[*splitter_.stop()];
  } else {
    finish.reason = update.finish->reason;
    if (update.finish->stop_token_id >= 0) finish.stop_token_id = update.finish->stop_token_id;
  }
  finish.confidence = confidence_.result();
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
  if (request_->output.confidence) MeasureConfidence(update, result);
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

TokenDelta OutputProcessor::ProcessBeam(const BeamHypothesis& text, int32_t num_cached) {
  TokenDelta delta{.choice = choice_,
                   .token_ids = text.tokens,
                   .logprobs = text.logprobs,
                   .prompt_logprobs = std::exchange(prompt_logprobs_, {})};
  SequenceUpdate update{.thinking_budget_enforced = text.thinking_budget_enforced};
  const size_t shown = text.stop_token_id >= 0 && !request_->stopping.include_stop
                           ? text.tokens.size() - 1
                           : text.tokens.size();
  for (size_t i = 0; i < shown; ++i) {
    update.token = text.tokens[i];
    AppendText(update, &delta);
  }
  update.finish = TokenFinish{.reason = text.reason, .stop_token_id = text.stop_token_id};
  FinishChoice(update, &delta);
  delta.finish->beam_score = text.score;
  usage_.cached_tokens = num_cached;
  usage_.completion_tokens = static_cast<int32_t>(text.tokens.size());
  usage_.reasoning_tokens = text.reasoning_tokens;
  delta.usage = usage_;
  return delta;
}

}  // namespace tessera
