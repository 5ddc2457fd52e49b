#include "engine/model/json_fields.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "engine/checkpoint/message.h"

namespace tessera {
namespace {

constexpr size_t kMaxEchoedBytes = 60;

// The value as it may appear in a message: one line, short, printable.
std::string Echo(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text =
      value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kMaxEchoedBytes) text = Message(text.substr(0, kMaxEchoedBytes), "...");
  return text;
}

std::string NotA(std::string_view expected, const nlohmann::json& value) {
  return Message("is ", Echo(value), ", must be ", expected);
}

}  // namespace

struct JsonFields::Document {
  nlohmann::json root;
  std::string source;
  absl::Status status;
};

JsonFields::JsonFields(std::shared_ptr<Document> document, const nlohmann::json* object,
                       std::string prefix)
    : document_(std::move(document)), object_(object), prefix_(std::move(prefix)) {}

absl::StatusOr<JsonFields> JsonFields::Parse(std::string_view text, std::string_view source) {
  auto document = std::make_shared<Document>();
  document->source = std::string(source);
  document->root = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (document->root.is_discarded()) {
    return absl::InvalidArgumentError(Message(source, ": not valid JSON"));
  }
  if (!document->root.is_object()) {
    return absl::InvalidArgumentError(Message(source, ": must hold a JSON object"));
  }
  const nlohmann::json* root = &document->root;
  return JsonFields(std::move(document), root, "");
}

void JsonFields::Fail(std::string_view key, std::string_view why) const {
  if (!document_->status.ok()) return;
  document_->status =
      absl::InvalidArgumentError(Message(document_->source, ": ", prefix_, key, " ", why));
}

const absl::Status& JsonFields::status() const { return document_->status; }

bool JsonFields::Contains(std::string_view key) const {
  return object_->find(std::string(key)) != object_->end();
}

bool JsonFields::Has(std::string_view key) const { return Find(key) != nullptr; }

const nlohmann::json* JsonFields::Find(std::string_view key) const {
  const auto found = object_->find(std::string(key));
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> JsonFields::CheckedInt(std::string_view key, const nlohmann::json& value,
                                              IntRange range) const {
  const std::string expected = Message("an integer from ", range.min, " to ", range.max);
  // get<int64_t>() of an unsigned value above 2^63 would wrap around.
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                        : value.is_number_integer();
  if (!fits || value.get<int64_t>() < range.min || value.get<int64_t>() > range.max) {
    Fail(key, NotA(expected, value));
    return std::nullopt;
  }
  return value.get<int64_t>();
}

std::optional<int32_t> JsonFields::OptionalInt(std::string_view key, IntRange range) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = CheckedInt(key, *value, range);
  return number ? std::optional(static_cast<int32_t>(*number)) : std::nullopt;
}

int32_t JsonFields::Int(std::string_view key, int32_t fallback, IntRange range) const {
  return OptionalInt(key, range).value_or(fallback);
}

std::optional<double> JsonFields::OptionalNumber(std::string_view key, NumberRange range) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  // Written so that NaN fails.
  if (!(number >= range.min && number <= range.max)) {
    Fail(key, NotA(Message("a number from ", range.min, " to ", range.max), *value));
    return std::nullopt;
  }
  return number;
}

double JsonFields::Number(std::string_view key, double fallback, NumberRange range) const {
  return OptionalNumber(key, range).value_or(fallback);
}

std::optional<bool> JsonFields::OptionalBool(std::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    Fail(key, NotA("true or false", *value));
    return std::nullopt;
  }
  return value->get<bool>();
}

bool JsonFields::Bool(std::string_view key, bool fallback) const {
  return OptionalBool(key).value_or(fallback);
}

std::string JsonFields::String(std::string_view key, std::string_view fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) {
    Fail(key, NotA("a string", *value));
    return std::string(fallback);
  }
  return value->get<std::string>();
}

std::vector<std::string> JsonFields::Strings(std::string_view key) const {
  const nlohmann::json* value = Find(key);
  std::vector<std::string> strings;
  if (value == nullptr) return strings;
  if (!value->is_array()) {
    Fail(key, NotA("a list of strings", *value));
    return strings;
  }
  for (const nlohmann::json& item : *value) {
    if (!item.is_string()) {
      Fail(key, Message("holds ", Echo(item), ", must be a list of strings"));
      return {};
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

std::vector<int32_t> JsonFields::Ints(std::string_view key, IntRange range) const {
  const nlohmann::json* value = Find(key);
  std::vector<int32_t> numbers;
  if (value == nullptr) return numbers;
  const auto append = [&](const nlohmann::json& item) {
    const std::optional<int64_t> number = CheckedInt(key, item, range);
    if (number) numbers.push_back(static_cast<int32_t>(*number));
  };
  if (!value->is_array()) {
    append(*value);
    return numbers;
  }
  for (const nlohmann::json& item : *value) append(item);
  return numbers;
}

std::optional<JsonFields> JsonFields::Object(std::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) {
    Fail(key, NotA("an object", *value));
    return std::nullopt;
  }
  return JsonFields(document_, value, Message(prefix_, key, "."));
}

}  // namespace tessera
