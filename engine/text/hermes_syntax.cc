// <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/text/jinja/json.h"
#include "engine/text/tool_call_parser.h"

namespace tessera {
namespace {

using jinja::Value;

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";

class HermesSyntax : public ToolCallSyntax {
 public:
  // The first tag that does not stand inside of a JSON string. An opening tag ends a block too: its
  // closing tag was forgotten.
  std::optional<BlockEnd> FindEnd(std::string_view text) const override {
    bool in_string = false;
    for (size_t at = 0; at < text.size(); ++at) {
      const char c = text[at];
      if (in_string && c == '\\') {
        ++at;
      } else if (c == '"') {
        in_string = !in_string;
      } else if (!in_string && c == '<') {
        if (text.substr(at, kClose.size()) == kClose) return BlockEnd{at, kClose.size()};
        if (text.substr(at, kOpen.size()) == kOpen) return BlockEnd{at, 0};
      }
    }
    return std::nullopt;
  }

  std::optional<Call> Parse(std::string_view block) const override {
    const absl::StatusOr<Value> parsed = jinja::ParseJson(block);
    if (!parsed.ok() || !parsed->is_dict()) return std::nullopt;
    const Value name = parsed->Get("name");
    if (!name.is_string() || name.str().empty()) return std::nullopt;
    Value arguments = parsed->Get("arguments");
    if (arguments.is_undefined()) arguments = parsed->Get("parameters");
    if (arguments.is_string()) {
      const absl::StatusOr<Value> inner = jinja::ParseJson(arguments.str());
      if (!inner.ok()) return std::nullopt;
      arguments = *inner;
    }
    if (!arguments.is_dict()) return std::nullopt;
    const absl::StatusOr<std::string> json = jinja::ToJsonString(arguments);
    if (!json.ok()) return std::nullopt;
    return Call{name.str(), *json};
  }
};

}  // namespace

std::unique_ptr<const ToolCallSyntax> MakeHermesSyntax() {
  return std::make_unique<HermesSyntax>();
}

}  // namespace tessera
