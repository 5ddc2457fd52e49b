// Splits generated text into reasoning (between <think> and </think>) and content, while it
// streams.
//
// States: START (nothing but white space seen) → REASONING or CONTENT; REASONING → CONTENT. The
// tags may arrive as their own tokens or spelled across many; the concatenated output does not
// depend on how the text is cut. Newlines around the reasoning and before the content are dropped.
//
// A tool call within reasoning that nothing closes ends the reasoning: models forget </think> in
// front of calls. Whether anything closes it is known at the end, so from such a call on the text
// is held back until </think> or the end; text that merely mentions the call's tags is not.
#ifndef TESSERA_ENGINE_TEXT_REASONING_PARSER_H_
#define TESSERA_ENGINE_TEXT_REASONING_PARSER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tool_call_parser.h"

namespace tessera {

// Ids in the model's vocabulary, -1 if it has none: <think> and </think>.
struct ThinkTokens {
  int32_t open = -1;
  int32_t close = -1;
};

enum class ReasoningState {
  kStart,      // the model may open a think block
  kReasoning,  // inside of one
  kContent     // behind it: tags are plain text now
};

// Where generation starts after a prompt: inside the reasoning behind a <think> without </think>,
// in the content behind a closed block that ends the prompt, at the start otherwise.
ReasoningState InitialReasoningState(const std::vector<int32_t>& prompt_ids,
                                     const ThinkTokens& tokens);

struct ReasoningDelta {
  std::string reasoning;
  std::string content;
};

class ReasoningParser {
 public:
  struct Options {
    ReasoningState initial = ReasoningState::kStart;
    ThinkTokens tokens;
    std::optional<ToolCallParser::Options> calls = std::nullopt;  // what calls look like, if any
  };
  explicit ReasoningParser(Options options);

  // The next piece of generated text. `token_id` is the token that completed it, or -1; a piece
  // that is exactly a tag's token takes the short way.
  ReasoningDelta Push(int32_t token_id, std::string_view text);
  // What was held back. Call once, at the end, with kStopped or kCut.
  ReasoningDelta Finish(TextEnd end);

  ReasoningState state() const { return state_; }

 private:
  void Consume(TextEnd end, ReasoningDelta* delta);
  bool ConsumeStart(TextEnd end, ReasoningDelta* delta);
  bool ConsumeReasoning(TextEnd end, ReasoningDelta* delta);
  // Looks at what may be a call, which pending_ begins with.
  bool ProbeCall(TextEnd end, ReasoningDelta* delta);
  // The first `length` bytes of pending_ are reasoning.
  void ShowReasoning(size_t length, ReasoningDelta* delta);
  // The same, and behind them and `tag` more bytes the content begins.
  void EndReasoning(size_t length, size_t tag, ReasoningDelta* delta);
  void EmitReasoning(std::string_view text, ReasoningDelta* delta);
  void EmitContent(std::string_view text, ReasoningDelta* delta);

  const Options options_;
  ReasoningState state_;
  std::string pending_;                  // text not yet decided about
  size_t scanned_ = 0;                   // in kReasoning: bytes of pending_ without </think>
  std::optional<ToolCallParser> probe_;  // looks for a call in pending_
  size_t probed_ = 0;                    // bytes it has got
  size_t shown_probed_ = 0;              // of these: no call for sure, not in pending_ any more
  size_t space_ = 0;                     // in kStart: white space that pending_ begins with
  std::string held_newlines_;            // newlines that may turn out to end the reasoning
  bool reasoning_begun_ = false;         // leading newlines of the reasoning are dropped
  bool strip_content_ = false;           // leading newlines of the content are dropped
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_REASONING_PARSER_H_
