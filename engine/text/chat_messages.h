// What chat messages and tools must look like, and the form that templates expect.
#ifndef TESSERA_ENGINE_TEXT_CHAT_MESSAGES_H_
#define TESSERA_ENGINE_TEXT_CHAT_MESSAGES_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/jinja/value.h"

namespace tessera {

// INVALID_ARGUMENT with the path of the first thing that no chat request may contain, for example
// "messages[2].content: must be a string, a list of parts or null, not 'int'".
absl::Status ValidateMessages(const jinja::Value& messages);
// The same for tools: a list of objects with a function that has a name. None is fine.
absl::Status ValidateTools(const jinja::Value& tools);

// Blank text or null: what clients send, and models write, as the arguments of a call without any.
bool AreEmptyArguments(std::string_view text);

// What an OpenAI-style request needs before it fits the templates: text parts are joined with
// newlines, arguments of tool calls are parsed to objects (none, blank text and null are the empty
// one; what else is no JSON object is kept verbatim), `reasoning` becomes `reasoning_content`, the
// role developer becomes system. Requires ValidateMessages to be OK.
absl::StatusOr<jinja::Value> NormalizeMessages(const jinja::Value& messages);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_CHAT_MESSAGES_H_
