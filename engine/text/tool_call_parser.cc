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
  pending_ += content;
  // Every tag ends with '>': no need to look through a growing block for anything else.
  if (in_block_ && content.find('>') == std::string_view::npos) return output;
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
  while (in_block_ ? ConsumeBlock(at_end, output) : ConsumeText(at_end, output)) {
  }
}

// Both return whether the other one has something to do now.
bool ToolCallParser::ConsumeText(bool at_end, ToolCallOutput* output) {
  const size_t open = pending_.find(kOpen);
  if (open != std::string::npos) {
    EmitText(std::string_view(pending_).substr(0, open), output);
    pending_.erase(0, open + kOpen.size());
    in_block_ = true;
    return true;
  }
  const size_t held = at_end ? 0 : PartialMatchLength(pending_, kOpen);
  EmitText(std::string_view(pending_).substr(0, pending_.size() - held), output);
  pending_.erase(0, pending_.size() - held);
  return false;
}

bool ToolCallParser::ConsumeBlock(bool at_end, ToolCallOutput* output) {
  std::optional<ToolCallSyntax::BlockEnd> end = syntax_->FindEnd(pending_);
  if (!end && !at_end) return false;
  if (!end && EmitCall(pending_, output)) {
    pending_.clear();
    in_block_ = false;
    return false;
  }
  if (!end) {
    // No well-formed block: what looks like its end is one, so that later blocks survive.
    const size_t close = pending_.find(kClose);
    end = close == std::string::npos ? ToolCallSyntax::BlockEnd{pending_.size(), 0}
                                     : ToolCallSyntax::BlockEnd{close, kClose.size()};
  }
  in_block_ = false;
  if (!EmitCall(std::string_view(pending_).substr(0, end->size), output)) {
    EmitText(kOpen, output);
    EmitText(std::string_view(pending_).substr(0, end->size + end->tag), output);
  }
  pending_.erase(0, end->size + end->tag);
  return true;
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

bool ToolCallParser::EmitCall(std::string_view block, ToolCallOutput* output) {
  std::optional<ToolCallSyntax::Call> call = syntax_->Parse(block);
  if (!call) return false;
  held_space_.clear();
  behind_call_ = true;
  std::string id = options_.make_id ? options_.make_id() : jinja::Concat("call_", num_calls_);
  output->calls.push_back(
      {num_calls_++, std::move(id), std::move(call->name), std::move(call->arguments)});
  return true;
}

}  // namespace tessera
