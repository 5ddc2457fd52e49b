// Splits the visible text of one choice into reasoning, content and tool calls.
#ifndef TESSERA_ENGINE_OUTPUT_TEXT_SPLITTER_H_
#define TESSERA_ENGINE_OUTPUT_TEXT_SPLITTER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/text/reasoning_parser.h"
#include "engine/text/tool_call_parser.h"
#include "engine/types.h"

namespace tessera {

// Used by one thread at a time.
class TextSplitter {
 public:
  explicit TextSplitter(const GenerateRequest& request);

  // Appends to the text fields of `delta`. `token` completed `text`, or is -1 when they are not
  // aligned.
  void Push(int32_t token, std::string_view text, TokenDelta* delta);
  // The text has ended. Call once.
  void Finish(TokenDelta* delta);

  int32_t num_tool_calls() const { return num_tool_calls_; }

 private:
  void AddContent(std::string_view content, TokenDelta* delta);
  void AddToolCalls(ToolCallOutput output, TokenDelta* delta);

  std::optional<ReasoningParser> reasoning_;
  std::optional<ToolCallParser> tool_calls_;
  int32_t num_tool_calls_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_OUTPUT_TEXT_SPLITTER_H_
