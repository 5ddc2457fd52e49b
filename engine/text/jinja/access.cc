#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json_write.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

// Whether the byte at `at` is untrusted; `spans` is sorted.
Provenance ProvenanceAt(const std::vector<Span>& spans, size_t at) {
  const auto it =
      std::upper_bound(spans.begin(), spans.end(), at,
                       [](size_t offset, const Span& span) { return offset < span.end; });
  return it != spans.end() && it->begin <= at ? Provenance::kUntrusted : Provenance::kTrusted;
}

std::string EscapeForRepr(int32_t c, unsigned char byte, char quote) {
  if (c == quote || c == '\\') return std::string("\\") + static_cast<char>(c);
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  if (c == '\t') return "\\t";
  if (c == ' ' || IsPrintable(c)) return "";
  if (c < 0) return absl::StrFormat("\\x%02x", byte);
  if (c < 0x100) return absl::StrFormat("\\x%02x", c);
  return c < 0x10000 ? absl::StrFormat("\\u%04x", c) : absl::StrFormat("\\U%08x", c);
}

absl::Status AppendStringRepr(Budget* budget, const Text& text, TextBuilder* out) {
  const std::string& bytes = text.bytes();
  RETURN_IF_ERROR(budget->Charge(2 + static_cast<int64_t>(bytes.size())));
  const bool has_single = bytes.find('\'') != std::string::npos;
  const bool has_double = bytes.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  const Provenance quotes = text.tainted() ? Provenance::kUntrusted : Provenance::kTrusted;
  out->Append(std::string_view(&quote, 1), quotes);
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint point = DecodeCodePoint(bytes, at);
    const std::string escape =
        EscapeForRepr(point.value, static_cast<unsigned char>(bytes[at]), quote);
    if (escape.empty()) {
      out->AppendRange(text, at, at + point.length);
    } else {
      RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(escape.size())));
      out->Append(escape, ProvenanceAt(text.untrusted(), at));
    }
    at += point.length;
  }
  out->Append(std::string_view(&quote, 1), quotes);
  return absl::OkStatus();
}

absl::Status AppendListRepr(Budget* budget, const List& list, TextBuilder* out) {
  out->Append(list.tuple ? "(" : "[");
  bool first = true;
  for (const Value& item : list.items) {
    if (!first) out->Append(", ");
    first = false;
    RETURN_IF_ERROR(AppendRepr(budget, item, out));
  }
  if (list.tuple && list.items.size() == 1) out->Append(",");
  out->Append(list.tuple ? ")" : "]");
  return absl::OkStatus();
}

absl::Status AppendDictRepr(Budget* budget, const Dict& dict, TextBuilder* out) {
  out->Append("{");
  bool first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (!first) out->Append(", ");
    first = false;
    RETURN_IF_ERROR(AppendRepr(budget, key, out));
    out->Append(": ");
    RETURN_IF_ERROR(AppendRepr(budget, value, out));
  }
  out->Append("}");
  return absl::OkStatus();
}

// Python's slice.indices for a sequence of `size` elements.
struct Range {
  int64_t start;
  int64_t stop;
  int64_t step;
};

Range ResolveSlice(const SliceBounds& bounds, int64_t size) {
  const int64_t step = bounds.step.value_or(1);
  const auto clamp = [size, step](int64_t index) {
    if (index < 0) index += size;
    return std::clamp<int64_t>(index, step < 0 ? -1 : 0, step < 0 ? size - 1 : size);
  };
  const int64_t start = bounds.start ? clamp(*bounds.start) : (step < 0 ? size - 1 : 0);
  const int64_t stop = bounds.stop ? clamp(*bounds.stop) : (step < 0 ? -1 : size);
  return {start, stop, step};
}

absl::StatusOr<Value> SliceText(Budget* budget, const Text& text, const SliceBounds& bounds) {
  RETURN_IF_ERROR(budget->Charge(9 * static_cast<int64_t>(text.size())));
  const std::vector<size_t> offsets = CodePointOffsets(text.bytes());
  const Range range = ResolveSlice(bounds, static_cast<int64_t>(offsets.size()) - 1);
  if (range.step == 1) {
    if (range.start >= range.stop) return Value::String("");
    return Value::FromText(text.Slice(offsets[static_cast<size_t>(range.start)],
                                      offsets[static_cast<size_t>(range.stop)]));
  }
  TextBuilder builder;
  for (int64_t i = range.start; range.step > 0 ? i < range.stop : i > range.stop;) {
    builder.AppendRange(text, offsets[static_cast<size_t>(i)], offsets[static_cast<size_t>(i) + 1]);
    if (__builtin_add_overflow(i, range.step, &i)) break;
  }
  return Value::FromText(std::move(builder).Build());
}

absl::StatusOr<Value> IndexText(Budget* budget, const Text& text, int64_t index) {
  const int64_t next = index == -1 ? INT64_MAX : index + 1;
  ASSIGN_OR_RETURN(Value character, SliceText(budget, text, {index, next, std::nullopt}));
  // Slices clamp, subscripts do not.
  const bool far_left = index < 0 && -index > static_cast<int64_t>(CountCodePoints(text.bytes()));
  if (character.str().empty() || far_left) {
    return Value::MakeUndefined("the string has no such character");
  }
  return character;
}

}  // namespace

bool IsTrue(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_bool() || value.is_int()) return value.as_int() != 0;
  if (value.is_float()) return value.as_float() != 0;
  if (value.is_string()) return !value.str().empty();
  if (value.is_list()) return !value.list().items.empty();
  if (value.is_dict()) return value.dict().size() != 0;
  return true;
}

