// The first byte chooses the format, the second the piece length; the rest is generated text.
// Pieces must give the same as the whole, and arguments must be JSON objects.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "engine/text/jinja/json.h"
#include "engine/text/tool_call_parser.h"
#include "kernels/core/status_macros.h"

namespace {

tessera::ToolCallOutput Parse(std::string_view text, size_t piece, uint8_t format) {
  static const auto* const kTools = new tessera::jinja::Value(*tessera::jinja::ParseJson(
      R"([{"name": "f", "parameters": {"properties": {"i": {"type": ["integer", "object"]}}}}])"));
  tessera::ToolCallParser parser({.format = format % 2 == 0 ? tessera::ToolCallFormat::kHermes
                                                            : tessera::ToolCallFormat::kCoderXml,
                                  .tools = *kTools});
  tessera::ToolCallOutput all;
  const auto add = [&all](tessera::ToolCallOutput output) {
    all.content += output.content;
    for (auto& call : output.calls) all.calls.push_back(std::move(call));
  };
  for (size_t at = 0; at < text.size(); at += piece) add(parser.Push(text.substr(at, piece)));
  add(parser.Finish());
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
  for (const auto& call : whole.calls) {
    const auto arguments = tessera::jinja::ParseJson(call.arguments);
    TESSERA_CHECK(arguments.ok() && arguments->is_dict());
  }
  return 0;
}
