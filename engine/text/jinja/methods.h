// Methods of strings and dicts ("text.strip()", "dict.items()") and what calling anything needs.
#ifndef TESSERA_ENGINE_TEXT_JINJA_METHODS_H_
#define TESSERA_ENGINE_TEXT_JINJA_METHODS_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `position` or called `name`; null if it was not given.
  const Value* Find(size_t position, std::string_view name) const;
  size_t count() const { return positional.size() + named.size(); }
};

// Typed access to an argument. Missing: `fallback`; of another type: an error naming it.
absl::StatusOr<int64_t> IntArgument(const Arguments& args, size_t position, std::string_view name,
                                    int64_t fallback);
absl::StatusOr<bool> BoolArgument(const Arguments& args, size_t position, std::string_view name,
                                  bool fallback);
absl::StatusOr<Text> TextArgument(const Arguments& args, size_t position, std::string_view name,
                                  std::string_view fallback);

class Callable : public Object {
 public:
  bool callable() const override { return true; }
  virtual absl::StatusOr<Value> Call(Budget* budget, const Arguments& args) = 0;
};

bool HasMethod(const Value& object, std::string_view name);
// Requires HasMethod.
Value BindMethod(const Value& object, std::string_view name);

// Python's str.replace; count < 0 replaces all.
absl::StatusOr<Value> ReplaceText(Budget* budget, const Text& text, const Text& from,
                                  const Text& to, int64_t count);
// The dict's entries as a list of (key, value) tuples.
absl::StatusOr<Value> DictItems(Budget* budget, const Dict& dict);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_METHODS_H_
