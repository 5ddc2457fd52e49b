// Outputs of models and what the tool-call parser must make of each.
#ifndef TESSERA_TESTS_ENGINE_TEXT_TOOL_CALL_CASES_H_
#define TESSERA_TESTS_ENGINE_TEXT_TOOL_CALL_CASES_H_

#include <string>
#include <utility>
#include <vector>

#include "engine/text/tool_call_parser.h"

namespace tessera {

// The tools that the cases call.
extern const char kCallableTools[];

struct ToolCallCase {
  ToolCallFormat format;
  std::string text;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  int num_broken = 0;
  TextEnd end = TextEnd::kStopped;
};

// What the formats' descriptions say, what is no call, and what is forgiven.
std::vector<ToolCallCase> ToolCallCases();

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_TEXT_TOOL_CALL_CASES_H_
