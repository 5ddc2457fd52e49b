#include "engine/output/text_splitter.h"

#include <openssl/rand.h>

#include <array>
#include <iterator>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/text/jinja/json_parse.h"

namespace tessera {
namespace {

ReasoningParser::Options ReasoningOptions(const GenerateRequest& request) {
  const ReasoningParams& params = request.reasoning;
  ReasoningParser::Options options;
  options.tokens.open = params.start_token_id;
  options.tokens.close = params.end_token_id;
  options.initial = params.starts_closed
                        ? ReasoningState::kContent
                        : InitialReasoningState(request.prompt_ids, options.tokens);
  return options;
}

std::string MakeToolCallId() {
  std::array<unsigned char, 12> bytes{};
  // Ids need to be distinct, not secret: zeros with the index appended would still do.
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) bytes.fill(0);
  return absl::StrCat("call_", absl::BytesToHexString(std::string(bytes.begin(), bytes.end())));
}

ToolCallParser::Options ToolOptions(const OutputParams& params) {
  ToolCallParser::Options options{.format = params.tool_call_format};
  // Without usable tools the arguments stay strings; the server has validated them.
  if (auto tools = jinja::ParseJson(params.tools_json); tools.ok()) {
    options.tools = *std::move(tools);
  }
  options.make_id = MakeToolCallId;
  return options;
}

}  // namespace

TextSplitter::TextSplitter(const GenerateRequest& request) {
  if (request.reasoning.parse) reasoning_.emplace(ReasoningOptions(request));
  if (request.output.tool_call_format != ToolCallFormat::kNone) {
    tool_calls_.emplace(ToolOptions(request.output));
  }
}

void TextSplitter::Push(int32_t token, std::string_view text, TokenDelta* delta) {
  if (!reasoning_.has_value()) return AddContent(text, delta);
  const ReasoningDelta split = reasoning_->Push(token, text);
  delta->reasoning.append(split.reasoning);
  AddContent(split.content, delta);
}

void TextSplitter::AddContent(std::string_view content, TokenDelta* delta) {
  if (content.empty()) return;
  if (!tool_calls_.has_value()) {
    delta->text.append(content);
    return;
  }
  AddToolCalls(tool_calls_->Push(content), delta);
}

void TextSplitter::AddToolCalls(ToolCallOutput output, TokenDelta* delta) {
  delta->text.append(output.content);
  delta->tool_calls.insert(delta->tool_calls.end(), std::make_move_iterator(output.calls.begin()),
                           std::make_move_iterator(output.calls.end()));
  num_tool_calls_ = tool_calls_->num_calls();
}

void TextSplitter::Finish(TokenDelta* delta) {
  if (reasoning_.has_value()) {
    const ReasoningDelta split = reasoning_->Finish();
    delta->reasoning.append(split.reasoning);
    AddContent(split.content, delta);
  }
  if (tool_calls_.has_value()) AddToolCalls(tool_calls_->Finish(), delta);
}

}  // namespace tessera
