#include "engine/text/jinja/objects.h"

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <memory>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/template.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;
constexpr size_t kMaxTimeFormat = 256;

absl::StatusOr<Value> Range(Budget* budget, const Arguments& args) {
  if (args.positional.empty()) return absl::InvalidArgumentError("range needs an end");
  const bool has_start = args.positional.size() > 1;
  ASSIGN_OR_RETURN(const int64_t first, IntArgument(args, 0, "start", 0));
  ASSIGN_OR_RETURN(const int64_t second, IntArgument(args, 1, "stop", first));
  ASSIGN_OR_RETURN(const int64_t step, IntArgument(args, 2, "step", 1));
  if (step == 0) return absl::InvalidArgumentError("the step of range is zero");
  const int64_t stop = has_start ? second : first;
  std::vector<Value> items;
  for (int64_t i = has_start ? first : 0; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      return absl::InvalidArgumentError("range has more than 100000 elements");
    }
    items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return NewList(budget, std::move(items));
}

// Adds the pairs of a list to `dict`.
absl::Status AddPairs(Budget* budget, const Value& list, Dict* dict) {
  ASSIGN_OR_RETURN(const std::vector<Value> pairs, Iterate(budget, list));
  for (const Value& pair : pairs) {
    ASSIGN_OR_RETURN(const std::vector<Value> parts, Iterate(budget, pair));
    RETURN_IF_ERROR(budget->Charge(2 * kElementCost));
    if (parts.size() != 2 || !dict->Set(parts[0], parts[1])) {
      return absl::InvalidArgumentError("dict needs a mapping or pairs");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> MakeDictValue(Budget* budget, const Arguments& args) {
  Dict dict;
  if (!args.positional.empty() && !args.positional[0].is_dict()) {
    RETURN_IF_ERROR(AddPairs(budget, args.positional[0], &dict));
  } else if (!args.positional.empty()) {
    RETURN_IF_ERROR(
        budget->Charge(2 * kElementCost * static_cast<int64_t>(args.positional[0].dict().size())));
    dict = args.positional[0].dict().Clone();
  }
  for (const auto& [name, value] : args.named) dict.Set(name, value);
  return NewDict(budget, std::move(dict));
}

absl::StatusOr<Value> RaiseException(Budget*, const Arguments& args) {
  const Value* message = args.Find(0, "message");
  const bool given = message != nullptr && message->is_string();
  return absl::InvalidArgumentError(
      Concat("the template refuses the input: ", given ? message->str() : "no reason given"));
}

// As datetime.now().strftime(format): C's strftime, microseconds for %f, and a time without a zone.
std::string FormatLocalTime(std::string_view format, absl::Time now) {
  const absl::TimeZone zone = absl::LocalTimeZone();
  const tm parts = absl::ToTM(now, zone);
  std::string text;
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%' || at + 1 == format.size()) {
      text.push_back(format[at]);
      continue;
    }
    const char conversion = format[++at];
    if (conversion == 'f') {
      text += absl::StrFormat("%06d", absl::ToUnixMicros(now) % 1'000'000);
    } else if (conversion != 'z' && conversion != 'Z') {
      // Only a conversion that prints nothing (%p in some languages) leaves the buffer empty.
      const char one[] = {'%', conversion, '\0'};
      char buffer[128];
      text.append(buffer, std::strftime(buffer, sizeof(buffer), one, &parts));
    }
  }
  return text;
}

// cycler('a', 'b'): hands out its values in turn.
class Cycler : public Object, public std::enable_shared_from_this<Cycler> {
 public:
  explicit Cycler(std::vector<Value> items) : items_(std::move(items)) {
    for (const Value& value : items_) depth_ = std::max(depth_, value.depth());
    ++depth_;
  }
  std::string_view type_name() const override { return "Cycler"; }
  int depth() const override { return depth_; }
  Value GetAttribute(std::string_view name) const override;

 private:
  const std::vector<Value> items_;
  int depth_ = 0;
  mutable size_t at_ = 0;
};

absl::StatusOr<Value> FormatNow(absl::Time now, const Arguments& args) {
  ASSIGN_OR_RETURN(const Text format, TextArgument(args, 0, "format", ""));
  if (format.size() > kMaxTimeFormat) return absl::InvalidArgumentError("the format is too long");
  return Value::String(FormatLocalTime(format.bytes(), now),
                       format.tainted() ? Provenance::kUntrusted : Provenance::kTrusted);
}

Value Function(NativeFunction::Function function) {
  return Value::FromObject(std::make_shared<NativeFunction>(std::move(function)));
}

Value Cycler::GetAttribute(std::string_view name) const {
  if (name == "current") return items_[at_];
  if (name != "next" && name != "reset") return Object::GetAttribute(name);
  return Function([self = shared_from_this(), next = name == "next"](
                      Budget* budget, const Arguments&) -> absl::StatusOr<Value> {
    RETURN_IF_ERROR(budget->Step());
    const size_t at = self->at_;
    self->at_ = next ? (at + 1) % self->items_.size() : 0;
    return next ? self->items_[at] : Value::MakeNone();
  });
}

absl::StatusOr<Value> MakeCycler(Budget* budget, const Arguments& args) {
  if (args.positional.empty()) return absl::InvalidArgumentError("cycler needs values");
  RETURN_IF_ERROR(
      budget->Charge(kElementCost * (4 + static_cast<int64_t>(args.positional.size()))));
  auto cycler = std::make_shared<Cycler>(args.positional);
  if (cycler->depth() > kMaxContainerDepth) {
    return absl::ResourceExhaustedError("a cycler nests too deeply");
  }
  return Value::FromObject(std::move(cycler));
}

// joiner(', '): empty the first time, then the separator.
absl::StatusOr<Value> MakeJoiner(Budget* budget, const Arguments& args) {
  RETURN_IF_ERROR(budget->Charge(4 * kElementCost));
  ASSIGN_OR_RETURN(const Text separator, TextArgument(args, 0, "sep", ", "));
  return Function([separator, used = std::make_shared<bool>(false)](
                      Budget* calling, const Arguments&) -> absl::StatusOr<Value> {
    RETURN_IF_ERROR(calling->Charge(static_cast<int64_t>(separator.size())));
    return std::exchange(*used, true) ? Value::FromText(separator) : Value::String("");
  });
}

}  // namespace

