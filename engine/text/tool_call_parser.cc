#include "engine/text/tool_call_parser.h"

#include <algorithm>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/partial_match.h"

namespace tessera {
namespace {

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";
constexpr std::string_view kFunction = "<function=";
constexpr std::string_view kFence = "```";
constexpr std::string_view kWhiteSpace = " \t\n\r";
// What may stand between two calls, or between a call and its closing tag.
constexpr std::string_view kBehind = " \t\n\r,}]`";

bool IsPartOf(std::string_view text, std::string_view tag) {
  return text.size() < tag.size() && text == tag.substr(0, text.size());
}

}  // namespace

// Looks no further than the tag: there may be many.
size_t FindCallTag(std::string_view text, ToolCallFormat format) {
  size_t at = text.find('<');
  while (at != std::string_view::npos) {
    const std::string_view rest = text.substr(at);
    if (rest.starts_with(kOpen)) break;
    if (format == ToolCallFormat::kCoderXml && rest.starts_with(kFunction)) break;
    at = text.find('<', at + 1);
  }
  return at;
}

size_t PartialCallTagLength(std::string_view text, ToolCallFormat format) {
  const size_t tag = PartialMatchLength(text, kOpen);
  if (format != ToolCallFormat::kCoderXml) return tag;
  return std::max(tag, PartialMatchLength(text, kFunction));
}

ToolCallParser::ToolCallParser(Options options) : options_(std::move(options)) {}

ToolCallOutput ToolCallParser::Push(std::string_view content) {
  ToolCallOutput output;
  buffer_ += content;
  Consume(TextEnd::kMore, &output);
  return output;
}

ToolCallOutput ToolCallParser::Finish(TextEnd end) {
  ToolCallOutput output;
  Consume(end, &output);
  if (!behind_call_) output.content += held_space_;
  held_space_.clear();
  return output;
}

void ToolCallParser::Consume(TextEnd end, ToolCallOutput* output) {
  bool more = true;
  while (more) {
    switch (place_) {
      case Place::kText:
        more = ConsumeText(end, output);
        break;
      case Place::kBlockStart:
        more = ConsumeBlockStart(end, output);
        break;
      case Place::kBlock:
        more = ConsumeBlock(end, output);
        break;
      case Place::kBehindBlock:
        more = ConsumeBehindBlock(end);
        break;
    }
  }
}

bool ToolCallParser::ConsumeText(TextEnd end, ToolCallOutput* output) {
  const std::string_view text = pending();
  const size_t open = FindCallTag(text, options_.format);
  if (open == std::string_view::npos) {
    const size_t held = end == TextEnd::kMore ? PartialCallTagLength(text, options_.format) : 0;
    EmitText(text.substr(0, text.size() - held), output);
    Drop(text.size() - held);
    return false;
  }
  const bool is_wrapped = text.substr(open).starts_with(kOpen);
  const std::string_view opener = is_wrapped ? kOpen : kFunction;
  EmitText(text.substr(0, open), output);
  Drop(open);
  opened_at_ = consumed_;
  Drop(opener.size());
  BeginBlocks(std::string(opener), is_wrapped);
  if (!is_wrapped) {
    block_ = NewCoderXmlBlock(options_.tools, is_wrapped);
    place_ = Place::kBlock;
  }
  return true;
}

void ToolCallParser::BeginBlocks(std::string opener, bool is_wrapped) {
  place_ = Place::kBlockStart;
  opener_ = std::move(opener);
  is_wrapped_ = is_wrapped;
  start_ = 0;
  saw_tag_ = saw_bracket_ = saw_fence_ = false;
  block_is_call_ = false;
}

// It is text; there may be other blocks in it.
bool ToolCallParser::AbandonBlock(ToolCallOutput* output) {
  block_.reset();
  EmitText(opener_, output);
  place_ = Place::kText;
  return true;
}

bool ToolCallParser::SkipWrapping(std::string_view rest) {
  if (rest.starts_with(kOpen) && !std::exchange(saw_tag_, true)) {
    start_ += kOpen.size();
    return true;
  }
  if (rest.starts_with('[') && !std::exchange(saw_bracket_, true)) {
    ++start_;
    return true;
  }
  if (rest.starts_with(kFence) && !std::exchange(saw_fence_, true)) {
    start_ += kFence.size();
    // The language.
    while (start_ < pending().size() && pending()[start_] >= 'a' && pending()[start_] <= 'z') {
      ++start_;
    }
    return true;
  }
  return false;
}

bool ToolCallParser::ConsumeBlockStart(TextEnd end, ToolCallOutput* output) {
  const std::string_view text = pending();
  std::string_view rest;
  do {
    start_ = std::min(text.find_first_not_of(kWhiteSpace, start_), text.size());
    rest = text.substr(start_);
    // A fence's language may go on.
    if (end == TextEnd::kMore && rest.starts_with(kFence) &&
        rest.find_first_not_of("`abcdefghijklmnopqrstuvwxyz") == std::string_view::npos) {
      return rest.size() > kClose.size() && AbandonBlock(output);
    }
  } while (SkipWrapping(rest));
  if (rest.starts_with('{')) {
    block_ = NewHermesBlock();
  } else if (rest.starts_with(kFunction)) {
    start_ += kFunction.size();
    block_ = NewCoderXmlBlock(options_.tools, is_wrapped_);
  } else {
    const bool may_come =
        IsPartOf(rest, kOpen) || IsPartOf(rest, kFunction) || IsPartOf(rest, kFence);
    if (end == TextEnd::kMore && may_come) return false;
    return AbandonBlock(output);
  }
  place_ = Place::kBlock;
  return true;
}

bool ToolCallParser::ConsumeBlock(TextEnd end, ToolCallOutput* output) {
  ToolCallBlock::Progress progress = block_->Advance(pending().substr(start_), end);
  const bool ended = progress.state == ToolCallBlock::State::kEnded;
  const bool whole = progress.whole;
  const size_t block_end = progress.end;
  if (progress.name || block_is_call_) EmitCall(std::move(progress), output);
  if (!ended && end == TextEnd::kMore) return false;
  if (!block_is_call_) return AbandonBlock(output);
  block_.reset();
  if (!whole) ++num_broken_calls_;
  Drop(ended ? start_ + block_end : pending().size());
  place_ = Place::kBehindBlock;
  is_wrapped_ = is_wrapped_ && whole;
  space_ = 0;
  return true;
}

bool ToolCallParser::ConsumeBehindBlock(TextEnd end) {
  const std::string_view text = pending();
  const std::string_view skipped = is_wrapped_ ? kBehind : kWhiteSpace;
  space_ = std::min(text.find_first_not_of(skipped, space_), text.size());
  const std::string_view rest = text.substr(space_);
  const bool has_more = end == TextEnd::kMore;
  if (rest.starts_with(kClose)) {
    Drop(space_ + kClose.size());
  } else if (is_wrapped_ && (rest.starts_with('{') || rest.starts_with(kFunction))) {
    std::string between(text.substr(0, space_));
    Drop(space_);
    BeginBlocks(std::move(between), is_wrapped_);
    return true;
  } else if (has_more && (IsPartOf(rest, kClose) || IsPartOf(rest, kFunction))) {
    return false;
  } else if (!has_more && IsPartOf(rest, kClose)) {
    Drop(text.size());
  }
  place_ = Place::kText;
  return true;
}

// What is dropped is moved out of the way at once only when less than it is left: every byte moves
// a bounded number of times.
void ToolCallParser::Drop(size_t count) {
  consumed_ += count;
  dropped_ += count;
  if (2 * dropped_ < buffer_.size()) return;
  buffer_.erase(0, dropped_);
  dropped_ = 0;
}

void ToolCallParser::EmitText(std::string_view text, ToolCallOutput* output) {
  const size_t last = text.find_last_not_of(kWhiteSpace);
  const size_t body = last == std::string_view::npos ? 0 : last + 1;
  if (body > 0) {
    output->content += std::exchange(held_space_, {});
    output->content += text.substr(0, body);
    behind_call_ = false;
  }
  held_space_ += text.substr(body);
}

void ToolCallParser::EmitCall(ToolCallBlock::Progress progress, ToolCallOutput* output) {
  if (progress.name) {
    held_space_.clear();
    behind_call_ = true;
    block_is_call_ = true;
    if (num_calls_ == 0) first_call_ = opened_at_;
    std::string id = options_.make_id ? options_.make_id() : jinja::Concat("call_", num_calls_);
    output->calls.push_back({num_calls_++, std::move(id), *std::move(progress.name), ""});
  } else if (progress.arguments.empty()) {
    return;
  } else if (output->calls.empty()) {
    output->calls.push_back({.index = num_calls_ - 1});
  }
  output->calls.back().arguments_fragment += progress.arguments;
}

}  // namespace tessera
