// The first byte chooses the start and what calls look like, the second the piece length; the rest
// is generated text. Pieces must give the same as the whole.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/text/reasoning_parser.h"
#include "kernels/core/status_macros.h"

namespace {

tessera::ReasoningDelta Parse(std::string_view text, size_t piece, uint8_t start) {
  const auto end = start % 2 == 0 ? tessera::TextEnd::kStopped : tessera::TextEnd::kCut;
  tessera::ReasoningParser::Options options{.initial =
                                                static_cast<tessera::ReasoningState>(start % 3)};
  if ((start & 8) != 0) {
    options.calls = {.format = (start & 16) != 0 ? tessera::ToolCallFormat::kHermes
                                                 : tessera::ToolCallFormat::kCoderXml};
  }
  tessera::ReasoningParser parser(options);
  tessera::ReasoningDelta all;
  const auto add = [&all](const tessera::ReasoningDelta& delta) {
    all.reasoning += delta.reasoning;
    all.content += delta.content;
  };
  for (size_t at = 0; at < text.size(); at += piece) add(parser.Push(-1, text.substr(at, piece)));
  add(parser.Finish(end));
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto whole = Parse(text, std::max<size_t>(text.size(), 1), data[0]);
  const auto pieces = Parse(text, 1 + data[1] % 16, data[0]);
  TESSERA_CHECK(whole.reasoning == pieces.reasoning);
  TESSERA_CHECK(whole.content == pieces.content);
  return 0;
}
