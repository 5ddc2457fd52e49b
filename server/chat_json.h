// Chat messages of the API as the JSON that templates expect.
#ifndef TESSERA_SERVER_CHAT_JSON_H_
#define TESSERA_SERVER_CHAT_JSON_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

namespace v1 {
class ChatPrompt;
}  // namespace v1

bool IsJsonObject(std::string_view text);

// A JSON array in the form of OpenAI's API: arguments of tool calls are strings.
std::string MessagesJson(const v1::ChatPrompt& chat);
// A JSON array of the tools exactly as given; empty without tools or with TOOL_CHOICE_NONE.
std::string ToolsJson(const v1::ChatPrompt& chat);

// One of a prompt's tools.
struct ChatTool {
  std::string name;
  std::string parameters;  // JSON; empty: none are given
  bool strict = false;
};

// Of tools that are JSON objects. Errors say what is wrong with the tool of `*index`.
absl::StatusOr<std::vector<ChatTool>> ReadTools(const v1::ChatPrompt& chat, int* index);

// The reverse, for files of the command line: an array of OpenAI-style messages, and an array of
// tools (empty text: none). Content may be a string, null or a list of text parts.
absl::StatusOr<v1::ChatPrompt> ParseChatPrompt(std::string_view messages_json,
                                               std::string_view tools_json);

}  // namespace tessera

#endif  // TESSERA_SERVER_CHAT_JSON_H_
