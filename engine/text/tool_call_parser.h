// Tool calls in generated content, while it streams.
//
// Feed it the content only (what ReasoningParser returns as content), so that calls inside of the
// reasoning are ignored. White space around calls is dropped, all other text passes through. The
// concatenated output does not depend on how the text is cut; non-streaming is one Push and Finish.
// Whatever the text is, all of it takes linear time.
//
// A block is reported as soon as it is known to be a call: in the Hermes format when its name is
// there and its arguments have begun, in the Coder format with its first whole parameter. The rest
// of the arguments follows in fragments, as the model types them (Coder: parameter by parameter).
// A block that never gets there stays text. One that breaks off after that, because it is malformed
// or the output ends, keeps what was reported: its arguments are then no whole JSON object, which
// is how a client knows, and what follows the break is content again. What a Hermes block holds
// behind its arguments is ignored.
#ifndef TESSERA_ENGINE_TEXT_TOOL_CALL_PARSER_H_
#define TESSERA_ENGINE_TEXT_TOOL_CALL_PARSER_H_

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

// What stands behind one <tool_call>, while it arrives.
class ToolCallBlock {
 public:
  enum class State { kOpen, kEnded };
  struct Progress {
    std::optional<std::string> name;  // once: this is a call
    std::string arguments;            // what is new of them; only of a call
    State state = State::kOpen;
    bool whole = false;  // the arguments are there and well-formed
    size_t end = 0;      // when ended: where the block's text ends
  };

  virtual ~ToolCallBlock() = default;
  // `text`: all of it so far; it only grows. `at_end`: there will be no more. Not to be called once
  // it has ended.
  virtual Progress Advance(std::string_view text, bool at_end) = 0;
};

class ToolCallSyntax {
 public:
  virtual ~ToolCallSyntax() = default;
  // Must not outlive the syntax.
  virtual std::unique_ptr<ToolCallBlock> NewBlock() const = 0;
};

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
  // What was held back. Call once, at the end; the closing tag of the last block may be missing.
  ToolCallOutput Finish();

  // Calls reported so far, and how many of these broke off.
  int num_calls() const { return num_calls_; }
  int num_broken_calls() const { return num_broken_calls_; }

 private:
  // Each consumes what it can of pending() and returns whether another one has something to do.
  bool ConsumeText(bool at_end, ToolCallOutput* output);
  bool ConsumeBlock(bool at_end, ToolCallOutput* output);
  bool ConsumeClosingTag(bool at_end);
  void Consume(bool at_end, ToolCallOutput* output);
  // Text that is not decided about. Views into it last until Drop() or Push().
  std::string_view pending() const { return std::string_view(buffer_).substr(dropped_); }
  void Drop(size_t count);
  void EmitText(std::string_view text, ToolCallOutput* output);
  void EmitCall(ToolCallBlock::Progress progress, ToolCallOutput* output);

  enum class Place { kText, kBlock, kBehindBlock };

  const Options options_;
  const std::unique_ptr<const ToolCallSyntax> syntax_;
  std::string buffer_;
  size_t dropped_ = 0;      // bytes of it that are done with
  std::string held_space_;  // white space that is dropped if a call follows
  Place place_ = Place::kText;
  std::unique_ptr<ToolCallBlock> block_;  // in kBlock
  size_t space_ = 0;                      // in kBehindBlock: white space seen so far
  bool block_is_call_ = false;
  bool behind_call_ = false;  // nothing but white space since the last call
  int num_calls_ = 0;
  int num_broken_calls_ = 0;
};

// The syntaxes; `tools` is copied.
std::unique_ptr<const ToolCallSyntax> MakeHermesSyntax();
std::unique_ptr<const ToolCallSyntax> MakeCoderXmlSyntax(const jinja::Value& tools);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_TOOL_CALL_PARSER_H_
