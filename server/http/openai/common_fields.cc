#include <array>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/value.h"
#include "server/http/openai/api_request.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Value;

void ReadSamplingFields(const ApiFields& fields, v1::SamplingOptions* out) {
  if (const auto value = fields.Number("temperature")) out->set_temperature(*value);
  if (const auto value = fields.Integer("top_k")) out->set_top_k(*value);
  if (const auto value = fields.Number("top_p")) out->set_top_p(*value);
  if (const auto value = fields.Number("min_p")) out->set_min_p(*value);
  if (const auto value = fields.Number("repetition_penalty")) out->set_repetition_penalty(*value);
  if (const auto value = fields.Number("presence_penalty")) out->set_presence_penalty(*value);
  if (const auto value = fields.Number("frequency_penalty")) out->set_frequency_penalty(*value);
  if (const auto value = fields.Integer("seed")) out->set_seed(*value);
}

void ReadIds(const ApiFields& fields, std::string_view name,
             google::protobuf::RepeatedField<int64_t>* out) {
  const Value* array = fields.Array(name);
  if (array == nullptr) return;
  for (size_t i = 0; i < array->list().items.size() && fields.ok(); ++i) {
    const auto id = fields.IntegerOf(array->list().items[i], Concat(name, "[", i, "]"));
    if (id) out->Add(*id);
  }
}

void ReadTexts(const ApiFields& fields, std::string_view name,
               google::protobuf::RepeatedPtrField<std::string>* out) {
  const Value* array = fields.Array(name);
  if (array == nullptr) return;
  for (size_t i = 0; i < array->list().items.size() && fields.ok(); ++i) {
    const Value& item = array->list().items[i];
    if (!item.is_string()) return fields.Fail(Concat(name, "[", i, "]"), "must be a string");
    *out->Add() = item.str();
  }
}

void ReadStoppingFields(const ApiFields& fields, ApiRequest* request, v1::StoppingOptions* out) {
  for (const char* name : {"max_completion_tokens", "max_tokens"}) {
    const auto value = fields.Integer(name);
    if (!value || out->has_max_tokens()) continue;
    out->set_max_tokens(*value);
    request->max_tokens_name = name;
  }
  if (const auto value = fields.Integer("min_tokens")) out->set_min_tokens(*value);
  const Value* stop = fields.Find("stop");
  if (stop != nullptr && stop->is_string()) {
    // Some clients send the empty string for none.
    if (!stop->str().empty()) out->add_stop(stop->str());
  } else {
    ReadTexts(fields, "stop", out->mutable_stop());
  }
  ReadIds(fields, "stop_token_ids", out->mutable_stop_token_ids());
  out->set_include_stop(fields.Bool("include_stop_str_in_output").value_or(false));
  out->set_ignore_eos(fields.Bool("ignore_eos").value_or(false));
  out->set_stop_in_reasoning(fields.Bool("stop_in_reasoning").value_or(false));
}

void ReadLogitBias(const ApiFields& fields, v1::ConstraintOptions* out) {
  const Value* biases = fields.Object("logit_bias");
  if (biases == nullptr) return;
  const ApiFields members(*biases, "logit_bias.", fields.error());
  for (const auto& [key, value] : biases->dict().entries()) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(key.str(), &id)) {
      return members.Fail(key.str(), "the name must be a token id");
    }
    if (const auto bias = members.Number(key.str())) (*out->mutable_logit_bias())[id] = *bias;
  }
}

void ReadConstraintFields(const ApiFields& fields, v1::ConstraintOptions* out) {
  ReadLogitBias(fields, out);
  ReadTexts(fields, "bad_words", out->mutable_bad_words());
  ReadIds(fields, "allowed_token_ids", out->mutable_allowed_token_ids());
}

void ReadStreamFields(const ApiFields& fields, ApiRequest* request) {
  request->stream = fields.Bool("stream").value_or(false);
  const Value* options = fields.Object("stream_options");
  if (options == nullptr) return;
  if (!request->stream) return fields.Fail("stream_options", "only with stream: true");
  const ApiFields members(*options, "stream_options.", fields.error());
  request->include_usage = members.Bool("include_usage").value_or(false);
  request->continuous_usage = members.Bool("continuous_usage_stats").value_or(false);
}

void ReadRoutingFields(const ApiFields& fields, ApiRequest* request, v1::GenerateRequest* prompt) {
  if (const auto value = fields.Text("model")) prompt->set_model(*value);
  if (const auto value = fields.Integer("n")) prompt->set_n(*value);
  if (const auto value = fields.Integer("priority")) prompt->set_priority(*value);
  if (const auto value = fields.Text("request_id")) prompt->set_request_id(*value);
  if (const auto value = fields.Text("cache_salt")) prompt->mutable_cache()->set_salt(*value);
  v1::ResponseOptions* response = prompt->mutable_response();
  if (const auto value = fields.Bool("skip_special_tokens")) {
    response->set_skip_special_tokens(*value);
  }
  response->set_confidence(fields.Bool("confidence").value_or(false));
  response->set_reasoning_steps(fields.Bool("reasoning_steps").value_or(false));
  request->return_token_ids = fields.Bool("return_token_ids").value_or(false);
  response->set_token_ids(request->return_token_ids);
  request->tokens_as_ids = fields.Bool("return_tokens_as_token_ids").value_or(false);
}

