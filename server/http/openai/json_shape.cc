#include "server/http/openai/json_shape.h"

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

// The position behind the string that begins at `at`.
size_t SkipString(std::string_view json, size_t at) {
  for (++at; at < json.size() && json[at] != '"'; ++at) {
    if (json[at] == '\\') ++at;
  }
  return at + 1;
}

}  // namespace

absl::Status CheckJsonShape(std::string_view json, const JsonLimits& limits) {
  int32_t depth = 0;
  int64_t containers = 0;
  int64_t values = 1;
  for (size_t at = 0; at < json.size();) {
    const char c = json[at];
    if (c == '"') {
      at = SkipString(json, at);
      continue;
    }
    ++at;
    if (c == '[' || c == '{') {
      ++containers;
      ++values;
      if (++depth > limits.depth) {
        return absl::InvalidArgumentError(
            absl::StrCat("the body is nested deeper than ", limits.depth, " levels"));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',') {
      ++values;
    }
    if (containers > limits.containers || values > limits.values) {
      return absl::InvalidArgumentError(absl::StrCat("the body has more than ", limits.containers,
                                                     " objects and arrays or ", limits.values,
                                                     " values"));
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera
