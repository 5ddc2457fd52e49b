#include <algorithm>
#include <compare>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

// item.a.b or item[0], as the attribute argument of a filter names it. What is undefined on the
// way becomes `fallback`, if there is one.
absl::StatusOr<Value> ResolvePath(Budget* budget, Value item, const Value& path,
                                  const Value* fallback = nullptr) {
  if (fallback != nullptr && fallback->is_none()) fallback = nullptr;
  if (!path.is_string()) {
    ASSIGN_OR_RETURN(item, GetItem(budget, item, path));
    return item.is_undefined() && fallback != nullptr ? *fallback : item;
  }
  const std::string& names = path.str();
  for (size_t at = 0; at <= names.size();) {
    const size_t end = std::min(names.find('.', at), names.size());
    const std::string_view part = std::string_view(names).substr(at, end - at);
    at = end + 1;
    int64_t index = 0;
    const Value key = absl::SimpleAtoi(ToAbsl(part), &index) ? Value::Int(index)
                                                             : Value::String(std::string(part));
    ASSIGN_OR_RETURN(item, GetItem(budget, item, key));
    if (item.is_undefined() && fallback != nullptr) item = *fallback;
  }
  return item;
}

absl::StatusOr<Value> LengthFilter(Budget* budget, const Value& input, const Arguments&) {
  ASSIGN_OR_RETURN(const int64_t length, Length(budget, input));
  return Value::Int(length);
}

absl::StatusOr<Value> First(Budget* budget, const Value& input, const Arguments&) {
  if (input.is_string()) return GetItem(budget, input, Value::Int(0));
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(budget, input));
  if (items.empty()) return Value::MakeUndefined("the sequence is empty");
  return items.front();
}

absl::StatusOr<Value> Last(Budget* budget, const Value& input, const Arguments&) {
  if (input.is_string()) return GetItem(budget, input, Value::Int(-1));
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(budget, input));
  if (items.empty()) return Value::MakeUndefined("the sequence is empty");
  return items.back();
}

absl::StatusOr<Value> ToList(Budget* budget, const Value& input, const Arguments&) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(budget, input));
  return NewList(budget, std::move(items));
}

absl::StatusOr<Value> Items(Budget* budget, const Value& input, const Arguments&) {
  if (input.is_undefined()) return NewList(budget, {});
  if (!input.is_dict()) {
    return absl::InvalidArgumentError(Concat("'", input.type_name(), "' is no mapping"));
  }
  return DictItems(budget, input.dict());
}

absl::StatusOr<Value> JoinFilter(Budget* budget, const Value& input, const Arguments& args) {
  Text separator;
  if (const Value* given = args.Find(0, "d")) {
    ASSIGN_OR_RETURN(separator, Str(budget, *given));
  }
  const Value* attribute = args.Find(1, "attribute");
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, input));
  TextBuilder builder;
  bool first = true;
  for (const Value& item : items) {
    RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(separator.size())));
    if (!first) builder.Append(separator);
    first = false;
    if (attribute == nullptr || attribute->is_none()) {
      RETURN_IF_ERROR(AppendStr(budget, item, &builder));
    } else {
      ASSIGN_OR_RETURN(const Value value, ResolvePath(budget, item, *attribute));
      RETURN_IF_ERROR(AppendStr(budget, value, &builder));
    }
  }
  return NewText(budget, std::move(builder).Build());
}

absl::StatusOr<Value> Reverse(Budget* budget, const Value& input, const Arguments&) {
  if (input.is_string()) return Slice(budget, input, {std::nullopt, std::nullopt, -1});
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(budget, input));
  std::reverse(items.begin(), items.end());
  return NewList(budget, std::move(items));
}

// The key by which sort, unique, min and max compare: the attribute, lower-cased if it is text.
absl::StatusOr<Value> SortKey(Budget* budget, const Value& item, const Value* attribute,
                              bool case_sensitive) {
  Value key = item;
  if (attribute != nullptr && !attribute->is_none()) {
    ASSIGN_OR_RETURN(key, ResolvePath(budget, item, *attribute));
  }
  if (key.is_string() && !case_sensitive) return NewText(budget, MapLower(key.text()));
  return key;
}

struct Keyed {
  Value key;
  Value item;
};

