#include "engine/text/jinja/methods.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/string_methods.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {

const Value* Arguments::Find(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

namespace {

absl::Status WrongArgument(std::string_view name, std::string_view expected, const Value& value) {
  if (value.is_undefined()) return absl::InvalidArgumentError(value.undefined_reason());
  return absl::InvalidArgumentError(
      Concat("argument '", name, "' must be ", expected, ", not '", value.type_name(), "'"));
}

}  // namespace

absl::StatusOr<int64_t> IntArgument(const Arguments& args, size_t position, std::string_view name,
                                    int64_t fallback) {
  const Value* value = args.Find(position, name);
  if (value == nullptr) return fallback;
  if (!value->is_int() && !value->is_bool()) return WrongArgument(name, "an integer", *value);
  return value->as_int();
}

absl::StatusOr<bool> BoolArgument(const Arguments& args, size_t position, std::string_view name,
                                  bool fallback) {
  const Value* value = args.Find(position, name);
  return value == nullptr ? fallback : IsTrue(*value);
}

absl::StatusOr<Text> TextArgument(const Arguments& args, size_t position, std::string_view name,
                                  std::string_view fallback) {
  const Value* value = args.Find(position, name);
  if (value == nullptr) return Text(std::string(fallback));
  if (!value->is_string()) return WrongArgument(name, "a string", *value);
  return value->text();
}

absl::StatusOr<Value> DictItems(Budget* budget, const Dict& dict) {
  std::vector<Value> items;
  items.reserve(dict.size());
  for (const auto& [key, value] : dict.entries()) {
    ASSIGN_OR_RETURN(Value pair, NewList(budget, {key, value}, /*tuple=*/true));
    items.push_back(std::move(pair));
  }
  return NewList(budget, std::move(items));
}

absl::StatusOr<Value> ReplaceText(Budget* budget, const Text& text, const Text& from,
                                  const Text& to, int64_t count) {
  if (count < 0) count = INT64_MAX;
  TextBuilder builder;
  size_t at = 0;
  const std::string& bytes = text.bytes();
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(bytes.size())));
  while (count > 0) {
    const size_t match = bytes.find(from.bytes(), at);
    if (match == std::string::npos) break;
    RETURN_IF_ERROR(budget->Charge(1 + static_cast<int64_t>(to.size())));
    builder.AppendRange(text, at, match);
    builder.Append(to);
    --count;
    at = match + from.size();
    if (!from.empty()) continue;
    // An empty pattern matches between all characters and at both ends.
    if (at >= bytes.size()) break;
    const size_t length = DecodeCodePoint(bytes, at).length;
    builder.AppendRange(text, at, at + length);
    at += length;
  }
  builder.AppendRange(text, at, bytes.size());
  return NewText(budget, std::move(builder).Build());
}

namespace {

absl::StatusOr<Value> Items(Budget* budget, const Value& self, const Arguments&) {
  return DictItems(budget, self.dict());
}
absl::StatusOr<Value> Keys(Budget* budget, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(std::vector<Value> keys, Iterate(budget, self));
  return NewList(budget, std::move(keys));
}
absl::StatusOr<Value> Values(Budget* budget, const Value& self, const Arguments&) {
  std::vector<Value> values;
  for (const auto& [key, value] : self.dict().entries()) values.push_back(value);
  return NewList(budget, std::move(values));
}
absl::StatusOr<Value> Get(Budget* budget, const Value& self, const Arguments& args) {
  RETURN_IF_ERROR(budget->Step());
  const Value* key = args.Find(0, "key");
  if (key == nullptr) return absl::InvalidArgumentError("get needs a key");
  if (const Value* found = self.dict().Find(*key)) return *found;
  const Value* fallback = args.Find(1, "default");
  return fallback != nullptr ? *fallback : Value::MakeNone();
}
absl::StatusOr<Value> Copy(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Step());
  return self;
}
absl::StatusOr<Value> IndexOf(Budget* budget, const Value& self, const Arguments& args) {
  if (args.positional.empty()) return absl::InvalidArgumentError("index needs a value");
  const auto& items = self.list().items;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equal(budget, items[i], args.positional[0]));
    if (equal) return Value::Int(static_cast<int64_t>(i));
  }
  return absl::InvalidArgumentError(Concat("the value is not in the ", self.type_name()));
}
absl::StatusOr<Value> CountItems(Budget* budget, const Value& self, const Arguments& args) {
  if (args.positional.empty()) return absl::InvalidArgumentError("count needs a value");
  int64_t count = 0;
  for (const Value& item : self.list().items) {
    ASSIGN_OR_RETURN(const bool equal, Equal(budget, item, args.positional[0]));
    count += equal ? 1 : 0;
  }
  return Value::Int(count);
}
absl::StatusOr<Value> Forbidden(Budget*, const Value& self, const Arguments&) {
  return absl::InvalidArgumentError(Concat("a template must not change a ", self.type_name()));
}

const MethodTable& DictMethods() {
  static const auto* const kMethods = new MethodTable{
      {"items", Items},     {"keys", Keys},         {"values", Values},
      {"get", Get},         {"copy", Copy},         {"update", Forbidden},
      {"pop", Forbidden},   {"popitem", Forbidden}, {"setdefault", Forbidden},
      {"clear", Forbidden},
  };
  return *kMethods;
}

const MethodTable& ListMethods() {
  static const auto* const kMethods = new MethodTable{
      {"append", Forbidden}, {"clear", Forbidden},   {"copy", Copy},        {"count", CountItems},
      {"extend", Forbidden}, {"index", IndexOf},     {"insert", Forbidden}, {"pop", Forbidden},
      {"remove", Forbidden}, {"reverse", Forbidden}, {"sort", Forbidden},
  };
  return *kMethods;
}

Method FindIn(const MethodTable& table, std::string_view name) {
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

Method FindMethod(const Value& object, std::string_view name) {
  if (object.is_dict()) return FindIn(DictMethods(), name);
  if (object.is_list()) return FindIn(ListMethods(), name);
  if (!object.is_string()) return nullptr;
  const Method edit = FindIn(StringEdits(), name);
  return edit != nullptr ? edit : FindIn(StringQueries(), name);
}

class BoundMethod : public Callable {
 public:
  BoundMethod(Value self, Method method) : self_(std::move(self)), method_(method) {}
  std::string_view type_name() const override { return "method"; }
  int depth() const override { return self_.depth() + 1; }
  absl::StatusOr<Value> Call(Budget* budget, const Arguments& args) override {
    return method_(budget, self_, args);
  }

 private:
  const Value self_;
  const Method method_;
};

}  // namespace

bool HasMethod(const Value& object, std::string_view name) {
  return FindMethod(object, name) != nullptr;
}

Value BindMethod(const Value& object, std::string_view name) {
  return Value::FromObject(std::make_shared<BoundMethod>(object, FindMethod(object, name)));
}

}  // namespace tessera::jinja