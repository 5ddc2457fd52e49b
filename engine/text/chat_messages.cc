#include "engine/text/chat_messages.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json_parse.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Dict;
using jinja::Provenance;
using jinja::Value;

constexpr std::string_view kRoles[] = {"system", "user", "assistant", "tool", "developer"};

absl::Status Invalid(std::string_view path, std::string_view problem) {
  return absl::InvalidArgumentError(Concat(path, ": ", problem));
}

std::string Child(std::string_view path, std::string_view name) { return Concat(path, ".", name); }
std::string Child(std::string_view path, size_t index) { return Concat(path, "[", index, "]"); }

bool IsAbsent(const Value& value) { return value.is_undefined() || value.is_none(); }

absl::Status WrongType(std::string_view path, std::string_view expected, const Value& value) {
  if (value.is_undefined()) return Invalid(path, Concat("is missing, must be ", expected));
  return Invalid(path, Concat("must be ", expected, ", not '", value.type_name(), "'"));
}

absl::Status ValidatePart(const std::string& path, const Value& part) {
  if (part.is_string()) return absl::OkStatus();
  if (!part.is_dict()) return WrongType(path, "a content part", part);
  const Value type = part.Get("type");
  if (!type.is_string()) return WrongType(Child(path, "type"), "a string", type);
  if (type.str() != "text") {
    return Invalid(Child(path, "type"), Concat("content parts of type '", type.str(),
                                               "' are not supported, only 'text'"));
  }
  const Value text = part.Get("text");
  if (!text.is_string()) return WrongType(Child(path, "text"), "a string", text);
  return absl::OkStatus();
}

absl::Status ValidateContent(const std::string& path, const Value& content) {
  if (content.is_string()) return absl::OkStatus();
  if (!content.is_list()) return WrongType(path, "a string, a list of parts or null", content);
  const auto& parts = content.list().items;
  for (size_t i = 0; i < parts.size(); ++i) {
    RETURN_IF_ERROR(ValidatePart(Child(path, i), parts[i]));
  }
  return absl::OkStatus();
}

absl::Status ValidateToolCall(const std::string& path, const Value& call) {
  if (!call.is_dict()) return WrongType(path, "an object", call);
  const bool nested = !IsAbsent(call.Get("function"));
  const Value function = nested ? call.Get("function") : call;
  const std::string function_path = nested ? Child(path, "function") : path;
  if (!function.is_dict()) return WrongType(function_path, "an object", function);
  const Value name = function.Get("name");
  if (!name.is_string()) return WrongType(Child(function_path, "name"), "a string", name);
  if (name.str().empty()) return Invalid(Child(function_path, "name"), "must not be empty");
  const Value arguments = function.Get("arguments");
  if (!IsAbsent(arguments) && !arguments.is_string() && !arguments.is_dict()) {
    return WrongType(Child(function_path, "arguments"), "a JSON string or an object", arguments);
  }
  return absl::OkStatus();
}

absl::Status ValidateToolCalls(const std::string& path, const Value& calls) {
  if (IsAbsent(calls)) return absl::OkStatus();
  if (!calls.is_list()) return WrongType(path, "a list", calls);
  const auto& items = calls.list().items;
  for (size_t i = 0; i < items.size(); ++i) {
    RETURN_IF_ERROR(ValidateToolCall(Child(path, i), items[i]));
  }
  return absl::OkStatus();
}

absl::Status ValidateMessage(const std::string& path, const Value& message) {
  if (!message.is_dict()) return WrongType(path, "an object", message);
  const Value role = message.Get("role");
  if (!role.is_string()) return WrongType(Child(path, "role"), "a string", role);
  if (std::find(std::begin(kRoles), std::end(kRoles), role.str()) == std::end(kRoles)) {
    return Invalid(Child(path, "role"),
                   Concat("unknown role '", role.str(),
                          "', must be system, developer, user, assistant or tool"));
  }
  const bool is_assistant = role.str() == "assistant";
  const Value content = message.Get("content");
  if (!is_assistant || !IsAbsent(content)) {
    RETURN_IF_ERROR(ValidateContent(Child(path, "content"), content));
  }
  for (const std::string_view name : {"reasoning_content", "reasoning"}) {
    const Value reasoning = message.Get(name);
    if (!IsAbsent(reasoning) && !reasoning.is_string()) {
      return WrongType(Child(path, name), "a string", reasoning);
    }
  }
  const Value calls = message.Get("tool_calls");
  RETURN_IF_ERROR(ValidateToolCalls(Child(path, "tool_calls"), calls));
  if (is_assistant && IsAbsent(content) && (IsAbsent(calls) || calls.list().items.empty())) {
    return Invalid(Child(path, "content"), "is missing, and there are no tool_calls");
  }
  return absl::OkStatus();
}

