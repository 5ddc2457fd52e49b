#include "engine/text/tool_call_parser.h"

#include <algorithm>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/partial_match.h"

namespace tessera {
namespace {

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";
constexpr std::string_view kWhiteSpace = " \t\n\r";

}  // namespace

ToolCallParser::ToolCallParser(Options options)
    : options_(std::move(options)),
      syntax_(options_.format == ToolCallFormat::kCoderXml ? MakeCoderXmlSyntax(options_.tools)
                                                           : MakeHermesSyntax()) {}

ToolCallOutput ToolCallParser::Push(std::string_view content) {
  ToolCallOutput output;
  buffer_ += content;
  Consume(/*at_end=*/false, &output);
  return output;
}

ToolCallOutput ToolCallParser::Finish() {
  ToolCallOutput output;
  Consume(/*at_end=*/true, &output);
  if (!behind_call_) output.content += held_space_;
  held_space_.clear();
  return output;
}

void ToolCallParser::Consume(bool at_end, ToolCallOutput* output) {
  bool more = true;
  while (more) {
    switch (place_) {
      case Place::kText:
        more = ConsumeText(at_end, output);
        break;
      case Place::kBlock:
        more = ConsumeBlock(at_end, output);
        break;
      case Place::kBehindBlock:
        more = ConsumeClosingTag(at_end);
        break;
    }
  }
}

bool ToolCallParser::ConsumeText(bool at_end, ToolCallOutput* output) {
  const std::string_view text = pending();
  const size_t open = text.find(kOpen);
  if (open != std::string_view::npos) {
    EmitText(text.substr(0, open), output);
    Drop(open + kOpen.size());
    place_ = Place::kBlock;
    block_ = syntax_->NewBlock();
    block_is_call_ = false;
    return true;
  }
  const size_t held = at_end ? 0 : PartialMatchLength(text, kOpen);
  EmitText(text.substr(0, text.size() - held), output);
  Drop(text.size() - held);
  return false;
}

bool ToolCallParser::ConsumeBlock(bool at_end, ToolCallOutput* output) {
  ToolCallBlock::Progress progress = block_->Advance(pending(), at_end);
  const bool ended = progress.state == ToolCallBlock::State::kEnded;
  const bool whole = progress.whole;
  const size_t end = progress.end;
  if (progress.name || block_is_call_) EmitCall(std::move(progress), output);
  if (!ended && !at_end) return false;
  block_.reset();
  if (!block_is_call_) {
    // Its text may hold other blocks.
    EmitText(kOpen, output);
    place_ = Place::kText;
    return true;
  }
  if (!whole) ++num_broken_calls_;
  Drop(ended ? end : pending().size());
  place_ = Place::kBehindBlock;
  space_ = 0;
  return true;
}

bool ToolCallParser::ConsumeClosingTag(bool at_end) {
  const std::string_view text = pending();
  space_ = std::min(text.find_first_not_of(kWhiteSpace, space_), text.size());
  const std::string_view tag = text.substr(space_, kClose.size());
  if (tag == kClose) {
    Drop(space_ + kClose.size());
  } else if (!at_end && tag == kClose.substr(0, tag.size())) {
    return false;
  }
  place_ = Place::kText;
  return true;
}

// What is dropped is moved out of the way at once only when less than it is left: every byte moves
// a bounded number of times.
void ToolCallParser::Drop(size_t count) {
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
