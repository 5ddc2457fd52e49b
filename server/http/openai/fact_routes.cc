#include "server/http/openai/fact_routes.h"

#include <cstdint>
#include <vector>

#include "absl/time/clock.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/value.h"
#include "kernels/core/status_macros.h"
#include "server/http/openai/api_request.h"
#include "server/json_text.h"
#include "server/version.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Value;

std::string CardJson(const InferenceContext& context) {
  static const int64_t created = absl::ToUnixSeconds(absl::Now());
  const std::string name = JsonQuoted(context.model->name);
  return Concat("{\"id\":", name, ",\"object\":\"model\",\"created\":", created,
                ",\"owned_by\":\"tessera\",\"root\":", name,
                ",\"parent\":null,\"max_model_len\":", context.model->max_model_len, "}");
}

void ReadThinking(const ApiFields& fields, v1::TokenizeRequest* out) {
  const auto thinks = ReadTemplateVariables(fields, out->mutable_chat());
  if (!thinks) return;
  out->set_reasoning_mode(*thinks ? v1::ReasoningOptions::MODE_THINK
                                  : v1::ReasoningOptions::MODE_NO_THINK);
}

std::string IdsJson(const std::vector<int32_t>& ids) {
  std::string json = "[";
  for (size_t i = 0; i < ids.size(); ++i) json += Concat(i == 0 ? "" : ",", ids[i]);
  return json + "]";
}

}  // namespace

std::string ModelListJson(const InferenceContext& context) {
  return Concat("{\"object\":\"list\",\"data\":[", CardJson(context), "]}");
}

absl::StatusOr<std::string> ModelCardJson(const InferenceContext& context, std::string_view name) {
  RETURN_IF_ERROR(context.builder.CheckModelName(std::string(name)));
  return CardJson(context);
}

absl::StatusOr<std::string> TokenizeJson(const InferenceContext& context, std::string_view body) {
  ASSIGN_OR_RETURN(const Value object, ParseApiBody(body));
  absl::Status error;
  const ApiFields fields(object, "", &error);
  v1::TokenizeRequest request;
  request.set_model(fields.Text("model").value_or(""));
  if (const auto prompt = fields.Text("prompt")) {
    request.set_text(*prompt);
    request.set_parse_special_tokens(true);
  } else if (fields.Has("messages")) {
    ReadChatPrompt(fields, request.mutable_chat());
    ReadThinking(fields, &request);
  } else {
    fields.Fail("prompt", "one of prompt and messages must be set");
  }
  const bool wants_texts = fields.Bool("return_token_strs").value_or(false);
  RETURN_IF_ERROR(error);
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, context.builder.Tokenize(request));
  std::string json =
      Concat("{\"count\":", ids.size(), ",\"max_model_len\":", context.model->max_model_len,
             ",\"tokens\":", IdsJson(ids));
  if (wants_texts) {
    json += ",\"token_strs\":[";
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i > 0) json += ",";
      AppendJsonQuoted(context.model->encoder->TokenBytes(ids[i]), &json);
    }
    json += "]";
  }
  return json + "}";
}

absl::StatusOr<std::string> CountTokensJson(const InferenceContext& context,
                                            std::string_view body) {
  ASSIGN_OR_RETURN(const ApiRequest read, ReadMessagesRequest(body));
  const v1::GenerateRequest& prompt = read.prompts.front();
  v1::TokenizeRequest request;
  request.set_model(prompt.model());
  *request.mutable_chat() = prompt.chat();
  request.set_reasoning_mode(prompt.reasoning().mode());
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, context.builder.Tokenize(request));
  return Concat("{\"input_tokens\":", ids.size(), "}");
}

absl::StatusOr<std::string> DetokenizeJson(const InferenceContext& context, std::string_view body) {
  ASSIGN_OR_RETURN(const Value object, ParseApiBody(body));
  absl::Status error;
  const ApiFields fields(object, "", &error);
  v1::DetokenizeRequest request;
  request.set_model(fields.Text("model").value_or(""));
  request.set_skip_special_tokens(false);
  const Value* tokens = fields.Array("tokens");
  if (tokens == nullptr) fields.Fail("tokens", "must be set");
  for (size_t i = 0; tokens != nullptr && i < tokens->list().items.size() && error.ok(); ++i) {
    const auto id = fields.IntegerOf(tokens->list().items[i], Concat("tokens[", i, "]"));
    if (id) request.add_token_ids(*id);
  }
  RETURN_IF_ERROR(error);
  ASSIGN_OR_RETURN(const std::string text, context.builder.Detokenize(request));
  return Concat("{\"prompt\":", JsonQuoted(text), "}");
}

std::string LoadJson(const InferenceContext& context) {
  return Concat("{\"server_load\":", context.active.size(), "}");
}

std::string VersionJson() { return Concat("{\"version\":\"", kVersion, "\"}"); }

}  // namespace tessera
