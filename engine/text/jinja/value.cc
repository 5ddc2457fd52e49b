#include "engine/text/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "engine/text/jinja/concat.h"

namespace tessera::jinja {
namespace {

constexpr size_t kMaxTupleKey = 4096;
constexpr double kTwoTo63 = 9223372036854775808.0;

// A string that is equal for equal keys, as Python's hash and == have it (1 == 1.0 == True).
std::optional<std::string> KeyOf(const Value& value) {
  if (value.is_string()) return Concat("s", value.str());
  if (value.is_bool() || value.is_int()) return Concat("i", value.as_int());
  if (value.is_big()) return Concat("i", value.as_big());
  if (value.is_none()) return "n";
  if (value.is_undefined()) return "u";  // all undefined values are equal
  if (value.is_float()) {
    const double number = value.as_float();
    if (number == std::floor(number) && std::fabs(number) < kTwoTo63) {
      return Concat("i", static_cast<int64_t>(number));
    }
    std::string key(1 + sizeof(double), 'f');
    std::memcpy(key.data() + 1, &number, sizeof(double));
    return key;
  }
  if (value.is_list() && value.list().tuple) {
    std::string key = "t";
    for (const Value& item : value.list().items) {
      const std::optional<std::string> part = KeyOf(item);
      if (!part) return std::nullopt;
      key += Concat(part->size(), ":", *part);
      // A tuple that holds itself twice, many levels deep, would have an exponentially long key.
      if (key.size() > kMaxTupleKey) return std::nullopt;
    }
    return key;
  }
  return std::nullopt;
}

int DepthOf(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth + 1;
}

}  // namespace

Value Object::GetAttribute(std::string_view name) const {
  return Value::MakeUndefined(Concat("'", type_name(), "' has no attribute '", name, "'"));
}

Value Value::MakeUndefined(std::string reason) {
  return Value(Storage(Undefined{std::make_shared<const std::string>(std::move(reason))}));
}

Value Value::Big(std::string digits) {
  return Value(Storage(BigInt{std::make_shared<const std::string>(std::move(digits))}));
}

Value Value::String(std::string bytes, Provenance provenance) {
  return FromText(Text(std::move(bytes), provenance));
}

Value Value::FromText(Text text) {
  return Value(Storage(TextPtr(std::make_shared<const Text>(std::move(text)))));
}

Value Value::FromObject(std::shared_ptr<Object> object) {
  return Value(Storage(std::move(object)));
}

Value Value::MakeList(std::vector<Value> items) {
  auto list = std::make_shared<List>();
  list->depth = DepthOf(items);
  list->items = std::move(items);
  return Value(Storage(ListPtr(std::move(list))));
}

Value Value::MakeDict(Dict dict) {
  return Value(Storage(DictPtr(std::make_shared<const Dict>(std::move(dict)))));
}

std::string Value::undefined_reason() const {
  const auto* undefined = std::get_if<Undefined>(&storage_);
  if (undefined == nullptr || undefined->reason == nullptr) return "the value is undefined";
  return *undefined->reason;
}

int Value::depth() const {
  if (is_list()) return list().depth;
  if (is_dict()) return dict().depth();
  return is_object() ? object()->depth() : 0;
}

bool Value::SameAs(const Value& other) const {
  if (storage_.index() != other.storage_.index()) return false;
  if (is_undefined() || is_none()) return true;
  if (is_bool()) return as_bool() == other.as_bool();
  if (is_int()) return as_int() == other.as_int();
  if (is_float()) return as_float() == other.as_float();
  if (is_big()) return as_big() == other.as_big();
  if (is_string()) return &text() == &other.text();
  if (is_list()) return &list() == &other.list();
  if (is_dict()) return &dict() == &other.dict();
  return object() == other.object();
}

std::string_view Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int() || is_big()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (is_list()) return list().tuple ? "tuple" : "list";
  if (is_dict()) return "dict";
  return object()->type_name();
}

