// Splits generated text into reasoning (between <think> and </think>) and content, while it
// streams.
//
// States: START (nothing but white space seen) → REASONING or CONTENT; REASONING → CONTENT. The
// tags may arrive as their own tokens or spelled across many; the concatenated output does not
// depend on how the text is cut. Newlines around the reasoning and before the content are dropped.
#ifndef TESSERA_ENGINE_TEXT_REASONING_PARSER_H_
#define TESSERA_ENGINE_TEXT_REASONING_PARSER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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
  };
  explicit ReasoningParser(const Options& options);

  // The next piece of generated text. `token_id` is the token that completed it, or -1; a piece
  // that is exactly a tag's token takes the short way.
  ReasoningDelta Push(int32_t token_id, std::string_view text);
  // What was held back. Call once, at the end.
  ReasoningDelta Finish();

  ReasoningState state() const { return state_; }

 private:
  void Consume(bool at_end, ReasoningDelta* delta);
  bool ConsumeStart(bool at_end, ReasoningDelta* delta);
  bool ConsumeReasoning(bool at_end, ReasoningDelta* delta);
  void EmitReasoning(std::string_view text, ReasoningDelta* delta);
  void EmitContent(std::string_view text, ReasoningDelta* delta);

  const Options options_;
  ReasoningState state_;
  std::string pending_;           // text not yet decided about
  size_t space_ = 0;              // in kStart: white space that pending_ begins with
  std::string held_newlines_;     // newlines that may turn out to end the reasoning
  bool reasoning_begun_ = false;  // leading newlines of the reasoning are dropped
  bool strip_content_ = false;    // leading newlines of the content are dropped
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_REASONING_PARSER_H_
