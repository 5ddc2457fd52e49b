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

ReasoningParser::Options ReasoningOptions(const GenerateRequest& request,
                                          const std::optional<ToolCallParser::Options>& calls) {
  const ReasoningParams& params = request.reasoning;
  ReasoningParser::Options options{.calls = calls};
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

TextSplitter::TextSplitter(const GenerateRequest& request)
    : stops_in_reasoning_(request.stopping.stop_in_reasoning || !request.reasoning.parse),
      stops_(request.stopping.stop, request.stopping.include_stop) {
  std::optional<ToolCallParser::Options> calls;
  if (request.output.tool_call_format != ToolCallFormat::kNone) {
    calls = ToolOptions(request.output);
    tool_calls_.emplace(*calls);
  }
  if (request.reasoning.parse) reasoning_.emplace(ReasoningOptions(request, calls));
}

bool TextSplitter::Push(const Piece& piece, TokenDelta* delta) {
  if (stop_) return false;
  if (!stops_in_reasoning_ || stops_.empty()) {
    PushReasoning(piece, delta);
  } else {
    const std::string shown = FindStop(piece.text, piece.may_stop);
    PushReasoning({.token = -1, .text = shown}, delta);
  }
  return !stop_;
}

void TextSplitter::PushReasoning(const Piece& piece, TokenDelta* delta) {
  if (!reasoning_.has_value()) return PushContent(piece.text, piece.may_stop, delta);
  const ReasoningDelta split = reasoning_->Push(piece.token, piece.text);
  delta->reasoning.append(split.reasoning);
  PushContent(split.content, piece.may_stop, delta);
}

std::string TextSplitter::FindStop(std::string_view text, bool may_stop) {
  std::string shown;
  const int32_t found = stops_.Push(text, may_stop, &shown);
  if (found != StopMatcher::kNoMatch) stop_ = found;
  return shown;
}

void TextSplitter::PushContent(std::string_view content, bool may_stop, TokenDelta* delta) {
  if (stops_in_reasoning_ || stops_.empty()) return PushToolCalls(content, delta);
  PushToolCalls(FindStop(content, may_stop), delta);
}

void TextSplitter::PushToolCalls(std::string_view content, TokenDelta* delta) {
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

void TextSplitter::Finish(TextEnd end, TokenDelta* delta) {
  const auto held = [this] {
    std::string text;
    stops_.Finish(&text);
    return text;
  };
  if (stops_in_reasoning_) PushReasoning({.token = -1, .text = held()}, delta);
  if (reasoning_.has_value()) {
    const ReasoningDelta split = reasoning_->Finish(end);
    delta->reasoning.append(split.reasoning);
    PushContent(split.content, /*may_stop=*/false, delta);
  }
  if (!stops_in_reasoning_) PushToolCalls(held(), delta);
  if (tool_calls_.has_value()) AddToolCalls(tool_calls_->Finish(end), delta);
}

}  // namespace tessera
