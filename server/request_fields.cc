#include "server/request_fields.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/value.h"
#include "server/chat_json.h"
#include "server/request_beams.h"

namespace tessera {
namespace {

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxPriority = 1000;
constexpr size_t kMaxNameLength = 128;
// Below this the division of the logits overflows; vLLM draws the same line.
constexpr float kMinTemperature = 0.01F;

bool IsName(std::string_view text, std::string_view punctuation) {
  return text.size() <= kMaxNameLength && std::all_of(text.begin(), text.end(), [&](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  punctuation.find(c) != std::string_view::npos;
         });
}

void ReadSampling(const v1::SamplingOptions& in, const GenerationConfig& defaults,
                  SamplingParams* out, FieldViolations* violations) {
  const auto read_real = [&](std::string_view field, bool is_set, double value, RealRange range,
                             std::optional<double> model_default, float* target) {
    if (!is_set) {
      if (model_default) *target = static_cast<float>(*model_default);
    } else if (violations->CheckReal(field, value, range)) {
      *target = static_cast<float>(value);
    }
  };
  if (defaults.do_sample == false) out->temperature = 0;
  read_real("sampling.temperature", in.has_temperature(), in.temperature(), {0, 2},
            defaults.temperature, &out->temperature);
  const bool is_greedy = in.has_temperature() ? in.temperature() == 0 : out->temperature == 0;
  out->temperature = is_greedy ? 0.0F : std::max(out->temperature, kMinTemperature);
  // The smallest normal float: a smaller top_p would become 0 on the way to the sampler.
  constexpr double kTiny = std::numeric_limits<float>::min();
  read_real("sampling.top_p", in.has_top_p(), in.top_p(), {0, 1, true}, defaults.top_p,
            &out->top_p);
  out->top_p = std::max(out->top_p, static_cast<float>(kTiny));
  read_real("sampling.min_p", in.has_min_p(), in.min_p(), {0, 1}, defaults.min_p, &out->min_p);
  read_real("sampling.repetition_penalty", in.has_repetition_penalty(), in.repetition_penalty(),
            {0.01, 100}, defaults.repetition_penalty, &out->repetition_penalty);
  read_real("sampling.presence_penalty", in.has_presence_penalty(), in.presence_penalty(), {-2, 2},
            {}, &out->presence_penalty);
  read_real("sampling.frequency_penalty", in.has_frequency_penalty(), in.frequency_penalty(),
            {-2, 2}, {}, &out->frequency_penalty);
  out->top_k = std::max(0, defaults.top_k.value_or(0));
  if (in.has_top_k() && violations->CheckInt("sampling.top_k", in.top_k(), {-1, kInt32Max})) {
    out->top_k = std::max(0, static_cast<int32_t>(in.top_k()));
  }
  if (in.has_seed()) out->seed = static_cast<uint64_t>(in.seed());
}

void CheckCount(std::string_view field, int64_t count, int64_t limit, FieldViolations* violations) {
  if (count > limit) {
    violations->Add(std::string(field), absl::StrCat("at most ", limit, " entries, got ", count));
  }
}

void ReadLogitBias(const v1::ConstraintOptions& in, int32_t vocab_size, SamplingParams* out,
                   FieldViolations* violations) {
  for (const auto& [id, bias] : in.logit_bias()) {
    const std::string field = absl::StrCat("constraints.logit_bias[", id, "]");
    if (id < 0 || id >= vocab_size) {
      violations->Add(field, absl::StrCat("the token id must be in [0, ", vocab_size, ")"));
    } else if (violations->CheckReal(field, bias, {-100, 100})) {
      out->logit_bias.emplace_back(static_cast<int32_t>(id), static_cast<float>(bias));
    }
  }
  std::sort(out->logit_bias.begin(), out->logit_bias.end());
}

void ReadConstraints(const v1::ConstraintOptions& in, int32_t vocab_size,
                     const RequestLimits& limits, SamplingParams* out,
                     FieldViolations* violations) {
  const int64_t limit = limits.max_constraint_ids;
  CheckCount("constraints.logit_bias", static_cast<int64_t>(in.logit_bias().size()), limit,
             violations);
  CheckCount("constraints.bad_words", in.bad_words_size(), limit, violations);
  CheckCount("constraints.allowed_token_ids", in.allowed_token_ids_size(), limit, violations);
  if (!violations->empty()) return;
  ReadLogitBias(in, vocab_size, out, violations);
  ReadTokenIds(in.allowed_token_ids(), "constraints.allowed_token_ids", vocab_size,
               &out->allowed_token_ids, violations);
  for (int i = 0; i < in.bad_words_size(); ++i) {
    violations->CheckInt(absl::StrCat("constraints.bad_words[", i, "].length"),
                         static_cast<int64_t>(in.bad_words(i).size()), {1, limits.max_stop_bytes});
  }
}

void ReadStopping(const v1::StoppingOptions& in, int32_t vocab_size, const RequestLimits& limits,
                  StoppingParams* out, FieldViolations* violations) {
  if (in.has_max_tokens() &&
      violations->CheckInt("stopping.max_tokens", in.max_tokens(), {1, kInt32Max})) {
    out->max_tokens = static_cast<int32_t>(in.max_tokens());
  }
  const int64_t most = out->max_tokens ? *out->max_tokens : kInt32Max;
  if (in.has_min_tokens() &&
      violations->CheckInt("stopping.min_tokens", in.min_tokens(), {0, most})) {
    out->min_tokens = static_cast<int32_t>(in.min_tokens());
  }
  CheckCount("stopping.stop", in.stop_size(), limits.max_stop_strings, violations);
  CheckCount("stopping.stop_token_ids", in.stop_token_ids_size(), limits.max_stop_token_ids,
             violations);
  if (!violations->empty()) return;
  for (int i = 0; i < in.stop_size(); ++i) {
    violations->CheckInt(absl::StrCat("stopping.stop[", i, "].length"),
                         static_cast<int64_t>(in.stop(i).size()), {1, limits.max_stop_bytes});
    out->stop.push_back(in.stop(i));
  }
  ReadTokenIds(in.stop_token_ids(), "stopping.stop_token_ids", vocab_size, &out->stop_token_ids,
               violations);
  out->include_stop = in.include_stop();
  out->ignore_eos = in.ignore_eos();
  out->stop_in_reasoning = in.stop_in_reasoning();
}

void ReadResponse(const v1::ResponseOptions& in, const RequestLimits& limits, GenerateRequest* out,
                  FieldViolations* violations) {
  const FieldRange range{0, limits.max_logprobs};
  if (in.has_logprobs() && violations->CheckInt("response.logprobs", in.logprobs(), range)) {
    out->sampling.logprobs = static_cast<int32_t>(in.logprobs());
  }
  if (in.has_prompt_logprobs() &&
      violations->CheckInt("response.prompt_logprobs", in.prompt_logprobs(), range)) {
    out->sampling.prompt_logprobs = static_cast<int32_t>(in.prompt_logprobs());
  }
  out->output.confidence = in.confidence();
  out->output.skip_special_tokens = !in.has_skip_special_tokens() || in.skip_special_tokens();
}

void CheckReasoning(const v1::GenerateRequest& request, const ServedModel& model,
                    const RequestLimits& limits, FieldViolations* violations) {
  const v1::ReasoningOptions& in = request.reasoning();
  const bool wants_mode = in.mode() != v1::ReasoningOptions::MODE_UNSPECIFIED;
  if (!v1::ReasoningOptions::Mode_IsValid(in.mode())) {
    violations->Add("reasoning.mode", "unknown value");
  } else if (wants_mode && !request.has_chat()) {
    violations->Add("reasoning.mode", "works with a chat prompt only");
  }
  if (in.has_max_thinking_tokens()) {
    violations->CheckInt("reasoning.max_thinking_tokens", in.max_thinking_tokens(), {0, kInt32Max});
  }
  if (in.has_min_answer_tokens()) {
    violations->CheckInt("reasoning.min_answer_tokens", in.min_answer_tokens(), {0, kInt32Max});
  }
  violations->CheckInt("reasoning.close_message.length",
                       static_cast<int64_t>(in.close_message().size()),
                       {0, limits.max_close_message_bytes});
  if (absl::StrContains(in.close_message(), "</think>")) {
    violations->Add("reasoning.close_message", "must not hold </think>: that follows by itself");
  }
  const bool needs_tags = in.has_max_thinking_tokens() || in.min_answer_tokens() > 0 ||
                          in.has_close_message() || in.separate();
  if (needs_tags && !model.supports_reasoning()) {
    violations->Add("reasoning", "this model has no <think> and </think> tokens");
  }
}

void ReadRouting(const v1::GenerateRequest& request, const RequestLimits& limits,
                 GenerateRequest* out, FieldViolations* violations) {
  if (!IsName(request.request_id(), "._:-")) {
    violations->Add("request_id", "must be 1 to 128 characters of [A-Za-z0-9._:-]");
  }
  out->external_id = request.request_id();
  if (request.has_n() && violations->CheckInt("n", request.n(), {1, limits.max_n})) {
    out->n = static_cast<int32_t>(request.n());
  }
  if (request.has_priority() &&
      violations->CheckInt("priority", request.priority(), {-kMaxPriority, kMaxPriority})) {
    out->priority = static_cast<int32_t>(request.priority());
  }
  const v1::CacheOptions& cache = request.cache();
  if (!IsName(cache.salt(), "_-")) {
    violations->Add("cache.salt", "must be at most 128 characters of [A-Za-z0-9_-]");
  }
  out->cache_salt = cache.salt();
  out->use_prefix_cache = !cache.has_use_prefix_cache() || cache.use_prefix_cache();
}

void CheckMessage(const v1::ChatMessage& message, const std::string& field,
                  FieldViolations* violations) {
  const std::string& role = message.role();
  const bool is_known = role == "system" || role == "developer" || role == "user" ||
                        role == "assistant" || role == "tool";
  if (!is_known) {
    violations->Add(absl::StrCat(field, ".role"),
                    "must be system, developer, user, assistant or tool");
  }
  if (role != "assistant" && message.tool_calls_size() > 0) {
    violations->Add(absl::StrCat(field, ".tool_calls"), "only an assistant message has tool calls");
  }
  if (role != "assistant" && message.has_reasoning_content()) {
    violations->Add(absl::StrCat(field, ".reasoning_content"),
                    "only an assistant message has reasoning");
  }
}

}  // namespace

void ReadTokenIds(const google::protobuf::RepeatedField<int64_t>& ids, const std::string& field,
                  int32_t vocab_size, std::vector<int32_t>* out, FieldViolations* violations) {
  out->reserve(out->size() + static_cast<size_t>(ids.size()));
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      violations->Add(absl::StrCat(field, "[", i, "]"),
                      absl::StrCat("must be in [0, ", vocab_size, "), got ", ids[i]));
      return;  // one is enough: the rest is likely as wrong
    }
    out->push_back(static_cast<int32_t>(ids[i]));
  }
}

