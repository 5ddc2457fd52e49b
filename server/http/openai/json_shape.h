// How deep and how wide a JSON text is, counted before a tree is built of it.
#ifndef TESSERA_SERVER_HTTP_OPENAI_JSON_SHAPE_H_
#define TESSERA_SERVER_HTTP_OPENAI_JSON_SHAPE_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace tessera {

struct JsonLimits {
  int32_t depth = 100;
  // A tree takes some hundred bytes for an object or array, some dozens for another value.
  int64_t containers = 100'000;
  int64_t values = 1'000'000;
};

// INVALID_ARGUMENT names the limit. Text that is no JSON may pass: the parser refuses that.
absl::Status CheckJsonShape(std::string_view json, const JsonLimits& limits);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_JSON_SHAPE_H_
