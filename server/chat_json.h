// Chat messages of the API as the JSON that templates expect.
#ifndef TESSERA_SERVER_CHAT_JSON_H_
#define TESSERA_SERVER_CHAT_JSON_H_

#include <string>
#include <string_view>

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

// The reverse, for files of the command line: an array of OpenAI-style messages, and an array of
// tools (empty text: none). Content may be a string, null or a list of text parts.
absl::StatusOr<v1::ChatPrompt> ParseChatPrompt(std::string_view messages_json,
                                               std::string_view tools_json);

}  // namespace tessera

#endif  // TESSERA_SERVER_CHAT_JSON_H_
