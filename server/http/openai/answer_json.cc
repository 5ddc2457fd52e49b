#include "server/http/openai/answer_json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "engine/text/jinja/concat.h"
#include "server/json_text.h"
#include "server/version.h"

namespace tessera {
namespace {

using jinja::Concat;

std::string TokenName(const AnswerFacts& facts, int32_t id) {
  if (facts.request->tokens_as_ids) return Concat("token_id:", id);
  return facts.encoder->TokenBytes(id);
}

void AppendBytes(std::string_view bytes, std::string* json) {
  json->push_back('[');
  for (size_t i = 0; i < bytes.size(); ++i) {
    json->append(Concat(i == 0 ? "" : ",", static_cast<int>(static_cast<unsigned char>(bytes[i]))));
  }
  json->push_back(']');
}

// `"token":…,"logprob":…,"bytes":…`.
void AppendTokenMembers(const AnswerFacts& facts, int32_t id, float logprob, std::string* json) {
  json->append("\"token\":");
  AppendToken(facts, id, json);
  json->append(",\"logprob\":");
  AppendLogprob(logprob, json);
  json->append(",\"bytes\":");
  AppendBytes(facts.encoder->TokenBytes(id), json);
}

void AppendRanked(const AnswerFacts& facts, const v1::TokenAlternative& token, int32_t rank,
                  std::string* json) {
  json->append(Concat("\"", token.token_id(), "\":{\"logprob\":"));
  AppendLogprob(token.logprob(), json);
  json->append(Concat(",\"rank\":", rank, ",\"decoded_token\":"));
  AppendToken(facts, token.token_id(), json);
  json->push_back('}');
}

}  // namespace

void AppendAnswerHead(const AnswerFacts& facts, std::string_view object, std::string* json) {
  json->append(Concat("{\"id\":", JsonQuoted(facts.id), ",\"object\":\"", object,
                      "\",\"created\":", facts.created, ",\"model\":", JsonQuoted(facts.model),
                      ",\"system_fingerprint\":\"tessera-", kVersion, "\""));
}

void AppendUsage(const v1::Usage& usage, std::string* json) {
  json->append(Concat(
      "{\"prompt_tokens\":", usage.prompt_tokens(),
      ",\"completion_tokens\":", usage.completion_tokens(),
      ",\"total_tokens\":", usage.prompt_tokens() + usage.completion_tokens(),
      ",\"prompt_tokens_details\":{\"cached_tokens\":", usage.cached_tokens(),
      "},\"completion_tokens_details\":{\"reasoning_tokens\":", usage.reasoning_tokens(), "}}"));
}

void AppendLogprob(float value, std::string* json) {
  if (!std::isfinite(value)) {
    json->append("-9999.0");
    return;
  }
  char digits[32];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), value);
  json->append(std::begin(digits), end.ptr);
}

void AppendIds(const google::protobuf::RepeatedField<int32_t>& ids, std::string* json) {
  json->push_back('[');
  for (int i = 0; i < ids.size(); ++i) json->append(Concat(i == 0 ? "" : ",", ids[i]));
  json->push_back(']');
}

void AppendBeamScore(double score, std::string* json) {
  char digits[32];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), score);
  json->append(",\"beam_score\":").append(std::begin(digits), end.ptr);
}

void AppendFinish(const v1::Choice& choice, const v1::StoppingOptions& stopping,
                  std::string* json) {
  if (!choice.has_finish()) {
    json->append("\"finish_reason\":null");
    return;
  }
  const v1::Finish& finish = choice.finish();
  const std::string_view reason = finish.reason() == v1::Finish::REASON_LENGTH       ? "length"
                                  : finish.reason() == v1::Finish::REASON_TOOL_CALLS ? "tool_calls"
                                                                                     : "stop";
  std::string matched = "null";
  if (finish.has_stop()) matched = JsonQuoted(finish.stop());
  // The model's own end is no stop token of the request's.
  const auto& asked = stopping.stop_token_ids();
  if (finish.has_stop_token_id() &&
      std::find(asked.begin(), asked.end(), finish.stop_token_id()) != asked.end()) {
    matched = Concat(finish.stop_token_id());
  }
  json->append(Concat("\"finish_reason\":\"", reason, "\",\"stop_reason\":", matched));
  if (finish.thinking_budget_enforced()) json->append(",\"thinking_budget_enforced\":true");
  if (finish.has_beam_score()) AppendBeamScore(finish.beam_score(), json);
  if (!finish.has_confidence()) return;
  json->append(",\"confidence\":{\"mean\":");
  AppendLogprob(finish.confidence().mean(), json);
  json->append(",\"lowest\":");
  AppendLogprob(finish.confidence().lowest(), json);
  json->append(Concat(",\"tokens\":", finish.confidence().tokens(), "}"));
}

void AppendSteps(const v1::Choice& choice, std::string* json) {
  json->append(",\"reasoning_steps\":[");
  for (int i = 0; i < choice.reasoning_steps_size(); ++i) {
    json->append(i == 0 ? "" : ",").append(JsonQuoted(choice.reasoning_steps(i)));
  }
  json->push_back(']');
}

void AppendThinking(const v1::ThinkingChoice& thinking, std::string* json) {
  std::string reason = v1::ThinkingChoice::Reason_Name(thinking.reason());
  constexpr std::string_view kPrefix = "REASON_";
  reason = absl::AsciiStrToLower(reason.substr(kPrefix.size()));
  json->append(Concat(",\"thinking\":{\"mode\":\"auto\",\"thinks\":",
                      thinking.thinks() ? "true" : "false", ",\"reason\":\"", reason, "\"}"));
}

void AppendToken(const AnswerFacts& facts, int32_t id, std::string* json) {
  AppendJsonQuoted(TokenName(facts, id), json);
}

void AppendChatLogprobs(const AnswerFacts& facts,
                        const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& tokens,
                        std::string* json) {
  json->append("{\"content\":[");
  for (int i = 0; i < tokens.size(); ++i) {
    json->append(i == 0 ? "{" : ",{");
    AppendTokenMembers(facts, tokens[i].token_id(), tokens[i].logprob(), json);
    json->append(",\"top_logprobs\":[");
    for (int k = 0; k < tokens[i].top_size(); ++k) {
      json->append(k == 0 ? "{" : ",{");
      AppendTokenMembers(facts, tokens[i].top(k).token_id(), tokens[i].top(k).logprob(), json);
      json->push_back('}');
    }
    json->append("]}");
  }
  json->append("]}");
}

void AppendPromptLogprobs(const AnswerFacts& facts,
                          const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& tokens,
                          std::string* json) {
  json->append("[null");
  for (const v1::TokenLogprobs& token : tokens) {
    json->append(",{");
    v1::TokenAlternative own;
    own.set_token_id(token.token_id());
    own.set_logprob(token.logprob());
    AppendRanked(facts, own, token.rank(), json);
    for (int k = 0; k < token.top_size(); ++k) {
      if (token.top(k).token_id() == token.token_id()) continue;
      json->push_back(',');
      AppendRanked(facts, token.top(k), k + 1, json);
    }
    json->push_back('}');
  }
  json->push_back(']');
}

int64_t CountCharacters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace tessera