void ReadEarlyStopping(const ApiFields& fields, v1::BeamOptions* out) {
  const Value* value = fields.Find("early_stopping");
  if (value == nullptr) return;
  if (value->is_string() && value->str() == "never") {
    return out->set_early_stopping(v1::BeamOptions::EARLY_STOPPING_NEVER);
  }
  if (!value->is_bool()) return fields.Fail("early_stopping", "must be true, false or \"never\"");
  out->set_early_stopping(value->as_bool() ? v1::BeamOptions::EARLY_STOPPING_YES
                                           : v1::BeamOptions::EARLY_STOPPING_NO);
}

// vLLM's fields, where the width is n; and beam_width for fewer answers than beams.
void ReadBeamFields(const ApiFields& fields, ApiRequest* request, v1::GenerateRequest* prompt) {
  v1::BeamOptions beams;
  ReadEarlyStopping(fields, &beams);
  const auto width = fields.Integer("beam_width");
  if (const auto value = fields.Number("length_penalty")) beams.set_length_penalty(*value);
  if (const auto value = fields.Number("grammar_penalty")) beams.set_grammar_penalty(*value);
  if (fields.Bool("use_beam_search").value_or(false)) {
    request->beam_width_name = width ? "beam_width" : "n";
    beams.set_width(width ? *width : prompt->has_n() ? prompt->n() : 1);
    *prompt->mutable_beams() = beams;
    return;
  }
  // Values that say nothing are sent by clients that know no search.
  const bool asks = width.has_value() || beams.has_grammar_penalty() ||
                    beams.early_stopping() > v1::BeamOptions::EARLY_STOPPING_NO ||
                    (beams.has_length_penalty() && beams.length_penalty() != 1);
  if (asks) fields.Fail("use_beam_search", "must be true for the fields of a beam search");
}

void RefuseUnknownFeatures(const ApiFields& fields) {
  for (const char* name : {"prompt_embeds", "truncate_prompt_tokens", "logits_processors"}) {
    fields.Refuse(name, "not supported; leave the field out");
  }
}

}  // namespace

void ReadCommonFields(const ApiFields& fields, ApiRequest* request, v1::GenerateRequest* prompt) {
  ReadRoutingFields(fields, request, prompt);
  ReadSamplingFields(fields, prompt->mutable_sampling());
  ReadStoppingFields(fields, request, prompt->mutable_stopping());
  ReadConstraintFields(fields, prompt->mutable_constraints());
  ReadStructureFields(fields, request, prompt->mutable_constraints());
  ReadStreamFields(fields, request);
  ReadBeamFields(fields, request, prompt);
  RefuseUnknownFeatures(fields);
  if (const auto value = fields.Integer("prompt_logprobs")) {
    prompt->mutable_response()->set_prompt_logprobs(*value);
    if (request->stream) fields.Fail("prompt_logprobs", "not with stream: true");
  }
}

std::string ApiFieldName(std::string_view field, const ApiRequest& request) {
  const bool is_completion = request.kind == ApiKind::kCompletion;
  const std::string_view prompt = is_completion                         ? "prompt"
                                  : request.kind == ApiKind::kResponses ? "input"
                                                                        : "messages";
  const std::array<std::pair<std::string_view, std::string_view>, 28> names = {{
      {"beams.width", request.beam_width_name},
      {"beams.", ""},
      {"stopping.max_tokens", request.max_tokens_name},
      {"stopping.include_stop", "include_stop_str_in_output"},
      {"response.logprobs", is_completion ? "logprobs" : "top_logprobs"},
      {"reasoning.max_thinking_tokens", request.budget_name},
      {"reasoning.close_message", "reasoning_budget_message"},
      {"reasoning.min_answer_tokens", "min_answer_tokens"},
      {"reasoning.mode", "chat_template_kwargs"},
      {"token_ids.ids", "prompt"},
      {"token_ids", "tokens"},
      {"cache.salt", "cache_salt"},
      {"chat.messages", prompt},
      {"chat.tool_name", "tool_choice"},
      {"chat.template_variables", "chat_template_kwargs"},
      {"chat.", ""},
      {"chat", prompt},
      {"prompt", prompt},
      {"sampling.", ""},
      {"constraints.logit_bias", "logit_bias"},
      {"constraints.json_schema", request.structure_name},
      {"constraints.json_object", request.structure_name},
      {"constraints.regex", request.structure_name},
      {"constraints.choice", request.structure_name},
      {"constraints.grammar", request.structure_name},
      {"constraints.", ""},
      {"stopping.", ""},
      {"response.", ""},
  }};
  // Whole names: the API has members of objects that are called the same.
  if (field == "text") return std::string(prompt);
  if (field == "reasoning") return request.budget_name;
  for (const auto& [from, to] : names) {
    if (!field.starts_with(from)) continue;
    const std::string_view rest = field.substr(from.size());
    // A whole name, not the beginning of another one.
    if (from.back() == '.' || rest.empty() || rest[0] == '.' || rest[0] == '[') {
      return Concat(to, rest);
    }
  }
  return std::string(field);
}

}  // namespace tessera