Value JoinParts(const Value& content) {
  if (!content.is_list()) return content;
  jinja::TextBuilder joined;
  bool first = true;
  for (const Value& part : content.list().items) {
    if (!first) joined.Append("\n", Provenance::kUntrusted);
    first = false;
    const Value text = part.is_dict() ? part.Get("text") : part;
    if (text.is_string()) joined.Append(text.text());
  }
  return Value::FromText(std::move(joined).Build());
}

// The call with its arguments as an object.
Value NormalizeToolCall(const Value& call) {
  const bool nested = call.Get("function").is_dict();
  const Value function = nested ? call.Get("function") : call;
  const Value arguments = function.Get("arguments");
  if (!function.is_dict()) return call;
  Value parsed_arguments = arguments;
  if (IsAbsent(arguments) || (arguments.is_string() && AreEmptyArguments(arguments.str()))) {
    parsed_arguments = Value::MakeDict(Dict());
  } else if (arguments.is_string()) {
    const absl::StatusOr<Value> parsed = jinja::ParseJson(arguments.str());
    if (parsed.ok() && parsed->is_dict()) parsed_arguments = *parsed;
  }
  Dict changed = function.dict().Clone();
  changed.Set("arguments", std::move(parsed_arguments));
  if (!nested) return Value::MakeDict(std::move(changed));
  Dict outer = call.dict().Clone();
  outer.Set("function", Value::MakeDict(std::move(changed)));
  return Value::MakeDict(std::move(outer));
}

Value NormalizeToolCalls(const Value& calls) {
  std::vector<Value> normalized;
  for (const Value& call : calls.list().items) normalized.push_back(NormalizeToolCall(call));
  return Value::MakeList(std::move(normalized));
}

Value NormalizeMessage(const Value& message) {
  Dict dict = message.dict().Clone();
  if (const Value role = message.Get("role"); role.is_string() && role.str() == "developer") {
    dict.Set("role", Value::String("system"));
  }
  const Value content = message.Get("content");
  dict.Set("content", IsAbsent(content) ? Value::String("") : JoinParts(content));
  const Value reasoning = message.Get("reasoning");
  if (reasoning.is_string() && IsAbsent(message.Get("reasoning_content"))) {
    dict.Set("reasoning_content", reasoning);
  }
  if (const Value calls = message.Get("tool_calls"); calls.is_list()) {
    dict.Set("tool_calls", NormalizeToolCalls(calls));
  }
  return Value::MakeDict(std::move(dict));
}

}  // namespace

bool AreEmptyArguments(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\r";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return true;
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin) == "null";
}

absl::Status ValidateMessages(const Value& messages) {
  if (!messages.is_list()) return WrongType("messages", "a list", messages);
  const auto& items = messages.list().items;
  if (items.empty()) return Invalid("messages", "must not be empty");
  for (size_t i = 0; i < items.size(); ++i) {
    RETURN_IF_ERROR(ValidateMessage(Child("messages", i), items[i]));
  }
  return absl::OkStatus();
}

absl::Status ValidateTools(const Value& tools) {
  if (IsAbsent(tools)) return absl::OkStatus();
  if (!tools.is_list()) return WrongType("tools", "a list", tools);
  const auto& items = tools.list().items;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string path = Child("tools", i);
    if (!items[i].is_dict()) return WrongType(path, "an object", items[i]);
    const Value function = items[i].Get("function");
    if (!function.is_dict()) return WrongType(Child(path, "function"), "an object", function);
    const Value name = function.Get("name");
    if (!name.is_string() || name.str().empty()) {
      return WrongType(Child(path, "function.name"), "a non-empty string", name);
    }
    const Value parameters = function.Get("parameters");
    if (!IsAbsent(parameters) && !parameters.is_dict()) {
      return WrongType(Child(path, "function.parameters"), "a JSON schema object", parameters);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> NormalizeMessages(const Value& messages) {
  RETURN_IF_ERROR(ValidateMessages(messages));
  std::vector<Value> normalized;
  normalized.reserve(messages.list().items.size());
  for (const Value& message : messages.list().items) {
    normalized.push_back(NormalizeMessage(message));
  }
  return Value::MakeList(std::move(normalized));
}

}  // namespace tessera