// Merge sort with a comparison that can fail.
absl::Status StableSort(Budget* budget, bool reverse, std::vector<Keyed>* items) {
  std::vector<Keyed> merged(items->size());
  for (size_t width = 1; width < items->size(); width *= 2) {
    for (size_t begin = 0; begin < items->size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, items->size());
      const size_t end = std::min(begin + 2 * width, items->size());
      size_t left = begin;
      size_t right = middle;
      for (size_t out = begin; out < end; ++out) {
        bool take_right = left == middle;
        if (!take_right && right < end) {
          ASSIGN_OR_RETURN(const auto order,
                           Compare(budget, (*items)[right].key, (*items)[left].key));
          take_right = reverse ? std::is_gt(order) : std::is_lt(order);
        }
        merged[out] = std::move((*items)[take_right ? right++ : left++]);
      }
    }
    std::swap(*items, merged);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Keyed>> KeyedItems(Budget* budget, const Value& input,
                                              const Value* attribute, bool case_sensitive) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, input));
  std::vector<Keyed> keyed;
  keyed.reserve(items.size());
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value key, SortKey(budget, item, attribute, case_sensitive));
    keyed.push_back({std::move(key), item});
  }
  return keyed;
}

// Sorting compares the list of all attributes that a comma separates: equal lists need no order, so
// attributes that are all missing are no error.
absl::StatusOr<std::vector<Keyed>> KeyedByAttributes(Budget* budget, const Value& input,
                                                     const std::string& attributes,
                                                     bool case_sensitive) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, input));
  std::vector<Keyed> keyed;
  keyed.reserve(items.size());
  for (const Value& item : items) {
    std::vector<Value> keys;
    for (size_t at = 0; at <= attributes.size();) {
      const size_t end = std::min(attributes.find(',', at), attributes.size());
      const Value attribute = Value::String(attributes.substr(at, end - at));
      ASSIGN_OR_RETURN(Value key, SortKey(budget, item, &attribute, case_sensitive));
      keys.push_back(std::move(key));
      at = end + 1;
    }
    ASSIGN_OR_RETURN(Value key, NewList(budget, std::move(keys)));
    keyed.push_back({std::move(key), item});
  }
  return keyed;
}

absl::StatusOr<Value> Unkey(Budget* budget, std::vector<Keyed> keyed) {
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (Keyed& entry : keyed) items.push_back(std::move(entry.item));
  return NewList(budget, std::move(items));
}

absl::StatusOr<Value> Sort(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const bool reverse, BoolArgument(args, 0, "reverse", false));
  ASSIGN_OR_RETURN(const bool case_sensitive, BoolArgument(args, 1, "case_sensitive", false));
  const Value* attribute = args.Find(2, "attribute");
  std::vector<Keyed> keyed;
  if (attribute != nullptr && attribute->is_string()) {
    ASSIGN_OR_RETURN(keyed, KeyedByAttributes(budget, input, attribute->str(), case_sensitive));
  } else {
    ASSIGN_OR_RETURN(keyed, KeyedItems(budget, input, attribute, case_sensitive));
  }
  RETURN_IF_ERROR(StableSort(budget, reverse, &keyed));
  return Unkey(budget, std::move(keyed));
}

absl::StatusOr<Value> DictSort(Budget* budget, const Value& input, const Arguments& args) {
  if (!input.is_dict()) return absl::InvalidArgumentError("the value is no mapping");
  ASSIGN_OR_RETURN(const bool case_sensitive, BoolArgument(args, 0, "case_sensitive", false));
  ASSIGN_OR_RETURN(const Text by, TextArgument(args, 1, "by", "key"));
  ASSIGN_OR_RETURN(const bool reverse, BoolArgument(args, 2, "reverse", false));
  const Value index = Value::Int(by.bytes() == "value" ? 1 : 0);
  ASSIGN_OR_RETURN(const Value items, DictItems(budget, input.dict()));
  ASSIGN_OR_RETURN(std::vector<Keyed> keyed, KeyedItems(budget, items, &index, case_sensitive));
  RETURN_IF_ERROR(StableSort(budget, reverse, &keyed));
  return Unkey(budget, std::move(keyed));
}

absl::StatusOr<Value> Unique(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const bool case_sensitive, BoolArgument(args, 0, "case_sensitive", false));
  ASSIGN_OR_RETURN(std::vector<Keyed> keyed,
                   KeyedItems(budget, input, args.Find(1, "attribute"), case_sensitive));
  Dict seen;
  std::vector<Keyed> kept;
  for (Keyed& entry : keyed) {
    RETURN_IF_ERROR(budget->Charge(kElementCost));
    if (seen.Find(entry.key) != nullptr) continue;
    if (!seen.Set(entry.key, Value::Bool(true))) {
      return absl::InvalidArgumentError(Concat("'", entry.key.type_name(), "' is not hashable"));
    }
    kept.push_back(std::move(entry));
  }
  return Unkey(budget, std::move(kept));
}

