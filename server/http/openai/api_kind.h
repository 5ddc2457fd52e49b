// What the routes that generate text differ in.
#ifndef TESSERA_SERVER_HTTP_OPENAI_API_KIND_H_
#define TESSERA_SERVER_HTTP_OPENAI_API_KIND_H_

#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/http/openai/answer_format.h"
#include "server/http/openai/api_request.h"

namespace tessera {

struct ApiKindFacts {
  const char* path;
  const char* method;  // as it is counted
  const char* id_prefix;
  absl::StatusOr<ApiRequest> (*read)(std::string_view body);
  std::unique_ptr<AnswerFormat> (*new_format)(const AnswerFacts* facts);
};

const ApiKindFacts& FactsOf(ApiKind kind);
// nullopt: no route that generates text.
std::optional<ApiKind> KindOfPath(std::string_view path);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_API_KIND_H_