absl::Status AppendRepr(Budget* budget, const Value& value, TextBuilder* out) {
  if (value.is_string()) return AppendStringRepr(budget, value.text(), out);
  if (value.is_undefined()) {
    out->Append("Undefined");
    return absl::OkStatus();
  }
  return AppendStr(budget, value, out);
}

absl::Status AppendStr(Budget* budget, const Value& value, TextBuilder* out) {
  RETURN_IF_ERROR(
      budget->Charge(value.is_string() ? static_cast<int64_t>(value.str().size()) : kElementCost));
  if (value.is_string()) {
    out->Append(value.text());
  } else if (value.is_list()) {
    return AppendListRepr(budget, value.list(), out);
  } else if (value.is_dict()) {
    return AppendDictRepr(budget, value.dict(), out);
  } else if (value.is_none()) {
    out->Append("None");
  } else if (value.is_bool()) {
    out->Append(value.as_bool() ? "True" : "False");
  } else if (value.is_int()) {
    out->Append(Concat(value.as_int()));
  } else if (value.is_big()) {
    RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(value.as_big().size())));
    out->Append(value.as_big());
  } else if (value.is_float()) {
    out->Append(FloatRepr(value.as_float()));
  } else if (value.is_object()) {
    out->Append(Concat("<", value.type_name(), ">"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Text> Str(Budget* budget, const Value& value) {
  if (value.is_string()) return value.text();
  TextBuilder builder;
  RETURN_IF_ERROR(AppendStr(budget, value, &builder));
  return std::move(builder).Build();
}

absl::StatusOr<Value> GetAttribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) {
    return absl::InvalidArgumentError(
        Concat(object.undefined_reason(), ", so it has no attribute '", name, "'"));
  }
  if (object.is_object()) return object.object()->GetAttribute(name);
  if (HasMethod(object, name)) return BindMethod(object, name);
  if (object.is_dict()) return object.Get(name);
  return Value::MakeUndefined(Concat("'", object.type_name(), "' has no attribute '", name, "'"));
}

absl::StatusOr<Value> GetItem(Budget* budget, const Value& object, const Value& key) {
  if (object.is_undefined()) {
    return absl::InvalidArgumentError(
        Concat(object.undefined_reason(), ", so it cannot be subscripted"));
  }
  if (object.is_dict()) {
    RETURN_IF_ERROR(
        budget->Step(key.is_string() ? 1 + static_cast<int64_t>(key.str().size() / 64) : 1));
    if (const Value* found = object.dict().Find(key)) return *found;
  } else if (key.is_int() || key.is_bool()) {
    const int64_t index = key.as_int();
    if (object.is_string()) return IndexText(budget, object.text(), index);
    if (object.is_list()) {
      const auto size = static_cast<int64_t>(object.list().items.size());
      if (index >= -size && index < size) {
        return object.list().items[static_cast<size_t>(index < 0 ? index + size : index)];
      }
      return Value::MakeUndefined(Concat("the ", object.type_name(), " has no element ", index));
    }
  }
  if (key.is_string()) return GetAttribute(object, key.str());
  return Value::MakeUndefined(Concat("'", object.type_name(), "' has no such element"));
}

absl::StatusOr<Value> Slice(Budget* budget, const Value& object, const SliceBounds& bounds) {
  if (bounds.step == 0 && (object.is_string() || object.is_list())) {
    return absl::InvalidArgumentError("the step of a slice is zero");
  }
  if (object.is_string()) return SliceText(budget, object.text(), bounds);
  if (object.is_undefined()) return absl::InvalidArgumentError(object.undefined_reason());
  if (!object.is_list()) {
    return Value::MakeUndefined(Concat("'", object.type_name(), "' cannot be sliced"));
  }
  const auto& items = object.list().items;
  const Range range = ResolveSlice(bounds, static_cast<int64_t>(items.size()));
  std::vector<Value> slice;
  for (int64_t i = range.start; range.step > 0 ? i < range.stop : i > range.stop;) {
    slice.push_back(items[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, range.step, &i)) break;
  }
  return NewList(budget, std::move(slice), object.list().tuple);
}

absl::StatusOr<std::vector<Value>> Iterate(Budget* budget, const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (value.is_list()) {
    RETURN_IF_ERROR(budget->Charge(16 * static_cast<int64_t>(value.list().items.size())));
    return value.list().items;
  }
  if (value.is_dict()) {
    RETURN_IF_ERROR(budget->Charge(16 * static_cast<int64_t>(value.dict().size())));
    for (const auto& [key, item] : value.dict().entries()) items.push_back(key);
    return items;
  }
  if (value.is_string()) {
    const Text& text = value.text();
    RETURN_IF_ERROR(budget->Charge(2 * kElementCost * static_cast<int64_t>(text.size())));
    for (size_t at = 0; at < text.size();) {
      const size_t length = DecodeCodePoint(text.bytes(), at).length;
      items.push_back(Value::FromText(text.Slice(at, at + length)));
      at += length;
    }
    return items;
  }
  return absl::InvalidArgumentError(Concat("'", value.type_name(), "' cannot be iterated over"));
}

absl::StatusOr<int64_t> Length(Budget* budget, const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_list()) return static_cast<int64_t>(value.list().items.size());
  if (value.is_dict()) return static_cast<int64_t>(value.dict().size());
  if (value.is_string()) {
    RETURN_IF_ERROR(budget->Step(1 + static_cast<int64_t>(value.str().size() / 16)));
    return static_cast<int64_t>(CountCodePoints(value.str()));
  }
  return absl::InvalidArgumentError(Concat("'", value.type_name(), "' has no length"));
}

}  // namespace tessera::jinja
