// Splits the visible text of one choice into reasoning, content and tool calls, and ends it at stop
// strings.
#ifndef TESSERA_ENGINE_OUTPUT_TEXT_SPLITTER_H_
#define TESSERA_ENGINE_OUTPUT_TEXT_SPLITTER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/output/stop_matcher.h"
#include "engine/text/reasoning_parser.h"
#include "engine/text/tool_call_parser.h"
#include "engine/types.h"

namespace tessera {

// Stop strings are looked for behind the reasoning and in front of the tool calls, which they see
// as the model writes them; with StoppingParams::stop_in_reasoning in all of the text. Used by one
// thread at a time.
class TextSplitter {
 public:
  explicit TextSplitter(const GenerateRequest& request);

  struct Piece {
    int32_t token = -1;  // that completed the text; -1: not aligned
    std::string_view text;
    bool may_stop = false;  // complete stop strings count
  };
  // Appends to the text fields of `delta`. False once a stop string has ended the text.
  bool Push(const Piece& piece, TokenDelta* delta);
  // The text has ended. Call once.
  void Finish(TextEnd end, TokenDelta* delta);

  // The stop string that ended the text, as an index into the request's.
  std::optional<int32_t> stop() const { return stop_; }
  int32_t num_tool_calls() const { return num_tool_calls_; }

 private:
  // Each step of the way passes its output on to the next.
  void PushReasoning(const Piece& piece, TokenDelta* delta);
  void PushContent(std::string_view content, bool may_stop, TokenDelta* delta);
  void PushToolCalls(std::string_view content, TokenDelta* delta);
  std::string FindStop(std::string_view text, bool may_stop);
  void AddToolCalls(ToolCallOutput output, TokenDelta* delta);

  const bool stops_in_reasoning_;
  StopMatcher stops_;
  std::optional<int32_t> stop_;
  std::optional<ReasoningParser> reasoning_;
  std::optional<ToolCallParser> tool_calls_;
  int32_t num_tool_calls_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_OUTPUT_TEXT_SPLITTER_H_
