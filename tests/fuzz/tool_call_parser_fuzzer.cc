// The first byte chooses the format and how the text ends, the second the piece length; the rest is
// generated text. Pieces must give the same as the whole. The arguments of a call are a JSON
// object, unless the parser says that the call broke off: then they are none.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/jinja/json_parse.h"
#include "engine/text/tool_call_parser.h"
#include "kernels/core/status_macros.h"

namespace {

struct Parsed {
  std::string content;
  std::vector<tessera::ToolCallDelta> calls;  // joined
  int broken = 0;
};

void Join(const tessera::ToolCallOutput& output, Parsed* all) {
  all->content += output.content;
  for (const tessera::ToolCallDelta& delta : output.calls) {
    const bool is_new = delta.index == static_cast<int>(all->calls.size());
    TESSERA_CHECK(is_new == !delta.name.empty());
    TESSERA_CHECK(is_new || delta.index + 1 == static_cast<int>(all->calls.size()));
    if (is_new) {
      all->calls.push_back(delta);
    } else {
      all->calls.back().arguments_fragment += delta.arguments_fragment;
    }
  }
}

Parsed Parse(std::string_view text, size_t piece, uint8_t format) {
  static const auto* const kTools = new tessera::jinja::Value(*tessera::jinja::ParseJson(
      R"([{"name": "f", "parameters": {"properties": {"i": {"type": ["integer", "object"]}}}}])"));
  tessera::ToolCallParser parser({.format = format % 2 == 0 ? tessera::ToolCallFormat::kHermes
                                                            : tessera::ToolCallFormat::kCoderXml,
                                  .tools = *kTools});
  Parsed all;
  for (size_t at = 0; at < text.size(); at += piece) {
    Join(parser.Push(text.substr(at, piece)), &all);
  }
  Join(parser.Finish((format & 2) == 0 ? tessera::TextEnd::kStopped : tessera::TextEnd::kCut),
       &all);
  all.broken = parser.num_broken_calls();
  TESSERA_CHECK(parser.num_calls() == static_cast<int>(all.calls.size()));
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto whole = Parse(text, std::max<size_t>(text.size(), 1), data[0]);
  const auto pieces = Parse(text, 1 + data[1] % 16, data[0]);
  TESSERA_CHECK(whole.content == pieces.content);
  TESSERA_CHECK(whole.calls == pieces.calls);
  int broken = 0;
  for (const auto& call : whole.calls) {
    const auto arguments = tessera::jinja::ParseJson(call.arguments_fragment);
    if (!arguments.ok() || !arguments->is_dict()) ++broken;
  }
  TESSERA_CHECK(whole.broken == broken && pieces.broken == broken);
  return 0;
}