absl::StatusOr<Value> Extreme(Budget* budget, const Value& input, const Arguments& args,
                              bool largest) {
  ASSIGN_OR_RETURN(const bool case_sensitive, BoolArgument(args, 0, "case_sensitive", false));
  ASSIGN_OR_RETURN(const std::vector<Keyed> keyed,
                   KeyedItems(budget, input, args.Find(1, "attribute"), case_sensitive));
  if (keyed.empty()) return Value::MakeUndefined("the sequence is empty");
  const Keyed* best = &keyed[0];
  for (size_t i = 1; i < keyed.size(); ++i) {
    ASSIGN_OR_RETURN(const auto order, Compare(budget, keyed[i].key, best->key));
    if (largest ? std::is_gt(order) : std::is_lt(order)) best = &keyed[i];
  }
  return best->item;
}
absl::StatusOr<Value> Min(Budget* budget, const Value& input, const Arguments& args) {
  return Extreme(budget, input, args, false);
}
absl::StatusOr<Value> Max(Budget* budget, const Value& input, const Arguments& args) {
  return Extreme(budget, input, args, true);
}

absl::StatusOr<Value> Sum(Budget* budget, const Value& input, const Arguments& args) {
  const Value* attribute = args.Find(0, "attribute");
  const Value* start = args.Find(1, "start");
  Value total = start != nullptr ? *start : Value::Int(0);
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, input));
  for (const Value& item : items) {
    Value term = item;
    if (attribute != nullptr && !attribute->is_none()) {
      ASSIGN_OR_RETURN(term, ResolvePath(budget, item, *attribute));
    }
    ASSIGN_OR_RETURN(total, Arithmetic(budget, "+", total, term));
  }
  return total;
}

// What map, select and the like run over: nothing for all that is false, None and 0 included.
absl::StatusOr<std::vector<Value>> IterateTrue(Budget* budget, const Value& input) {
  if (!IsTrue(input)) return std::vector<Value>();
  return Iterate(budget, input);
}

absl::StatusOr<Value> Map(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, IterateTrue(budget, input));
  std::vector<Value> mapped;
  mapped.reserve(items.size());
  Arguments rest;
  const Value* attribute = args.positional.empty() ? args.Find(0, "attribute") : nullptr;
  const Value* fallback = args.positional.empty() ? args.Find(0, "default") : nullptr;
  if (attribute == nullptr) {
    if (args.positional.empty() || !args.positional[0].is_string()) {
      return absl::InvalidArgumentError("the name of a filter is missing");
    }
    rest.positional.assign(args.positional.begin() + 1, args.positional.end());
    rest.named = args.named;
  }
  for (const Value& item : items) {
    Value result;
    if (attribute == nullptr) {
      ASSIGN_OR_RETURN(result, ApplyFilter(budget, args.positional[0].str(), item, rest));
    } else {
      ASSIGN_OR_RETURN(result, ResolvePath(budget, item, *attribute, fallback));
    }
    mapped.push_back(std::move(result));
  }
  return NewList(budget, std::move(mapped));
}

