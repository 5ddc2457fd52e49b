#include "engine/text/reasoning_parser.h"

#include <algorithm>
#include <utility>

#include "engine/text/partial_match.h"

namespace tessera {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::string_view kClose = "</think>";
constexpr std::string_view kWhiteSpace = " \t\n\r\f\v";

// Tokens of white space that may follow a closed block at the end of a prompt.
constexpr size_t kMaxTokensBehindClose = 1;

}  // namespace

ReasoningState InitialReasoningState(const std::vector<int32_t>& prompt_ids,
                                     const ThinkTokens& tokens) {
  for (size_t behind = 0; behind < prompt_ids.size(); ++behind) {
    const int32_t id = prompt_ids[prompt_ids.size() - 1 - behind];
    if (id < 0) continue;
    if (id == tokens.open) return ReasoningState::kReasoning;
    if (id == tokens.close) {
      return behind <= kMaxTokensBehindClose ? ReasoningState::kContent : ReasoningState::kStart;
    }
  }
  return ReasoningState::kStart;
}

ReasoningParser::ReasoningParser(const Options& options)
    : options_(options), state_(options.initial) {}

ReasoningDelta ReasoningParser::Push(int32_t token_id, std::string_view text) {
  ReasoningDelta delta;
  const bool is_tag =
      token_id >= 0 && (token_id == options_.tokens.open || token_id == options_.tokens.close);
  if (!is_tag && pending_.empty() && state_ == ReasoningState::kReasoning &&
      text.find('<') == std::string_view::npos) {
    EmitReasoning(text, &delta);
    return delta;
  }
  pending_ += text;
  Consume(/*at_end=*/false, &delta);
  return delta;
}

ReasoningDelta ReasoningParser::Finish() {
  ReasoningDelta delta;
  Consume(/*at_end=*/true, &delta);
  held_newlines_.clear();
  return delta;
}

void ReasoningParser::Consume(bool at_end, ReasoningDelta* delta) {
  if (state_ == ReasoningState::kStart && !ConsumeStart(at_end, delta)) return;
  if (state_ == ReasoningState::kReasoning && !ConsumeReasoning(at_end, delta)) return;
  EmitContent(pending_, delta);
  pending_.clear();
}

// Each Consume function returns whether the state was left, so that the next one takes over.
bool ReasoningParser::ConsumeStart(bool at_end, ReasoningDelta* delta) {
  space_ = std::min(pending_.find_first_not_of(kWhiteSpace, space_), pending_.size());
  const std::string_view rest = std::string_view(pending_).substr(space_);
  if (rest.substr(0, kOpen.size()) == kOpen) {
    pending_.erase(0, space_ + kOpen.size());
    state_ = ReasoningState::kReasoning;
    return true;
  }
  if (!at_end && kOpen.substr(0, rest.size()) == rest) return false;
  state_ = ReasoningState::kContent;
  EmitContent(std::exchange(pending_, {}), delta);
  return true;
}

bool ReasoningParser::ConsumeReasoning(bool at_end, ReasoningDelta* delta) {
  if (const size_t end = pending_.find(kClose); end != std::string::npos) {
    EmitReasoning(std::string_view(pending_).substr(0, end), delta);
    pending_.erase(0, end + kClose.size());
    held_newlines_.clear();
    strip_content_ = true;
    state_ = ReasoningState::kContent;
    return true;
  }
  const size_t held = at_end ? 0 : PartialMatchLength(pending_, kClose);
  const size_t ready = pending_.size() - held;
  EmitReasoning(std::string_view(pending_).substr(0, ready), delta);
  pending_.erase(0, ready);
  return false;
}

void ReasoningParser::EmitReasoning(std::string_view text, ReasoningDelta* delta) {
  if (!reasoning_begun_) {
    text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
    reasoning_begun_ = !text.empty();
  }
  const size_t last = text.find_last_not_of('\n');
  const size_t body = last == std::string_view::npos ? 0 : last + 1;
  if (body > 0) {
    delta->reasoning += std::exchange(held_newlines_, {});
    delta->reasoning += text.substr(0, body);
  }
  held_newlines_ += text.substr(body);
}

void ReasoningParser::EmitContent(std::string_view text, ReasoningDelta* delta) {
  if (strip_content_) {
    text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
    strip_content_ = text.empty();
  }
  delta->content += text;
}

}  // namespace tessera
