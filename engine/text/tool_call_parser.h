// Tool calls in generated content, while it streams.
//
// Feed it the content only (what ReasoningParser returns as content). White space around calls is
// dropped, all other text passes through. The concatenated output does not depend on how the text
// is cut; non-streaming is one Push and Finish. Whatever the text is, all of it takes linear time.
//
//   <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>                    Hermes
//   <tool_call>\n<function=f>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>
//   Coder
//
// Models trained on one write the other at times, and neither quite: both are read wherever either
// is expected. A tag may be doubled, the closing tags forgotten, several calls stand within one
// pair of tags or in a JSON array, JSON in a Markdown fence, JSON with the faults that JsonRepair
// mends; of the Coder format the opening <tool_call>, too, if the format is kCoderXml and the tool
// is one of the request's.
//
// A block is reported as soon as it is known to be a call: in the Hermes format when its name is
// there and its arguments have begun (or it ends without any), in the Coder format with the name of
// its first parameter. The rest of the arguments follows in fragments, as the model types them. A
// block that never gets there stays text. One that breaks off after that, because it is malformed
// or the output is cut, keeps what was reported: its arguments are then no whole JSON object, which
// is how a client knows, and what follows the break is content again. What a Hermes block holds
// behind its arguments is ignored.
#ifndef TESSERA_ENGINE_TEXT_TOOL_CALL_PARSER_H_
#define TESSERA_ENGINE_TEXT_TOOL_CALL_PARSER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/jinja/value.h"
#include "engine/types.h"

namespace tessera {

struct ToolCallOutput {
  std::string content;
  // At most one entry per call; the first one of a call has its id and name. The arguments of a
  // whole call are one JSON object: as typed by the model (Hermes), or as Python's
  // json.dumps(ensure_ascii=False) writes it (Coder). Fragments are whole UTF-8 characters.
  std::vector<ToolCallDelta> calls;
};

// Whether there will be more text, and if not, whether the model stopped by itself.
enum class TextEnd : uint8_t { kMore, kStopped, kCut };

// One call, while it arrives.
class ToolCallBlock {
 public:
  enum class State : uint8_t { kOpen, kEnded };
  struct Progress {
    std::optional<std::string> name;  // once: this is a call
    std::string arguments;            // what is new of them; only of a call
    State state = State::kOpen;
    bool whole = false;  // the arguments are there and well-formed
    size_t end = 0;      // when ended: where the block's text ends
  };

  virtual ~ToolCallBlock() = default;
  // `text`: all of it so far; it only grows. Not to be called once it has ended.
  virtual Progress Advance(std::string_view text, TextEnd end) = 0;
};

// From the brace on.
std::unique_ptr<ToolCallBlock> NewHermesBlock();
// From behind "<function=" on. `tools` must outlive it; without <tool_call> around it
// (!is_wrapped) only a function that they declare is one.
std::unique_ptr<ToolCallBlock> NewCoderXmlBlock(const jinja::Value& tools, bool is_wrapped);

// The first tag that may begin a call; npos without one.
size_t FindCallTag(std::string_view text, ToolCallFormat format);
// Length of the longest end of `text` that may become one.
size_t PartialCallTagLength(std::string_view text, ToolCallFormat format);

class ToolCallParser {
 public:
  struct Options {
    ToolCallFormat format = ToolCallFormat::kHermes;  // not kNone
    // The request's tools; the Coder format converts arguments by their JSON schemas.
    jinja::Value tools;
    // Makes ids such as "call_5f2c..."; called once per call, on the caller's thread.
    std::function<std::string()> make_id;
  };
  explicit ToolCallParser(Options options);

  ToolCallOutput Push(std::string_view content);
  // What was held back. Call once, at the end, with kStopped or kCut.
  ToolCallOutput Finish(TextEnd end);

  // Calls reported so far, and how many of these broke off.
  int num_calls() const { return num_calls_; }
  int num_broken_calls() const { return num_broken_calls_; }
  // Where the first call's opening tag begins in all of the content.
  std::optional<size_t> first_call() const { return first_call_; }

 private:
  enum class Place : uint8_t { kText, kBlockStart, kBlock, kBehindBlock };

  // Each consumes what it can of pending() and returns whether another one has something to do.
  bool ConsumeText(TextEnd end, ToolCallOutput* output);
  bool ConsumeBlockStart(TextEnd end, ToolCallOutput* output);
  bool ConsumeBlock(TextEnd end, ToolCallOutput* output);
  bool ConsumeBehindBlock(TextEnd end);
  void Consume(TextEnd end, ToolCallOutput* output);
  // What may stand between <tool_call> and a call: whether it moved on over some of it.
  bool SkipWrapping(std::string_view rest);
  void BeginBlocks(std::string opener, bool is_wrapped);
  bool AbandonBlock(ToolCallOutput* output);
  // Text that is not decided about. Views into it last until Drop() or Push().
  std::string_view pending() const { return std::string_view(buffer_).substr(dropped_); }
  void Drop(size_t count);
  void EmitText(std::string_view text, ToolCallOutput* output);
  void EmitCall(ToolCallBlock::Progress progress, ToolCallOutput* output);

  const Options options_;
  std::string buffer_;
  size_t dropped_ = 0;      // bytes of it that are done with
  size_t consumed_ = 0;     // bytes of all content that are done with
  std::string held_space_;  // white space that is dropped if a call follows
  Place place_ = Place::kText;
  std::unique_ptr<ToolCallBlock> block_;  // in kBlock
  std::string opener_;                    // text if what follows is no call
  size_t opened_at_ = 0;                  // of the opener, in all content
  bool is_wrapped_ = false;               // in <tool_call>
  size_t start_ = 0;                      // of the block within pending()
  // What SkipWrapping has seen; each may come once.
  bool saw_tag_ = false;
  bool saw_bracket_ = false;
  bool saw_fence_ = false;
  size_t space_ = 0;  // in kBehindBlock: what has been skipped so far
  bool block_is_call_ = false;
  bool behind_call_ = false;  // nothing but white space since the last call
  std::optional<size_t> first_call_;
  int num_calls_ = 0;
  int num_broken_calls_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_TOOL_CALL_PARSER_H_