Dict MakeGlobalFunctions(const RenderOptions& options) {
  Dict functions;
  functions.Set("range", Function(Range));
  functions.Set("dict", Function(MakeDictValue));
  functions.Set("cycler", Function(MakeCycler));
  functions.Set("joiner", Function(MakeJoiner));
  functions.Set("raise_exception", Function(RaiseException));
  functions.Set("strftime_now", Function([now = options.now](Budget*, const Arguments& args) {
                  return FormatNow(now, args);
                }));
  return functions;
}

Value Namespace::GetAttribute(std::string_view name) const {
  for (const auto& [key, value] : members_) {
    if (key == name) return value;
  }
  return Value::MakeUndefined(Concat("the namespace has no attribute '", name, "'"));
}

void Namespace::Set(std::string_view name, Value value) {
  for (auto& [key, slot] : members_) {
    if (key == name) {
      slot = std::move(value);
      return;
    }
  }
  members_.emplace_back(std::string(name), std::move(value));
}

Value MacroObject::GetAttribute(std::string_view name) const {
  if (name == "name") return Value::String(macro_.name);
  return Object::GetAttribute(name);
}

absl::StatusOr<Value> MacroObject::Call(Budget*, const Arguments& args) {
  return interpreter_.CallMacro({macro_, closure_}, args);
}

LoopObject::LoopObject(const Site& site, std::vector<Value> items)
    : site_(site), items_(std::move(items)) {
  for (const Value& value : items_) depth_ = std::max(depth_, value.depth());
  ++depth_;
}

bool LoopObject::callable() const { return site_.stmt->recursive; }

Value LoopObject::GetAttribute(std::string_view name) const {
  const auto index = static_cast<int64_t>(index_);
  const auto size = static_cast<int64_t>(items_.size());
  if (name == "index0") return Value::Int(index);
  if (name == "index") return Value::Int(index + 1);
  if (name == "revindex0") return Value::Int(size - index - 1);
  if (name == "revindex") return Value::Int(size - index);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == size);
  if (name == "length") return Value::Int(size);
  if (name == "depth0") return Value::Int(site_.depth);
  if (name == "depth") return Value::Int(site_.depth + 1);
  if (name == "previtem") {
    return index > 0 ? items_[index_ - 1] : Value::MakeUndefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < size ? items_[index_ + 1] : Value::MakeUndefined("there is no next item");
  }
  if (name == "cycle") return Cycle();
  if (name == "changed") return Changed();
  return Object::GetAttribute(name);
}

Value LoopObject::Cycle() const {
  return Function([index = index_](Budget*, const Arguments& args) -> absl::StatusOr<Value> {
    if (args.positional.empty()) return absl::InvalidArgumentError("cycle needs values");
    return args.positional[index % args.positional.size()];
  });
}

Value LoopObject::Changed() const {
  if (last_ == nullptr) last_ = site_.interpreter->NewMemory();
  return Function([last = last_](Budget* budget, const Arguments& args) -> absl::StatusOr<Value> {
    ASSIGN_OR_RETURN(const Value values, NewList(budget, args.positional, /*tuple=*/true));
    bool changed = last->empty();
    if (!changed) {
      ASSIGN_OR_RETURN(const bool equal, Equal(budget, last->front(), values));
      changed = !equal;
    }
    last->assign(1, values);
    return Value::Bool(changed);
  });
}

absl::StatusOr<Value> LoopObject::Call(Budget*, const Arguments& args) {
  if (!callable()) return absl::InvalidArgumentError("the loop is not marked 'recursive'");
  if (args.positional.size() != 1) return absl::InvalidArgumentError("loop() needs one value");
  return site_.interpreter->CallLoop(*site_.stmt, site_.scope, site_.depth + 1, args.positional[0]);
}

}  // namespace tessera::jinja
