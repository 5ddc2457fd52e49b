#include "server/chat_json.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/json_write.h"
#include "engine/text/jinja/value.h"
#include "kernels/core/status_macros.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

using Json = nlohmann::json;
using jinja::Value;

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

// Without spaces.
absl::StatusOr<std::string> Compact(const Value& value) {
  return jinja::ToJsonString(value, {.item_separator = ",", .key_separator = ":"});
}

bool IsAbsent(const Value& value) { return value.is_undefined() || value.is_none(); }

// The value of `key` as text; missing and null are empty.
absl::StatusOr<std::string> TextOf(const Value& object, const char* key, const std::string& where) {
  const Value found = object.Get(key);
  if (IsAbsent(found)) return "";
  if (found.is_string()) return found.str();
  if (!found.is_list()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ".", key, ": must be a string"));
  }
  std::vector<std::string> parts;
  for (const Value& part : found.list().items) {
    const Value text = part.is_dict() ? part.Get("text") : Value();
    if (!text.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".", key, ": only text parts work"));
    }
    parts.push_back(text.str());
  }
  return absl::StrJoin(parts, "\n");
}

absl::Status ReadToolCall(const Value& call, const std::string& where, v1::ToolCall* out) {
  const bool nested = call.is_dict() && !call.Get("function").is_undefined();
  const Value function = nested ? call.Get("function") : call;
  if (!function.is_dict()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": must be an object"));
  }
  ASSIGN_OR_RETURN(*out->mutable_id(), TextOf(call, "id", where));
  ASSIGN_OR_RETURN(*out->mutable_name(), TextOf(function, "name", where));
  const Value arguments = function.Get("arguments");
  if (arguments.is_undefined()) return absl::OkStatus();
  if (arguments.is_string()) {
    out->set_arguments(arguments.str());
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(*out->mutable_arguments(), Compact(arguments));
  return absl::OkStatus();
}

absl::Status ReadMessage(const Value& message, const std::string& where, v1::ChatMessage* out) {
  if (!message.is_dict()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": must be an object"));
  }
  ASSIGN_OR_RETURN(*out->mutable_role(), TextOf(message, "role", where));
  ASSIGN_OR_RETURN(*out->mutable_content(), TextOf(message, "content", where));
  ASSIGN_OR_RETURN(*out->mutable_tool_call_id(), TextOf(message, "tool_call_id", where));
  ASSIGN_OR_RETURN(*out->mutable_name(), TextOf(message, "name", where));
  for (const char* key : {"reasoning_content", "reasoning"}) {
    const Value reasoning = message.Get(key);
    if (!reasoning.is_string()) continue;
    out->set_reasoning_content(reasoning.str());
    break;
  }
  const Value calls = message.Get("tool_calls");
  if (IsAbsent(calls)) return absl::OkStatus();
  if (!calls.is_list()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ".tool_calls: must be an array"));
  }
  for (const Value& call : calls.list().items) {
    RETURN_IF_ERROR(ReadToolCall(call, absl::StrCat(where, ".tool_calls"), out->add_tool_calls()));
  }
  return absl::OkStatus();
}

// The items of an array, or of an object's member that is called `what`.
absl::StatusOr<std::vector<Value>> ParseArray(std::string_view text, const std::string& what) {
  absl::StatusOr<Value> json = jinja::ParseJson(text);
  if (!json.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": not valid JSON: ", json.status().message()));
  }
  const Value member = json->is_dict() ? json->Get(what) : Value();
  const Value& array = member.is_undefined() ? *json : member;
  if (array.is_list()) return array.list().items;
  return absl::InvalidArgumentError(absl::StrCat(what, ": must be a JSON array"));
}

}  // namespace

bool IsJsonObject(std::string_view text) {
  const absl::StatusOr<Value> json = jinja::ParseJson(text);
  return json.ok() && json->is_dict();
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

absl::StatusOr<std::vector<ChatTool>> ReadTools(const v1::ChatPrompt& chat, int* index) {
  std::vector<ChatTool> tools;
  for (*index = 0; *index < chat.tools_size(); ++*index) {
    ASSIGN_OR_RETURN(const Value tool, jinja::ParseJson(chat.tools(*index)));
    const Value function = tool.Get("function");
    if (!function.is_dict()) return absl::InvalidArgumentError("has no function");
    const Value name = function.Get("name");
    if (!name.is_string() || name.str().empty()) {
      return absl::InvalidArgumentError("its function has no name");
    }
    ChatTool read{.name = name.str()};
    const Value parameters = function.Get("parameters");
    if (!IsAbsent(parameters)) {
      ASSIGN_OR_RETURN(read.parameters, Compact(parameters));
    }
    const Value strict = function.Get("strict");
    read.strict = strict.is_bool() && strict.as_bool();
    tools.push_back(std::move(read));
  }
  return tools;
}

absl::StatusOr<v1::ChatPrompt> ParseChatPrompt(std::string_view messages_json,
                                               std::string_view tools_json) {
  v1::ChatPrompt chat;
  ASSIGN_OR_RETURN(const std::vector<Value> messages, ParseArray(messages_json, "messages"));
  if (messages.empty()) return absl::InvalidArgumentError("messages: must have at least one");
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(
        ReadMessage(messages[i], absl::StrCat("messages[", i, "]"), chat.add_messages()));
  }
  if (tools_json.empty()) return chat;
  ASSIGN_OR_RETURN(const std::vector<Value> tools, ParseArray(tools_json, "tools"));
  for (const Value& tool : tools) {
    ASSIGN_OR_RETURN(*chat.add_tools(), Compact(tool));
  }
  return chat;
}

}  // namespace tessera
