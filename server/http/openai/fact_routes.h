// Routes that are answered without the engine: models, tokens, health.
#ifndef TESSERA_SERVER_HTTP_OPENAI_FACT_ROUTES_H_
#define TESSERA_SERVER_HTTP_OPENAI_FACT_ROUTES_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/inference_context.h"

namespace tessera {

// All JSON.
std::string ModelListJson(const InferenceContext& context);
// NOT_FOUND for another name.
absl::StatusOr<std::string> ModelCardJson(const InferenceContext& context, std::string_view name);
absl::StatusOr<std::string> TokenizeJson(const InferenceContext& context, std::string_view body);
// Of a request to /v1/messages.
absl::StatusOr<std::string> CountTokensJson(const InferenceContext& context, std::string_view body);
absl::StatusOr<std::string> DetokenizeJson(const InferenceContext& context, std::string_view body);
std::string LoadJson(const InferenceContext& context);
std::string VersionJson();

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_FACT_ROUTES_H_
