#include "server/commands/response_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

const char* ReasonName(v1::Finish::Reason reason) {
  switch (reason) {
    case v1::Finish::REASON_STOP:
      return "stop";
    case v1::Finish::REASON_LENGTH:
      return "length";
    case v1::Finish::REASON_TOOL_CALLS:
      return "tool_calls";
    default:
      return "cancelled";
  }
}

Json UsageJson(const v1::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens()},
          {"completion_tokens", usage.completion_tokens()},
          {"reasoning_tokens", usage.reasoning_tokens()},
          {"cached_tokens", usage.cached_tokens()}};
}

Json LogprobsJson(const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& entries) {
  Json list = Json::array();
  for (const v1::TokenLogprobs& entry : entries) {
    Json top = Json::array();
    for (const v1::TokenAlternative& alternative : entry.top()) {
      top.push_back({{"token_id", alternative.token_id()}, {"logprob", alternative.logprob()}});
    }
    list.push_back({{"token_id", entry.token_id()},
                    {"logprob", entry.logprob()},
                    {"rank", entry.rank()},
                    {"top", std::move(top)}});
  }
  return list;
}

Json ChoiceJson(const v1::Choice& choice) {
  Json json = {{"text", choice.text()},
               {"reasoning", choice.reasoning()},
               {"token_ids", choice.token_ids()},
               {"finish_reason", ReasonName(choice.finish().reason())}};
  switch (choice.finish().matched_case()) {
    case v1::Finish::kStopTokenId:
      json["stop_token_id"] = choice.finish().stop_token_id();
      break;
    case v1::Finish::kStop:
      json["stop"] = choice.finish().stop();
      break;
    case v1::Finish::MATCHED_NOT_SET:
      break;
  }
  if (choice.finish().thinking_budget_enforced()) json["thinking_budget_enforced"] = true;
  if (choice.finish().has_confidence()) {
    const v1::Confidence& confidence = choice.finish().confidence();
    json["confidence"] = {{"mean", confidence.mean()},
                          {"lowest", confidence.lowest()},
                          {"tokens", confidence.tokens()}};
  }
  for (const v1::ToolCall& call : choice.tool_calls()) {
    json["tool_calls"].push_back(
        {{"id", call.id()}, {"name", call.name()}, {"arguments", call.arguments()}});
  }
  if (choice.logprobs_size() > 0) json["logprobs"] = LogprobsJson(choice.logprobs());
  if (choice.prompt_logprobs_size() > 0) {
    json["prompt_logprobs"] = LogprobsJson(choice.prompt_logprobs());
  }
  return json;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string ResponseJson(const v1::GenerateResponse& unordered) {
  v1::GenerateResponse response = unordered;
  std::sort(response.mutable_choices()->begin(), response.mutable_choices()->end(),
            [](const v1::Choice& a, const v1::Choice& b) { return a.index() < b.index(); });
  Json json = Json::object();
  if (response.choices_size() > 0) json = ChoiceJson(response.choices(0));
  json["usage"] = UsageJson(response.usage());
  if (response.choices_size() > 1) {
    json["choices"] = Json::array();
    for (const v1::Choice& choice : response.choices()) {
      json["choices"].push_back(ChoiceJson(choice));
    }
  }
  return Dump(json) + "\n";
}

std::string ResponseText(const v1::GenerateResponse& response) {
  std::string text;
  for (const v1::Choice& choice : response.choices()) {
    if (!choice.reasoning().empty()) {
      absl::StrAppend(&text, "<think>\n", choice.reasoning(), "\n</think>\n\n");
    }
    absl::StrAppend(&text, choice.text(), "\n");
    for (const v1::ToolCall& call : choice.tool_calls()) {
      absl::StrAppend(&text, call.name(), "(", call.arguments(), ")\n");
    }
  }
  return text;
}

std::string IdsJson(std::span<const int32_t> ids) {
  return absl::StrCat("[", absl::StrJoin(ids.begin(), ids.end(), ", "), "]");
}

std::string FloatsJson(std::span<const float> values) {
  std::string json = "[";
  for (const float value : values) {
    absl::StrAppendFormat(&json, "%s%.9g", json.size() > 1 ? ", " : "", value);
  }
  return json + "]";
}

std::string TextJson(const std::string& text) { return Dump(Json(text)); }

}  // namespace tessera
