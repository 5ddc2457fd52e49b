#include "engine/text/jinja/json_write.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "engine/text/jinja/concat.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(Budget* budget, const JsonStyle& style) : budget_(budget), style_(style) {
    item_separator_ = style.item_separator.value_or(style.indent ? "," : ", ");
    key_separator_ = style.key_separator.value_or(": ");
  }

  absl::Status Write(const Value& value, int level) {
    RETURN_IF_ERROR(budget_->Step());
    if (value.is_string()) return WriteString(value.text());
    if (value.is_list()) return WriteList(value.list(), level);
    if (value.is_dict()) return WriteDict(value.dict(), level);
    if (value.is_undefined() || value.is_object()) {
      return absl::InvalidArgumentError(
          Concat("a value of type '", value.type_name(), "' cannot be written as JSON",
                 value.is_undefined() ? ": " + value.undefined_reason() : std::string()));
    }
    return Append(Scalar(value));
  }

  Text Take() && { return std::move(out_).Build(); }

 private:
  absl::Status Append(std::string_view bytes, Provenance provenance = Provenance::kTrusted) {
    RETURN_IF_ERROR(budget_->Charge(static_cast<int64_t>(bytes.size())));
    out_.Append(bytes, provenance);
    return absl::OkStatus();
  }

  static std::string Scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.as_bool() ? "true" : "false";
    if (value.is_int()) return Concat(value.as_int());
    if (value.is_big()) return value.as_big();
    const double number = value.as_float();
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
    return FloatRepr(number);
  }

  absl::Status NewLine(int level) {
    if (!style_.indent) return absl::OkStatus();
    const int64_t width = int64_t{std::max(0, *style_.indent)} * level;
    RETURN_IF_ERROR(budget_->Charge(width + 1));
    out_.Append("\n" + std::string(static_cast<size_t>(width), ' '));
    return absl::OkStatus();
  }

  absl::Status WriteList(const List& list, int level) {
    if (list.items.empty()) return Append("[]");
    RETURN_IF_ERROR(Append("["));
    bool first = true;
    for (const Value& item : list.items) {
      if (!first) RETURN_IF_ERROR(Append(item_separator_));
      first = false;
      RETURN_IF_ERROR(NewLine(level + 1));
      RETURN_IF_ERROR(Write(item, level + 1));
    }
    RETURN_IF_ERROR(NewLine(level));
    return Append("]");
  }

  absl::Status WriteDict(const Dict& dict, int level) {
    if (dict.size() == 0) return Append("{}");
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) RETURN_IF_ERROR(SortByKey(&entries));
    RETURN_IF_ERROR(Append("{"));
    bool first = true;
    for (const auto* entry : entries) {
      if (!first) RETURN_IF_ERROR(Append(item_separator_));
      first = false;
      RETURN_IF_ERROR(NewLine(level + 1));
      RETURN_IF_ERROR(WriteKey(entry->first));
      RETURN_IF_ERROR(Append(key_separator_));
      RETURN_IF_ERROR(Write(entry->second, level + 1));
    }
    RETURN_IF_ERROR(NewLine(level));
    return Append("}");
  }

  static absl::Status SortByKey(std::vector<const std::pair<Value, Value>*>* entries) {
    for (const auto* entry : *entries) {
      if (!entry->first.is_string()) {
        return absl::InvalidArgumentError("tojson: sort_keys needs string keys");
      }
    }
    std::stable_sort(entries->begin(), entries->end(),
                     [](const auto* a, const auto* b) { return a->first.str() < b->first.str(); });
    return absl::OkStatus();
  }

  absl::Status WriteKey(const Value& key) {
    if (key.is_string()) return WriteString(key.text());
    if (key.is_list()) return absl::InvalidArgumentError("tojson: a tuple cannot be a JSON key");
    return Append(Concat("\"", Scalar(key), "\""));
  }

  absl::Status WriteString(const Text& text) {
    RETURN_IF_ERROR(budget_->Charge(static_cast<int64_t>(text.size())));
    const Provenance quotes = text.tainted() ? Provenance::kUntrusted : Provenance::kTrusted;
    out_.Append("\"", quotes);
    size_t copied = 0;
    for (size_t at = 0; at < text.size();) {
      const CodePoint point = DecodeCodePoint(text.bytes(), at);
      const std::string escape = Escape(point.value);
      if (!escape.empty()) {
        RETURN_IF_ERROR(budget_->Charge(static_cast<int64_t>(escape.size())));
        out_.AppendRange(text, copied, at);
        out_.Append(escape, quotes);
        copied = at + point.length;
      }
      at += point.length;
    }
    out_.AppendRange(text, copied, text.size());
    out_.Append("\"", quotes);
    return absl::OkStatus();
  }

  // Empty if the character stands for itself.
  std::string Escape(int32_t c) const {
    switch (c) {
      case '"':
        return "\\\"";
      case '\\':
        return "\\\\";
      case '\n':
        return "\\n";
      case '\r':
        return "\\r";
      case '\t':
        return "\\t";
      case '\b':
        return "\\b";
      case '\f':
        return "\\f";
      default:
        break;
    }
    if (c >= 0 && c < 0x20) return absl::StrFormat("\\u%04x", c);
    if (!style_.ensure_ascii || (c >= 0 && c < 0x7F) || c == 0x7F) return "";
    if (c < 0) return "\\ufffd";
    if (c < 0x10000) return absl::StrFormat("\\u%04x", c);
    const int32_t offset = c - 0x10000;
    return absl::StrFormat("\\u%04x\\u%04x", 0xD800 + (offset >> 10), 0xDC00 + (offset & 0x3FF));
  }

  Budget* const budget_;
  const JsonStyle& style_;
  std::string item_separator_;
  std::string key_separator_;
  TextBuilder out_;
};

}  // namespace

absl::StatusOr<Text> ToJson(Budget* budget, const Value& value, const JsonStyle& style) {
  JsonWriter writer(budget, style);
  RETURN_IF_ERROR(writer.Write(value, 0));
  return std::move(writer).Take();
}

absl::StatusOr<std::string> ToJsonString(const Value& value, const JsonStyle& style) {
  Limits limits;
  limits.max_steps = limits.max_bytes = std::numeric_limits<int64_t>::max();
  Budget budget(limits);
  ASSIGN_OR_RETURN(const Text text, ToJson(&budget, value, style));
  return text.bytes();
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  auto result =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view scientific(buffer, static_cast<size_t>(result.ptr - buffer));
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(std::string(scientific.substr(e + 1)).c_str());
  // Python switches to the exponent form below 1e-4 and from 1e16 on, with two exponent digits.
  if (value == 0 || (exponent >= -4 && exponent < 16)) {
    result = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
    std::string fixed(buffer, result.ptr);
    if (fixed.find('.') == std::string::npos) fixed += ".0";
    return fixed;
  }
  return std::string(scientific);
}

}  // namespace tessera::jinja