// select, reject, selectattr and rejectattr: keeps what passes the test named by the arguments.
absl::StatusOr<Value> KeepWhere(Budget* budget, const Value& input, const Arguments& args,
                                bool by_attribute, bool wanted) {
  size_t used = 0;
  Value attribute;
  if (by_attribute) {
    if (args.positional.empty()) return absl::InvalidArgumentError("an attribute is missing");
    attribute = args.positional[used++];
  }
  Arguments rest;
  std::string test;
  if (used < args.positional.size()) {
    if (!args.positional[used].is_string()) {
      return absl::InvalidArgumentError("the name of a test must be a string");
    }
    test = args.positional[used++].str();
    rest.positional.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(used),
                           args.positional.end());
  }
  rest.named = args.named;
  ASSIGN_OR_RETURN(const std::vector<Value> items, IterateTrue(budget, input));
  std::vector<Value> kept;
  for (const Value& item : items) {
    Value subject = item;
    if (by_attribute) {
      ASSIGN_OR_RETURN(subject, ResolvePath(budget, item, attribute));
    }
    bool passes = IsTrue(subject);
    if (!test.empty()) {
      ASSIGN_OR_RETURN(passes, ApplyTest(budget, test, subject, rest));
    }
    if (passes == wanted) kept.push_back(item);
  }
  return NewList(budget, std::move(kept));
}
absl::StatusOr<Value> Select(Budget* budget, const Value& input, const Arguments& args) {
  return KeepWhere(budget, input, args, false, true);
}
absl::StatusOr<Value> Reject(Budget* budget, const Value& input, const Arguments& args) {
  return KeepWhere(budget, input, args, false, false);
}
absl::StatusOr<Value> SelectAttr(Budget* budget, const Value& input, const Arguments& args) {
  return KeepWhere(budget, input, args, true, true);
}
absl::StatusOr<Value> RejectAttr(Budget* budget, const Value& input, const Arguments& args) {
  return KeepWhere(budget, input, args, true, false);
}

absl::StatusOr<Value> Batch(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const int64_t size, IntArgument(args, 0, "linecount", 0));
  const Value* filler = args.Find(1, "fill_with");
  if (size < 1 || size > (int64_t{1} << 20)) {
    return absl::InvalidArgumentError("the batch size must be positive");
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, input));
  std::vector<Value> batches;
  for (size_t begin = 0; begin < items.size(); begin += static_cast<size_t>(size)) {
    const size_t end = std::min(items.size(), begin + static_cast<size_t>(size));
    std::vector<Value> batch(items.begin() + static_cast<std::ptrdiff_t>(begin),
                             items.begin() + static_cast<std::ptrdiff_t>(end));
    if (filler != nullptr && !filler->is_none()) batch.resize(static_cast<size_t>(size), *filler);
    ASSIGN_OR_RETURN(Value list, NewList(budget, std::move(batch)));
    batches.push_back(std::move(list));
  }
  return NewList(budget, std::move(batches));
}

// As many slices as asked for, the first ones longer by one where the items do not divide.
absl::StatusOr<Value> SliceFilter(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const int64_t slices, IntArgument(args, 0, "slices", 0));
  const Value* filler = args.Find(1, "fill_with");
  if (slices < 1 || slices > (int64_t{1} << 20)) {
    return absl::InvalidArgumentError("the number of slices must be positive");
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, input));
  RETURN_IF_ERROR(budget->Charge(kElementCost * slices));
  const size_t each = items.size() / static_cast<size_t>(slices);
  const size_t longer = items.size() % static_cast<size_t>(slices);
  std::vector<Value> made;
  size_t begin = 0;
  for (size_t i = 0; i < static_cast<size_t>(slices); ++i) {
    const size_t end = begin + each + (i < longer ? 1 : 0);
    std::vector<Value> slice(items.begin() + static_cast<std::ptrdiff_t>(begin),
                             items.begin() + static_cast<std::ptrdiff_t>(end));
    if (filler != nullptr && !filler->is_none() && i >= longer) slice.push_back(*filler);
    ASSIGN_OR_RETURN(Value list, NewList(budget, std::move(slice)));
    made.push_back(std::move(list));
    begin = end;
  }
  return NewList(budget, std::move(made));
}

absl::StatusOr<Value> Attr(Budget*, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const Text name, TextArgument(args, 0, "name", ""));
  if (!input.is_object() && !HasMethod(input, name.bytes())) {
    return Value::MakeUndefined(Concat("there is no attribute '", name.bytes(), "'"));
  }
  return GetAttribute(input, name.bytes());
}

}  // namespace

const FilterTable& SequenceFilters() {
  static const auto* const kFilters = new FilterTable{
      {"attr", Attr},
      {"batch", Batch},
      {"count", LengthFilter},
      {"dictsort", DictSort},
      {"first", First},
      {"items", Items},
      {"join", JoinFilter},
      {"last", Last},
      {"length", LengthFilter},
      {"list", ToList},
      {"map", Map},
      {"max", Max},
      {"min", Min},
      {"reject", Reject},
      {"rejectattr", RejectAttr},
      {"reverse", Reverse},
      {"slice", SliceFilter},
      {"select", Select},
      {"selectattr", SelectAttr},
      {"sort", Sort},
      {"sum", Sum},
      {"unique", Unique},
  };
  return *kFilters;
}

}  // namespace tessera::jinja
