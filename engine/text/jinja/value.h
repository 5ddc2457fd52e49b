// The values a template computes with: Python's None, bool, int, float, str, list, tuple and dict
// as Jinja shows them, plus Jinja's undefined and callables. Cheap to copy; containers are shared
// and immutable, so a template cannot change its input.
#ifndef TESSERA_ENGINE_TEXT_JINJA_VALUE_H_
#define TESSERA_ENGINE_TEXT_JINJA_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/text.h"

namespace tessera::jinja {

class Value;
class Dict;
struct List;

// `reason` names what was missing, for example "'tools' is undefined"; may be null.
struct Undefined {
  std::shared_ptr<const std::string> reason;
};
struct None {};
// An integer outside of int64_t: its decimal digits as Python prints them.
struct BigInt {
  std::shared_ptr<const std::string> digits;
};

// Callables, namespaces and loop variables (defined by the interpreter).
class Object {
 public:
  virtual ~Object() = default;
  // Python-like name for error messages.
  virtual std::string_view type_name() const = 0;
  virtual bool callable() const { return false; }
  // Nesting of the values it holds, see Value::depth.
  virtual int depth() const { return 0; }
  // The value of object.name, or undefined.
  virtual Value GetAttribute(std::string_view name) const;
};

class Value {
 public:
  Value() = default;  // undefined
  static Value MakeNone() { return Value(Storage(None{})); }
  static Value MakeUndefined(std::string reason);
  static Value Bool(bool value) { return Value(Storage(value)); }
  static Value Int(int64_t value) { return Value(Storage(value)); }
  static Value Big(std::string digits);
  static Value Float(double value) { return Value(Storage(value)); }
  static Value String(std::string bytes, Provenance provenance = Provenance::kTrusted);
  static Value FromText(Text text);
  static Value FromObject(std::shared_ptr<Object> object);
  // Unlimited variants for the host; depth beyond kMaxContainerDepth is the caller's error.
  static Value MakeList(std::vector<Value> items);
  static Value MakeDict(Dict dict);

  bool is_undefined() const { return std::holds_alternative<Undefined>(storage_); }
  bool is_none() const { return std::holds_alternative<None>(storage_); }
  bool is_bool() const { return std::holds_alternative<bool>(storage_); }
  bool is_int() const { return std::holds_alternative<int64_t>(storage_); }
  bool is_big() const { return std::holds_alternative<BigInt>(storage_); }
  bool is_float() const { return std::holds_alternative<double>(storage_); }
  bool is_string() const { return std::holds_alternative<TextPtr>(storage_); }
  bool is_list() const { return std::holds_alternative<ListPtr>(storage_); }  // or tuple
  bool is_dict() const { return std::holds_alternative<DictPtr>(storage_); }
  bool is_object() const { return std::holds_alternative<ObjectPtr>(storage_); }
  // bool, int, big int or float.
  bool is_number() const { return is_bool() || is_int() || is_big() || is_float(); }

  // Each requires the matching is_...().
  bool as_bool() const { return std::get<bool>(storage_); }
  int64_t as_int() const { return is_bool() ? as_bool() : std::get<int64_t>(storage_); }
  const std::string& as_big() const { return *std::get<BigInt>(storage_).digits; }
  double as_float() const { return std::get<double>(storage_); }
  const Text& text() const { return *std::get<TextPtr>(storage_); }
  const std::string& str() const { return text().bytes(); }
  const List& list() const { return *std::get<ListPtr>(storage_); }
  const Dict& dict() const { return *std::get<DictPtr>(storage_); }
  const std::shared_ptr<Object>& object() const { return std::get<ObjectPtr>(storage_); }
  // Why an undefined value is undefined.
  std::string undefined_reason() const;

  // Nesting: 0 for scalars.
  int depth() const;
  // The same shared object (Python's `is`) or the same scalar.
  bool SameAs(const Value& other) const;
  // Python's type name, for error messages.
  std::string_view type_name() const;

  // For a dict: the value of a string key, or undefined. For anything else undefined.
  Value Get(std::string_view key) const;

 private:
  using TextPtr = std::shared_ptr<const Text>;
  using ListPtr = std::shared_ptr<const List>;
  using DictPtr = std::shared_ptr<const Dict>;
  using ObjectPtr = std::shared_ptr<Object>;
  using Storage = std::variant<Undefined, None, bool, int64_t, BigInt, double, TextPtr, ListPtr,
                               DictPtr, ObjectPtr>;
  explicit Value(Storage storage) : storage_(std::move(storage)) {}

  friend absl::StatusOr<Value> NewList(Budget*, std::vector<Value>, bool);
  friend absl::StatusOr<Value> NewDict(Budget*, Dict);

  Storage storage_;
};

struct List {
  std::vector<Value> items;
  bool tuple = false;
  int depth = 1;
};

// Insertion-ordered; a key that is set again keeps its place.
class Dict {
 public:
  Dict();
  ~Dict();
  Dict(Dict&&) noexcept;
  Dict& operator=(Dict&&) noexcept;
  Dict(const Dict&) = delete;
  Dict& operator=(const Dict&) = delete;

  // False if the key is not hashable (a list, a dict).
  bool Set(Value key, Value value);
  void Set(std::string_view key, Value value) { Set(Value::String(std::string(key)), value); }
  // Null if absent.
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  const std::vector<std::pair<Value, Value>>& entries() const;
  size_t size() const { return entries().size(); }
  int depth() const;
  Dict Clone() const;

 private:
  struct Table;
  std::unique_ptr<Table> table_;
};

// Containers made by a template: charged, and refused when nested too deeply.
absl::StatusOr<Value> NewList(Budget* budget, std::vector<Value> items, bool tuple = false);
absl::StatusOr<Value> NewDict(Budget* budget, Dict dict);
absl::StatusOr<Value> NewText(Budget* budget, Text text);

// A copy in which every string and every key is trusted or untrusted as a whole.
Value WithProvenance(const Value& value, Provenance provenance);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_VALUE_H_
