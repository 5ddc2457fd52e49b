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

ReasoningParser::ReasoningParser(Options options)
    : options_(std::move(options)), state_(options_.initial) {}

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
  Consume(TextEnd::kMore, &delta);
  return delta;
}

ReasoningDelta ReasoningParser::Finish(TextEnd end) {
  ReasoningDelta delta;
  Consume(end, &delta);
  held_newlines_.clear();
  return delta;
}

void ReasoningParser::Consume(TextEnd end, ReasoningDelta* delta) {
  if (state_ == ReasoningState::kStart && !ConsumeStart(end, delta)) return;
  if (state_ == ReasoningState::kReasoning && !ConsumeReasoning(end, delta)) return;
  EmitContent(pending_, delta);
  pending_.clear();
}

// Each Consume function returns whether the state was left, so that the next one takes over.
bool ReasoningParser::ConsumeStart(TextEnd end, ReasoningDelta* delta) {
  space_ = std::min(pending_.find_first_not_of(kWhiteSpace, space_), pending_.size());
  const std::string_view rest = std::string_view(pending_).substr(space_);
  if (rest.substr(0, kOpen.size()) == kOpen) {
    pending_.erase(0, space_ + kOpen.size());
    state_ = ReasoningState::kReasoning;
    return true;
  }
  if (end == TextEnd::kMore && kOpen.substr(0, rest.size()) == rest) return false;
  state_ = ReasoningState::kContent;
  EmitContent(std::exchange(pending_, {}), delta);
  return true;
}

bool ReasoningParser::ConsumeReasoning(TextEnd end, ReasoningDelta* delta) {
  while (true) {
    if (const size_t close = pending_.find(kClose, scanned_); close != std::string::npos) {
      EndReasoning(close, kClose.size(), delta);
      return true;
    }
    size_t held = end == TextEnd::kMore ? PartialMatchLength(pending_, kClose) : 0;
    scanned_ = pending_.size() - held;
    if (!probe_) {
      const size_t call =
          options_.calls ? FindCallTag(pending_, options_.calls->format) : std::string::npos;
      if (call == std::string::npos) {
        if (options_.calls && end == TextEnd::kMore) {
          held = std::max(held, PartialCallTagLength(pending_, options_.calls->format));
        }
        ShowReasoning(pending_.size() - held, delta);
        return false;
      }
      ShowReasoning(call, delta);
      probe_.emplace(*options_.calls);
      probed_ = shown_probed_ = 0;
    }
    if (ProbeCall(end, delta)) return true;
    if (probe_) return false;
  }
}

bool ReasoningParser::ProbeCall(TextEnd end, ReasoningDelta* delta) {
  if (!probe_->first_call()) {
    const std::string_view text = std::string_view(pending_).substr(
        probed_ - shown_probed_, scanned_ - (probed_ - shown_probed_));
    const size_t no_call = probe_->Push(text).content.size();
    probed_ += text.size();
    if (!probe_->first_call()) {
      shown_probed_ += no_call;
      ShowReasoning(no_call, delta);
    }
  }
  if (end != TextEnd::kMore) probe_->Finish(end);
  if (const auto call = probe_->first_call()) {
    if (end == TextEnd::kMore) return false;
    EndReasoning(*call - shown_probed_, 0, delta);
    return true;
  }
  // All of it was no call.
  if (end != TextEnd::kMore) ShowReasoning(pending_.size(), delta);
  if (end != TextEnd::kMore || shown_probed_ == probed_) probe_.reset();
  return false;
}

void ReasoningParser::ShowReasoning(size_t length, ReasoningDelta* delta) {
  EmitReasoning(std::string_view(pending_).substr(0, length), delta);
  pending_.erase(0, length);
  scanned_ -= std::min(length, scanned_);
}

void ReasoningParser::EndReasoning(size_t length, size_t tag, ReasoningDelta* delta) {
  ShowReasoning(length, delta);
  pending_.erase(0, tag);
  probe_.reset();
  held_newlines_.clear();
  strip_content_ = true;
  state_ = ReasoningState::kContent;
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
