// Tool calls in generated content, while it streams.
//
// Feed it the content only (what ReasoningParser returns as content), so that calls inside of the
// reasoning are ignored. A call is reported when its block is complete; a block that is no valid
// call stays text. White space around blocks is dropped, all other text passes through. The
// concatenated output does not depend on how the text is cut; non-streaming is one Push and Finish.
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

// Arguments of a complete call are one JSON object, written as Python's
// json.dumps(ensure_ascii=False) does.
struct ToolCallOutput {
  std::string content;
  std::vector<ToolCallDelta> calls;
};

// What stands between <tool_call> and </tool_call>.
class ToolCallSyntax {
 public:
  struct Call {
    std::string name;
    std::string arguments;
  };
  // Where a block ends: its text is [0, size), and [size, size + tag) is dropped.
  struct BlockEnd {
    size_t size;
    size_t tag;
  };

  virtual ~ToolCallSyntax() = default;
  // The end of the block at the start of `text`, if it is there already.
  virtual std::optional<BlockEnd> FindEnd(std::string_view text) const = 0;
  virtual std::optional<Call> Parse(std::string_view block) const = 0;
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
  // What was held back. Call once, at the end; a block without end tag counts if it is a whole
  // call.
  ToolCallOutput Finish();

  int num_calls() const { return num_calls_; }

 private:
  void Consume(bool at_end, ToolCallOutput* output);
  bool ConsumeText(bool at_end, ToolCallOutput* output);
  bool ConsumeBlock(bool at_end, ToolCallOutput* output);
  void EmitText(std::string_view text, ToolCallOutput* output);
  bool EmitCall(std::string_view block, ToolCallOutput* output);

  const Options options_;
  const std::unique_ptr<const ToolCallSyntax> syntax_;
  std::string pending_;
  std::string held_space_;  // white space that is dropped if a call follows
  bool in_block_ = false;
  bool behind_call_ = false;  // nothing but white space since the last call
  int num_calls_ = 0;
};

// The syntaxes; `tools` is copied.
std::unique_ptr<const ToolCallSyntax> MakeHermesSyntax();
std::unique_ptr<const ToolCallSyntax> MakeCoderXmlSyntax(const jinja::Value& tools);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_TOOL_CALL_PARSER_H_
