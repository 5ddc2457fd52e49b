#include "server/chat_json.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

std::string Quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ToolCallJson(const v1::ToolCall& call) {
  const std::string id = call.id().empty() ? "" : absl::StrCat("\"id\":", Quoted(call.id()), ",");
  return absl::StrCat("{", id, "\"type\":\"function\",\"function\":{\"name\":", Quoted(call.name()),
                      ",\"arguments\":", Quoted(call.arguments()), "}}");
}

std::string MessageJson(const v1::ChatMessage& message) {
  std::string json = absl::StrCat("{\"role\":", Quoted(message.role()),
                                  ",\"content\":", Quoted(message.content()));
  if (message.has_reasoning_content()) {
    absl::StrAppend(&json, ",\"reasoning_content\":", Quoted(message.reasoning_content()));
  }
  if (message.tool_calls_size() > 0) {
    absl::StrAppend(&json, ",\"tool_calls\":[",
                    absl::StrJoin(message.tool_calls(), ",",
                                  [](std::string* out, const v1::ToolCall& call) {
                                    out->append(ToolCallJson(call));
                                  }),
                    "]");
  }
  if (!message.tool_call_id().empty()) {
    absl::StrAppend(&json, ",\"tool_call_id\":", Quoted(message.tool_call_id()));
  }
  if (!message.name().empty()) absl::StrAppend(&json, ",\"name\":", Quoted(message.name()));
  return absl::StrCat(json, "}");
}

// The value of `key` as text; missing and null are empty.
absl::StatusOr<std::string> TextOf(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ".", key, ": must be a string"));
  }
  std::vector<std::string> parts;
  for (const Json& part : *found) {
    const auto text = part.is_object() ? part.find("text") : part.end();
    if (!part.is_object() || text == part.end() || !text->is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".", key, ": only text parts work"));
    }
    parts.push_back(text->get<std::string>());
  }
  return absl::StrJoin(parts, "\n");
}

absl::Status ReadToolCall(const Json& json, const std::string& where, v1::ToolCall* out) {
  const Json* function = &json;
  if (json.is_object() && json.contains("function")) function = &json["function"];
  if (!function->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": must be an object"));
  }
  if (json.contains("id")) {
    ASSIGN_OR_RETURN(*out->mutable_id(), TextOf(json, "id", where));
  }
  ASSIGN_OR_RETURN(*out->mutable_name(), TextOf(*function, "name", where));
  const auto arguments = function->find("arguments");
  if (arguments == function->end()) return absl::OkStatus();
  out->set_arguments(arguments->is_string() ? arguments->get<std::string>() : arguments->dump());
  return absl::OkStatus();
}

absl::Status ReadMessage(const Json& json, const std::string& where, v1::ChatMessage* out) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": must be an object"));
  }
  ASSIGN_OR_RETURN(*out->mutable_role(), TextOf(json, "role", where));
  ASSIGN_OR_RETURN(*out->mutable_content(), TextOf(json, "content", where));
  ASSIGN_OR_RETURN(*out->mutable_tool_call_id(), TextOf(json, "tool_call_id", where));
  ASSIGN_OR_RETURN(*out->mutable_name(), TextOf(json, "name", where));
  for (const char* key : {"reasoning_content", "reasoning"}) {
    if (!json.contains(key) || !json[key].is_string()) continue;
    out->set_reasoning_content(json[key].get<std::string>());
    break;
  }
  const auto calls = json.find("tool_calls");
  if (calls == json.end() || calls->is_null()) return absl::OkStatus();
  if (!calls->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ".tool_calls: must be an array"));
  }
  for (const Json& call : *calls) {
    RETURN_IF_ERROR(ReadToolCall(call, absl::StrCat(where, ".tool_calls"), out->add_tool_calls()));
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> ParseArray(std::string_view text, const std::string& what) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": not valid JSON"));
  }
  if (json.is_object() && json.contains(what)) json = Json(json[what]);
  if (!json.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": must be a JSON array"));
  }
  return json;
}

}  // namespace

bool IsJsonObject(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  return begin != std::string_view::npos && text[begin] == '{' && Json::accept(text);
}

std::string MessagesJson(const v1::ChatPrompt& chat) {
  return absl::StrCat("[",
                      absl::StrJoin(chat.messages(), ",",
                                    [](std::string* out, const v1::ChatMessage& message) {
                                      out->append(MessageJson(message));
                                    }),
                      "]");
}

std::string ToolsJson(const v1::ChatPrompt& chat) {
  if (chat.tools().empty() || chat.tool_choice() == v1::TOOL_CHOICE_NONE) return "";
  return absl::StrCat("[", absl::StrJoin(chat.tools(), ","), "]");
}

absl::StatusOr<v1::ChatPrompt> ParseChatPrompt(std::string_view messages_json,
                                               std::string_view tools_json) {
  v1::ChatPrompt chat;
  ASSIGN_OR_RETURN(const Json messages, ParseArray(messages_json, "messages"));
  if (messages.empty()) return absl::InvalidArgumentError("messages: must have at least one");
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(
        ReadMessage(messages[i], absl::StrCat("messages[", i, "]"), chat.add_messages()));
  }
  if (tools_json.empty()) return chat;
  ASSIGN_OR_RETURN(const Json tools, ParseArray(tools_json, "tools"));
  for (const Json& tool : tools) chat.add_tools(tool.dump());
  return chat;
}

}  // namespace tessera