namespace {

void CheckContinuation(const v1::ChatPrompt& chat, FieldViolations* violations) {
  if (!chat.continue_final_message()) return;
  if (chat.add_generation_prompt()) {
    violations->Add("chat.continue_final_message",
                    "does not go with add_generation_prompt, which begins a new message");
  }
  if (chat.messages(chat.messages_size() - 1).tool_calls_size() > 0) {
    violations->Add("chat.continue_final_message",
                    "the last message has tool calls; only text can be continued");
  }
}

void CheckTemplateVariables(const std::string& json, FieldViolations* violations) {
  constexpr char kField[] = "chat.template_variables";
  if (json.empty()) return;
  const absl::StatusOr<jinja::Value> variables = jinja::ParseJson(json);
  if (!variables.ok() || !variables->is_dict()) {
    violations->Add(kField, "must be a JSON object");
    return;
  }
  for (const char* name : {"messages", "tools", "add_generation_prompt", "continue_final_message",
                           "enable_thinking"}) {
    if (variables->dict().Find(std::string_view(name)) == nullptr) continue;
    violations->Add(absl::StrCat(kField, ".", name), "has a field of its own in the request");
  }
}

}  // namespace

void CheckChat(const v1::ChatPrompt& chat, const RequestLimits& limits,
               FieldViolations* violations) {
  violations->CheckInt("chat.messages.length", chat.messages_size(), {1, limits.max_messages});
  CheckCount("chat.tools", chat.tools_size(), limits.max_tools, violations);
  if (!violations->empty()) return;
  for (int i = 0; i < chat.messages_size(); ++i) {
    CheckMessage(chat.messages(i), absl::StrCat("chat.messages[", i, "]"), violations);
  }
  for (int i = 0; i < chat.tools_size(); ++i) {
    if (!IsJsonObject(chat.tools(i))) {
      violations->Add(absl::StrCat("chat.tools[", i, "]"), "must be a JSON object");
    }
  }
  CheckContinuation(chat, violations);
  CheckTemplateVariables(chat.template_variables(), violations);
  if (!v1::ToolChoice_IsValid(chat.tool_choice())) {
    violations->Add("chat.tool_choice", "unknown value");
  }
}

void ReadPlainFields(const v1::GenerateRequest& request, const ServedModel& model,
                     const RequestLimits& limits, GenerateRequest* out,
                     FieldViolations* violations) {
  ReadRouting(request, limits, out, violations);
  ReadSampling(request.sampling(), model.generation, &out->sampling, violations);
  ReadResponse(request.response(), limits, out, violations);
  CheckReasoning(request, model, limits, violations);
  ReadStopping(request.stopping(), model.vocab_size, limits, &out->stopping, violations);
  ReadConstraints(request.constraints(), model.vocab_size, limits, &out->sampling, violations);
  ReadBeams(request, out, violations);
}

}  // namespace tessera