Value Value::Get(std::string_view key) const {
  const Value* found = is_dict() ? dict().Find(key) : nullptr;
  if (found != nullptr) return *found;
  return MakeUndefined(Concat("'", key, "' is undefined"));
}

struct Dict::Table {
  std::vector<std::pair<Value, Value>> entries;
  absl::flat_hash_map<std::string, size_t> index;
  int depth = 1;
};

Dict::Dict() : table_(std::make_unique<Table>()) {}
Dict::~Dict() = default;
Dict::Dict(Dict&&) noexcept = default;
Dict& Dict::operator=(Dict&&) noexcept = default;

bool Dict::Set(Value key, Value value) {
  const std::optional<std::string> hash_key = KeyOf(key);
  if (!hash_key) return false;
  table_->depth = std::max({table_->depth, 1 + value.depth(), 1 + key.depth()});
  const auto [it, inserted] = table_->index.try_emplace(*hash_key, table_->entries.size());
  if (inserted) {
    table_->entries.emplace_back(std::move(key), std::move(value));
  } else {
    table_->entries[it->second].second = std::move(value);
  }
  return true;
}

const Value* Dict::Find(const Value& key) const {
  const std::optional<std::string> hash_key = KeyOf(key);
  if (!hash_key) return nullptr;
  const auto it = table_->index.find(*hash_key);
  return it == table_->index.end() ? nullptr : &table_->entries[it->second].second;
}

const Value* Dict::Find(std::string_view key) const {
  const auto it = table_->index.find(Concat("s", key));
  return it == table_->index.end() ? nullptr : &table_->entries[it->second].second;
}

const std::vector<std::pair<Value, Value>>& Dict::entries() const { return table_->entries; }

int Dict::depth() const { return table_->depth; }

Dict Dict::Clone() const {
  Dict copy;
  *copy.table_ = *table_;
  return copy;
}

absl::StatusOr<Value> NewList(Budget* budget, std::vector<Value> items, bool tuple) {
  if (absl::Status status = budget->Charge(kElementCost * (1 + static_cast<int64_t>(items.size())));
      !status.ok()) {
    return status;
  }
  auto list = std::make_shared<List>();
  list->depth = DepthOf(items);
  list->items = std::move(items);
  list->tuple = tuple;
  if (list->depth > kMaxContainerDepth) {
    return absl::ResourceExhaustedError("a list nests too deeply");
  }
  return Value(Value::Storage(Value::ListPtr(std::move(list))));
}

absl::StatusOr<Value> NewDict(Budget* budget, Dict dict) {
  if (absl::Status status =
          budget->Charge(2 * kElementCost * (1 + static_cast<int64_t>(dict.size())));
      !status.ok()) {
    return status;
  }
  if (dict.depth() > kMaxContainerDepth) {
    return absl::ResourceExhaustedError("a dict nests too deeply");
  }
  return Value::MakeDict(std::move(dict));
}

absl::StatusOr<Value> NewText(Budget* budget, Text text) {
  if (absl::Status status = budget->Charge(kElementCost + static_cast<int64_t>(text.size()));
      !status.ok()) {
    return status;
  }
  return Value::FromText(std::move(text));
}

Value WithProvenance(const Value& value, Provenance provenance) {
  if (value.is_string()) return Value::String(value.str(), provenance);
  if (value.is_list()) {
    std::vector<Value> items;
    items.reserve(value.list().items.size());
    for (const Value& item : value.list().items) items.push_back(WithProvenance(item, provenance));
    return Value::MakeList(std::move(items));
  }
  if (value.is_dict()) {
    Dict dict;
    for (const auto& [key, item] : value.dict().entries()) {
      dict.Set(WithProvenance(key, provenance), WithProvenance(item, provenance));
    }
    return Value::MakeDict(std::move(dict));
  }
  return value;
}

}  // namespace tessera::jinja
