#include "engine/text/function_schema.h"

#include <algorithm>
#include <charconv>

namespace tessera {
namespace {

using jinja::Value;

// Schemas looked at for one question: references make circles, and circles of alternatives.
constexpr int kMostSteps = 200;
constexpr std::string_view kAlternatives[] = {"anyOf", "oneOf", "allOf"};

std::string TypeOf(const Value& value) {
  if (value.is_none()) return "null";
  if (value.is_bool()) return "boolean";
  if (value.is_int() || value.is_big()) return "integer";
  if (value.is_float()) return "number";
  if (value.is_string()) return "string";
  return value.is_list() ? "array" : "object";
}

// One step of a JSON pointer, with its escapes.
std::string Unescape(std::string_view step) {
  std::string text;
  for (size_t i = 0; i < step.size(); ++i) {
    const bool is_escape =
        step[i] == '~' && i + 1 < step.size() && (step[i + 1] == '0' || step[i + 1] == '1');
    text += !is_escape ? step[i] : step[++i] == '0' ? '~' : '/';
  }
  return text;
}

Value Member(const Value& value, const std::string& step) {
  if (!value.is_list()) return value.Get(step);
  size_t index = 0;
  const auto [end, error] = std::from_chars(step.data(), step.data() + step.size(), index);
  const auto& items = value.list().items;
  const bool found =
      error == std::errc() && end == step.data() + step.size() && index < items.size();
  return found ? items[index] : Value();
}

}  // namespace

FunctionSchema::FunctionSchema(const Value& tools, std::string_view name) {
  if (!tools.is_list() || tools.list().items.empty()) {
    declared_ = true;
    return;
  }
  for (const Value& tool : tools.list().items) {
    const Value nested = tool.Get("function");
    const Value function = nested.is_dict() ? nested : tool;
    const Value declared = function.Get("name");
    if (!declared.is_string() || declared.str() != name) continue;
    declared_ = true;
    root_ = function.Get("parameters");
    int steps = kMostSteps;
    lists_properties_ = ListsProperties(root_, &steps);
    return;
  }
}

Value FunctionSchema::Resolve(const Value& schema) const {
  const Value reference = schema.Get("$ref");
  if (!reference.is_string() || !reference.str().starts_with('#')) return Value();
  std::string_view pointer = std::string_view(reference.str()).substr(1);
  Value found = root_;
  while (pointer.starts_with('/')) {
    pointer.remove_prefix(1);
    const size_t end = std::min(pointer.find('/'), pointer.size());
    found = Member(found, Unescape(pointer.substr(0, end)));
    pointer.remove_prefix(end);
  }
  return found;
}

Value FunctionSchema::FindProperty(const Value& schema, std::string_view argument,
                                   int* steps) const {
  if (!schema.is_dict() || --*steps < 0) return Value();
  if (const Value own = schema.Get("properties").Get(argument); own.is_dict()) return own;
  if (const Value found = FindProperty(Resolve(schema), argument, steps); found.is_dict()) {
    return found;
  }
  for (const std::string_view name : kAlternatives) {
    const Value choices = schema.Get(name);
    if (!choices.is_list()) continue;
    for (const Value& choice : choices.list().items) {
      if (const Value found = FindProperty(choice, argument, steps); found.is_dict()) {
        return found;
      }
    }
  }
  return schema.Get("additionalProperties");
}

bool FunctionSchema::ListsProperties(const Value& schema, int* steps) const {
  if (!schema.is_dict() || --*steps < 0) return false;
  const Value properties = schema.Get("properties");
  if (properties.is_dict() && properties.dict().size() > 0) return true;
  if (ListsProperties(Resolve(schema), steps)) return true;
  for (const std::string_view name : kAlternatives) {
    const Value choices = schema.Get(name);
    if (!choices.is_list()) continue;
    for (const Value& choice : choices.list().items) {
      if (ListsProperties(choice, steps)) return true;
    }
  }
  return false;
}

bool FunctionSchema::MayHave(std::string_view argument) const {
  int steps = kMostSteps;
  return !lists_properties_ || FindProperty(root_, argument, &steps).is_dict();
}

std::set<std::string> FunctionSchema::TypesOf(std::string_view argument) const {
  std::set<std::string> types;
  int steps = kMostSteps;
  CollectTypes(FindProperty(root_, argument, &steps), &steps, &types);
  return types;
}

void FunctionSchema::CollectTypes(const Value& schema, int* steps,
                                  std::set<std::string>* types) const {
  if (!schema.is_dict() || --*steps < 0) return;
  const auto add = [types](const Value& type) {
    if (type.is_string()) types->insert(type.str());
  };
  const Value type = schema.Get("type");
  add(type);
  if (type.is_list()) {
    for (const Value& item : type.list().items) add(item);
  }
  CollectTypes(Resolve(schema), steps, types);
  for (const std::string_view name : kAlternatives) {
    const Value choices = schema.Get(name);
    if (!choices.is_list()) continue;
    for (const Value& choice : choices.list().items) CollectTypes(choice, steps, types);
  }
  if (types->empty()) {
    const Value choices = schema.Get("enum");
    if (choices.is_list()) {
      for (const Value& choice : choices.list().items) types->insert(TypeOf(choice));
    }
    if (const Value only = schema.Get("const"); !only.is_undefined()) types->insert(TypeOf(only));
  }
  if (types->empty() && schema.Get("properties").is_dict()) types->insert("object");
  if (types->empty() && !schema.Get("items").is_undefined()) types->insert("array");
  const Value nullable = schema.Get("nullable");
  if (nullable.is_bool() && nullable.as_bool() && !types->empty()) types->insert("null");
}

}  // namespace tessera
