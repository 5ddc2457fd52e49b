// <tool_call>\n<function=f>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>
#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "engine/text/jinja/json.h"
#include "engine/text/tool_call_parser.h"

namespace tessera {
namespace {

using jinja::Dict;
using jinja::Value;

constexpr std::string_view kClose = "</tool_call>";
constexpr std::string_view kFunction = "<function=";
constexpr std::string_view kFunctionEnd = "</function>";
constexpr std::string_view kParameter = "<parameter=";
constexpr std::string_view kParameterEnd = "</parameter>";
constexpr std::string_view kWhiteSpace = " \t\n\r";

std::string_view Trim(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(kWhiteSpace), text.size());
  text.remove_prefix(begin);
  return text.substr(0, text.find_last_not_of(kWhiteSpace) + 1);
}

// "=name>" after a tag's start: the name; moves `text` behind it.
std::optional<std::string> TakeName(std::string_view* text) {
  const size_t end = text->find('>');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view name = Trim(text->substr(0, end));
  text->remove_prefix(end + 1);
  if (name.empty() || name.find_first_of("\n<") != std::string_view::npos) return std::nullopt;
  return std::string(name);
}

// The types that a parameter's schema allows; empty if it does not say.
std::set<std::string> AllowedTypes(const Value& schema) {
  std::set<std::string> types;
  const auto add = [&types](const Value& type) {
    if (type.is_string()) types.insert(type.str());
    if (!type.is_list()) return;
    for (const Value& item : type.list().items) {
      if (item.is_string()) types.insert(item.str());
    }
  };
  add(schema.Get("type"));
  for (const std::string_view name : {"anyOf", "oneOf"}) {
    const Value choices = schema.Get(name);
    if (!choices.is_list()) continue;
    for (const Value& choice : choices.list().items) add(choice.Get("type"));
  }
  return types;
}

bool HasType(const Value& value, const std::set<std::string>& types) {
  if (value.is_none()) return types.contains("null");
  if (value.is_bool()) return types.contains("boolean");
  if (value.is_int() || value.is_big())
    return types.contains("integer") || types.contains("number");
  if (value.is_float()) return types.contains("number");
  if (value.is_list()) return types.contains("array");
  return value.is_dict() && types.contains("object");
}

// Text that fits no declared type stays text, so that nothing the model wrote is lost.
Value ConvertArgument(const std::string& text, const std::set<std::string>& types) {
  std::string json(Trim(text));
  if (types.contains("boolean") && (json == "True" || json == "False")) json[0] |= 0x20;
  if (!types.empty() && types != std::set<std::string>{"string"}) {
    const absl::StatusOr<Value> parsed = jinja::ParseJson(json);
    if (parsed.ok() && HasType(*parsed, types)) return *parsed;
  }
  return Value::String(text, jinja::Provenance::kUntrusted);
}

class CoderXmlSyntax : public ToolCallSyntax {
 public:
  explicit CoderXmlSyntax(Value tools) : tools_(std::move(tools)) {}

  // A closing tag counts behind </function>, because values are raw text that may hold one.
  std::optional<BlockEnd> FindEnd(std::string_view text) const override {
    const bool is_function = Trim(text).substr(0, kFunction.size()) == kFunction;
    for (size_t at = text.find(kClose); at != std::string_view::npos;
         at = text.find(kClose, at + 1)) {
      const std::string_view block = Trim(text.substr(0, at));
      if (!is_function || block.ends_with(kFunctionEnd)) return BlockEnd{at, kClose.size()};
    }
    return std::nullopt;
  }

  std::optional<Call> Parse(std::string_view block) const override {
    block = Trim(block);
    if (block.substr(0, kFunction.size()) != kFunction) return std::nullopt;
    block.remove_prefix(kFunction.size());
    const std::optional<std::string> name = TakeName(&block);
    if (!name || !block.ends_with(kFunctionEnd)) return std::nullopt;
    block.remove_suffix(kFunctionEnd.size());
    const Value properties = FindProperties(*name);
    Dict arguments;
    for (block = Trim(block); !block.empty(); block = Trim(block)) {
      if (block.substr(0, kParameter.size()) != kParameter) return std::nullopt;
      block.remove_prefix(kParameter.size());
      const std::optional<std::string> key = TakeName(&block);
      if (!key) return std::nullopt;
      const std::string value = TakeValue(&block);
      arguments.Set(*key, ConvertArgument(value, AllowedTypes(properties.Get(*key))));
    }
    const absl::StatusOr<std::string> json =
        jinja::ToJsonString(Value::MakeDict(std::move(arguments)));
    // The values are raw text: what is no UTF-8, or nests too deeply, makes no JSON.
    if (!json.ok() || !jinja::ParseJson(*json).ok()) return std::nullopt;
    return Call{*name, *json};
  }

 private:
  // Up to </parameter> (or the next parameter, if the tag was forgotten), without the newlines that
  // the format puts around a value.
  static std::string TakeValue(std::string_view* text) {
    const size_t close = std::min(text->find(kParameterEnd), text->size());
    const size_t next = text->find(kParameter);
    const size_t end = std::min(close, next == std::string_view::npos ? close : next);
    std::string_view value = text->substr(0, end);
    text->remove_prefix(end == close ? std::min(end + kParameterEnd.size(), text->size()) : end);
    if (value.starts_with('\n')) value.remove_prefix(1);
    if (value.ends_with('\n')) value.remove_suffix(1);
    return std::string(value);
  }

  Value FindProperties(std::string_view name) const {
    if (!tools_.is_list()) return Value();
    for (const Value& tool : tools_.list().items) {
      const Value nested = tool.Get("function");
      const Value function = nested.is_dict() ? nested : tool;
      const Value declared = function.Get("name");
      if (declared.is_string() && declared.str() == name) {
        return function.Get("parameters").Get("properties");
      }
    }
    return Value();
  }

  const Value tools_;
};

}  // namespace

std::unique_ptr<const ToolCallSyntax> MakeCoderXmlSyntax(const Value& tools) {
  return std::make_unique<CoderXmlSyntax>(tools);
}

}  // namespace tessera
