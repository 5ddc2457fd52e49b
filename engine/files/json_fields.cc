#include "engine/files/json_fields.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "engine/files/message.h"

namespace tessera {
namespace {

namespace dom = simdjson::dom;

constexpr size_t kMaxEchoedBytes = 60;

// The value as it may appear in a message: one line, short, printable.
std::string Echo(dom::element value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string_view text;
  const bool is_string = value.get(text) == simdjson::SUCCESS;
  const std::string shown = is_string ? std::string(text) : std::string(simdjson::minify(value));
  const bool is_long = shown.size() > kMaxEchoedBytes;
  const std::string start = absl::CHexEscape(is_long ? shown.substr(0, kMaxEchoedBytes) : shown);
  const char* const quote = is_string ? "\"" : "";
  return Message(quote, start, is_long ? "..." : "", quote);
}

std::string NotA(std::string_view expected, dom::element value) {
  return Message("is ", Echo(value), ", must be ", expected);
}

}  // namespace

struct JsonFields::Document {
  JsonDocument json;
  std::string source;
  absl::Status status;
};

JsonFields::JsonFields(std::shared_ptr<Document> document, dom::object object, std::string prefix)
    : document_(std::move(document)), object_(object), prefix_(std::move(prefix)) {}

absl::StatusOr<JsonFields> JsonFields::Parse(std::string_view text, std::string_view source) {
  absl::StatusOr<JsonDocument> json = JsonDocument::Parse(text);
  if (!json.ok()) {
    return absl::InvalidArgumentError(Message(source, ": ", json.status().message()));
  }
  dom::object root;
  if (json->root().get(root) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(Message(source, ": must hold a JSON object"));
  }
  auto document = std::make_shared<Document>(
      Document{.json = *std::move(json), .source = std::string(source), .status = {}});
  return JsonFields(std::move(document), root, "");
}

void JsonFields::Fail(std::string_view key, std::string_view why) const {
  if (!document_->status.ok()) return;
  document_->status =
      absl::InvalidArgumentError(Message(document_->source, ": ", prefix_, key, " ", why));
}

const absl::Status& JsonFields::status() const { return document_->status; }

bool JsonFields::Contains(std::string_view key) const {
  return object_.at_key(key).error() == simdjson::SUCCESS;
}

bool JsonFields::Has(std::string_view key) const { return Find(key).has_value(); }

std::vector<std::string> JsonFields::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [name, value] : object_) {
    if (std::find(keys.begin(), keys.end(), name) == keys.end()) keys.emplace_back(name);
  }
  return keys;
}

bool JsonFields::IsString(std::string_view key) const {
  const std::optional<dom::element> value = Find(key);
  return value && value->is_string();
}

bool JsonFields::IsEmptyObject(std::string_view key) const {
  const std::optional<dom::element> value = Find(key);
  dom::object object;
  return value && value->get(object) == simdjson::SUCCESS && object.size() == 0;
}

std::optional<dom::element> JsonFields::Find(std::string_view key) const {
  std::optional<dom::element> found;
  for (const auto& [name, value] : object_) {
    if (name == key) found = value;
  }
  return found && found->is_null() ? std::nullopt : found;
}

std::optional<int64_t> JsonFields::CheckedInt(std::string_view key, dom::element value,
                                              IntRange range) const {
  int64_t number = 0;
  if (value.get(number) == simdjson::SUCCESS && number >= range.min && number <= range.max) {
    return number;
  }
  Fail(key, NotA(Message("an integer from ", range.min, " to ", range.max), value));
  return std::nullopt;
}

std::optional<int32_t> JsonFields::OptionalInt(std::string_view key, IntRange range) const {
  const std::optional<dom::element> value = Find(key);
  if (!value) return std::nullopt;
  const std::optional<int64_t> number = CheckedInt(key, *value, range);
  return number ? std::optional(static_cast<int32_t>(*number)) : std::nullopt;
}

int32_t JsonFields::Int(std::string_view key, int32_t fallback, IntRange range) const {
  return OptionalInt(key, range).value_or(fallback);
}

std::optional<double> JsonFields::OptionalNumber(std::string_view key, NumberRange range) const {
  const std::optional<dom::element> value = Find(key);
  if (!value) return std::nullopt;
  double number = std::nan("");
  if (value->is_number() && value->get(number) != simdjson::SUCCESS) number = std::nan("");
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
  const std::optional<dom::element> value = Find(key);
  if (!value) return std::nullopt;
  bool flag = false;
  if (value->get(flag) == simdjson::SUCCESS) return flag;
  Fail(key, NotA("true or false", *value));
  return std::nullopt;
}

bool JsonFields::Bool(std::string_view key, bool fallback) const {
  return OptionalBool(key).value_or(fallback);
}

std::string JsonFields::String(std::string_view key, std::string_view fallback) const {
  const std::optional<dom::element> value = Find(key);
  if (!value) return std::string(fallback);
  std::string_view text;
  if (value->get(text) == simdjson::SUCCESS) return std::string(text);
  Fail(key, NotA("a string", *value));
  return std::string(fallback);
}

std::vector<std::string> JsonFields::Strings(std::string_view key) const {
  const std::optional<dom::element> value = Find(key);
  std::vector<std::string> strings;
  if (!value) return strings;
  dom::array list;
  if (value->get(list) != simdjson::SUCCESS) {
    Fail(key, NotA("a list of strings", *value));
    return strings;
  }
  for (const dom::element item : list) {
    std::string_view text;
    if (item.get(text) != simdjson::SUCCESS) {
      Fail(key, Message("holds ", Echo(item), ", must be a list of strings"));
      return {};
    }
    strings.emplace_back(text);
  }
  return strings;
}

std::vector<int32_t> JsonFields::Ints(std::string_view key, IntRange range) const {
  const std::optional<dom::element> value = Find(key);
  std::vector<int32_t> numbers;
  if (!value) return numbers;
  const auto append = [&](dom::element item) {
    const std::optional<int64_t> number = CheckedInt(key, item, range);
    if (number) numbers.push_back(static_cast<int32_t>(*number));
  };
  dom::array list;
  if (value->get(list) != simdjson::SUCCESS) {
    append(*value);
    return numbers;
  }
  for (const dom::element item : list) append(item);
  return numbers;
}

std::optional<JsonFields> JsonFields::Object(std::string_view key) const {
  const std::optional<dom::element> value = Find(key);
  if (!value) return std::nullopt;
  dom::object object;
  if (value->get(object) != simdjson::SUCCESS) {
    Fail(key, NotA("an object", *value));
    return std::nullopt;
  }
  return JsonFields(document_, object, Message(prefix_, key, "."));
}

}  // namespace tessera
