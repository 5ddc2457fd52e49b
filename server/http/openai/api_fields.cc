#include "server/http/openai/api_fields.h"

#include <cmath>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/json_write.h"
#include "kernels/core/status_macros.h"
#include "server/field_violations.h"
#include "server/http/openai/json_shape.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Value;

// As people who write JSON call it.
std::string_view JsonTypeOf(const Value& value) {
  if (value.is_none()) return "null";
  if (value.is_bool()) return "a boolean";
  if (value.is_int() || value.is_big()) return "an integer";
  if (value.is_float()) return "a number";
  if (value.is_string()) return "a string";
  return value.is_list() ? "an array" : "an object";
}

// Numbers as they were written, more or less; text is cut by whoever reports it.
std::string Shown(const Value& value) {
  if (value.is_list() || value.is_dict()) return std::string(JsonTypeOf(value));
  const absl::StatusOr<std::string> json = CompactJson(value);
  return json.ok() ? Concat(JsonTypeOf(value), " ", *json) : std::string(JsonTypeOf(value));
}

}  // namespace

absl::StatusOr<std::string> CompactJson(const Value& value) {
  return jinja::ToJsonString(value, {.item_separator = ",", .key_separator = ":"});
}

absl::StatusOr<Value> ParseApiBody(std::string_view body) {
  RETURN_IF_ERROR(CheckJsonShape(body, {}));
  absl::StatusOr<Value> parsed = jinja::ParseJson(body);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(Concat("the body is ", parsed.status().message()));
  }
  if (!parsed->is_dict()) return absl::InvalidArgumentError("the body must be a JSON object");
  return parsed;
}

const Value* ApiFields::Find(std::string_view name) const {
  const Value* found = object_.dict().Find(name);
  return found == nullptr || found->is_none() ? nullptr : found;
}

void ApiFields::Fail(std::string_view name, std::string_view what) const {
  if (error_->ok()) *error_ = FieldError(Concat(path_, name), std::string(what));
}

void ApiFields::Refuse(std::string_view name, std::string_view why) const {
  if (Has(name)) Fail(name, why);
}

void ApiFields::WrongType(std::string_view name, std::string_view wanted,
                          const Value& found) const {
  Fail(name, Concat("must be ", wanted, ", got ", Shown(found)));
}

std::optional<bool> ApiFields::Bool(std::string_view name) const {
  const Value* found = Find(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_bool()) return found->as_bool();
  WrongType(name, "true or false", *found);
  return std::nullopt;
}

std::optional<int64_t> ApiFields::Integer(std::string_view name) const {
  const Value* found = Find(name);
  if (found == nullptr) return std::nullopt;
  return IntegerOf(*found, name);
}

std::optional<int64_t> ApiFields::IntegerOf(const Value& value, std::string_view name) const {
  if (value.is_int()) return value.as_int();
  constexpr double kBeyond = 9223372036854775808.0;  // 2^63
  if (value.is_float() && std::trunc(value.as_float()) == value.as_float() &&
      value.as_float() >= -kBeyond && value.as_float() < kBeyond) {
    return static_cast<int64_t>(value.as_float());
  }
  WrongType(name, "an integer of at most 64 bits", value);
  return std::nullopt;
}

std::optional<double> ApiFields::Number(std::string_view name) const {
  const Value* found = Find(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_float()) return found->as_float();
  if (found->is_int()) return static_cast<double>(found->as_int());
  if (found->is_big()) return found->as_big().front() == '-' ? -1e300 : 1e300;
  WrongType(name, "a number", *found);
  return std::nullopt;
}

std::optional<std::string> ApiFields::Text(std::string_view name) const {
  const Value* found = Find(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_string()) return found->str();
  WrongType(name, "a string", *found);
  return std::nullopt;
}

const Value* ApiFields::Object(std::string_view name) const {
  const Value* found = Find(name);
  if (found == nullptr || found->is_dict()) return found;
  WrongType(name, "an object", *found);
  return nullptr;
}

const Value* ApiFields::Array(std::string_view name) const {
  const Value* found = Find(name);
  if (found == nullptr || found->is_list()) return found;
  WrongType(name, "an array", *found);
  return nullptr;
}

}  // namespace tessera
