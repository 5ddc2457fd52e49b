#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/value.h"
#include "kernels/core/status_macros.h"
#include "server/http/openai/api_request.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Value;

constexpr int64_t kDefaultMaxTokens = 16;

bool HoldsNumbers(const Value& value) {
  return value.is_list() && !value.list().items.empty() && value.list().items[0].is_number();
}

void ReadPrompt(const ApiFields& fields, const Value& value, std::string_view name,
                v1::GenerateRequest* out) {
  if (value.is_string()) {
    // Clients that build their own chats spell control tokens.
    out->set_text(value.str());
    out->set_parse_special_tokens(true);
    return;
  }
  if (!value.is_list() || value.list().items.empty()) {
    return fields.Fail(name, "must be a text or a list of token ids, not empty");
  }
  const std::vector<Value>& items = value.list().items;
  for (size_t i = 0; i < items.size() && fields.ok(); ++i) {
    const auto id = fields.IntegerOf(items[i], Concat(name, "[", i, "]"));
    if (id) out->mutable_token_ids()->add_ids(*id);
  }
}

// A text, token ids, or a list of either: `first` is the template of every prompt's message.
void ReadPrompts(const ApiFields& fields, const v1::GenerateRequest& first, ApiRequest* request) {
  const Value* prompt = fields.Find("prompt");
  if (prompt == nullptr) return fields.Fail("prompt", "must be set");
  if (!prompt->is_list() || HoldsNumbers(*prompt)) {
    request->prompts.push_back(first);
    return ReadPrompt(fields, *prompt, "prompt", &request->prompts.back());
  }
  const std::vector<Value>& items = prompt->list().items;
  const auto count = static_cast<int64_t>(items.size());
  if (count < 1 || count > kMaxPrompts) {
    return fields.Fail("prompt", Concat("must be 1 to ", kMaxPrompts, " prompts, got ", count));
  }
  for (size_t i = 0; i < items.size() && fields.ok(); ++i) {
    request->prompts.push_back(first);
    if (i > 0 && !first.request_id().empty()) {
      request->prompts.back().set_request_id(Concat(first.request_id(), "-", i));
    }
    ReadPrompt(fields, items[i], Concat("prompt[", i, "]"), &request->prompts.back());
  }
}

void ReadScoring(const ApiFields& fields, ApiRequest* request, v1::GenerateRequest* prompt) {
  request->echo = fields.Bool("echo").value_or(false);
  v1::StoppingOptions* stopping = prompt->mutable_stopping();
  if (!stopping->has_max_tokens()) stopping->set_max_tokens(kDefaultMaxTokens);
  if (request->echo && stopping->max_tokens() == 0) {
    request->score_only = true;
    stopping->set_max_tokens(1);
  }
  const auto logprobs = fields.Integer("logprobs");
  if (!logprobs) return;
  prompt->mutable_response()->set_logprobs(*logprobs);
  if (request->echo && !prompt->response().has_prompt_logprobs()) {
    prompt->mutable_response()->set_prompt_logprobs(*logprobs);
  }
  prompt->mutable_response()->set_token_ids(true);
}

}  // namespace

absl::StatusOr<ApiRequest> ReadCompletionRequest(std::string_view body) {
  ASSIGN_OR_RETURN(const Value object, ParseApiBody(body));
  absl::Status error;
  const ApiFields fields(object, "", &error);
  ApiRequest request{.kind = ApiKind::kCompletion};
  v1::GenerateRequest prompt;
  ReadCommonFields(fields, &request, &prompt);
  ReadScoring(fields, &request, &prompt);
  if (!fields.Text("suffix").value_or("").empty()) {
    fields.Fail("suffix", "this model cannot fill in the middle");
  }
  const auto best_of = fields.Integer("best_of");
  if (best_of && *best_of != (prompt.has_n() ? prompt.n() : 1)) {
    fields.Fail("best_of", "must be the same as n");
  }
  ReadPrompts(fields, prompt, &request);
  RETURN_IF_ERROR(error);
  return request;
}

}  // namespace tessera
