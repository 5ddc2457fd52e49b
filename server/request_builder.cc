#include "server/request_builder.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "server/chat_json.h"
#include "server/request_fields.h"
#include "server/request_structure.h"
#include "server/thinking_choice.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

// The instruction Qwen's documentation inserts when the thinking budget is spent (Qwen3 technical
// report, section 4.3).
constexpr std::string_view kDefaultClose =
    "\n\nConsidering the limited time by the user, I have to give the solution based on the "
    "thinking directly now.\n</think>\n\n";
constexpr char kNoTokenizer[] = "this model has no tokenizer.json; send token_ids";
constexpr size_t kMaxShownName = 200;
constexpr std::string_view kCloseTag = "\n</think>\n\n";
constexpr int64_t kOpenTag = 1;  // the token <think>, which the model writes itself

bool IsBlank(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); });
}

// Adds a path in front of an error of the prompt's encoder and types it as a field violation.
absl::Status AsFieldError(const absl::Status& status, std::string_view field) {
  if (status.code() != absl::StatusCode::kInvalidArgument &&
      status.code() != absl::StatusCode::kFailedPrecondition) {
    return status;
  }
  return FieldError(std::string(field), std::string(status.message()));
}

}  // namespace

absl::Status RequestBuilder::CheckModelName(const std::string& name) const {
  if (name.empty() || name == model_->name) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model: there is no \"", name.substr(0, kMaxShownName),
                                          "\" here; this server serves \"", model_->name,
                                          "\" (leave the field empty or use "
                                          "that name)"));
}

bool RequestBuilder::MayTakeLong(const v1::GenerateRequest& request) {
  return WantsStructure(request);
}

absl::StatusOr<GenerateRequest> RequestBuilder::Build(
    const v1::GenerateRequest& request,
    absl::FunctionRef<absl::Status(const GenerateRequest&)> before_encoding) const {
  RETURN_IF_ERROR(CheckModelName(request.model()));
  GenerateRequest out;
  FieldViolations violations;
  ReadPlainFields(request, *model_, limits_, &out, &violations);
  if (request.has_chat()) CheckChat(request.chat(), limits_, &violations);
  if (!model_->has_tokenizer && request.constraints().bad_words_size() > 0) {
    violations.Add("constraints.bad_words", kNoTokenizer);
  }
  if (!model_->has_tokenizer && request.stopping().stop_size() > 0) {
    violations.Add("stopping.stop", kNoTokenizer);
  }
  RETURN_IF_ERROR(violations.ToStatus());
  RETURN_IF_ERROR(before_encoding(out));

  ASSIGN_OR_RETURN(out.prompt_ids, EncodePrompt(request));
  for (const int32_t id : out.prompt_ids) {
    if (id < model_->vocab_size) continue;
    return FieldError(request.has_chat() ? "chat" : "text",
                      absl::StrCat("the tokenizer makes it the token ", id, ", but the model has ",
                                   model_->vocab_size, "; its tokenizer.json is another model's"));
  }
  out.sampling.top_k = std::min(out.sampling.top_k, model_->vocab_size);
  RETURN_IF_ERROR(ReadBadWords(request, &out, &violations));
  FitContext(request, &out, &violations);
  RETURN_IF_ERROR(violations.ToStatus());
  RETURN_IF_ERROR(ReadReasoning(request, &out));
  if (request.has_chat() && model_->tool_call_format != ToolCallFormat::kNone) {
    out.output.tools_json = ToolsJson(request.chat());
    if (!out.output.tools_json.empty()) out.output.tool_call_format = model_->tool_call_format;
  }
  RETURN_IF_ERROR(ReadStructure(request, *model_, &out));
  if (out.beams.grammar_penalty.has_value() && out.structure.structure == nullptr) {
    return FieldError("beams.grammar_penalty", "only with a structure of the answer");
  }
  return out;
}

absl::StatusOr<std::vector<int32_t>> RequestBuilder::EncodePrompt(
    const v1::GenerateRequest& request) const {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      if (!model_->has_tokenizer) return FieldError("text", kNoTokenizer);
      return model_->encoder->EncodeText(request.text(), request.parse_special_tokens());
    case v1::GenerateRequest::kTokenIds: {
      std::vector<int32_t> ids;
      FieldViolations violations;
      ReadTokenIds(request.token_ids().ids(), "token_ids.ids", model_->vocab_size, &ids,
                   &violations);
      RETURN_IF_ERROR(violations.ToStatus());
      return ids;
    }
    case v1::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(const ChatThinking thinking, ThinkingOf(request));
      return EncodeChat(request.chat(), thinking.enable);
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return FieldError("prompt", "one of text, token_ids and chat must be set");
}

absl::StatusOr<std::vector<int32_t>> RequestBuilder::EncodeChat(
    const v1::ChatPrompt& chat, std::optional<bool> enable_thinking) const {
  if (!model_->has_chat_template) {
    return FieldError("chat", "this model has no chat template; send text or token_ids");
  }
  absl::StatusOr<std::vector<int32_t>> ids = model_->encoder->EncodeChat(
      {.messages_json = MessagesJson(chat),
       .tools_json = ToolsJson(chat),
       .variables_json = chat.template_variables(),
       .add_generation_prompt = chat.has_add_generation_prompt() ? chat.add_generation_prompt()
                                                                 : !chat.continue_final_message(),
       .continue_final_message = chat.continue_final_message(),
       .enable_thinking = enable_thinking});
  if (!ids.ok()) return AsFieldError(ids.status(), "chat");
  return ids;
}

// What this validator lets through is never too much for the engine.
static_assert(RequestLimits().max_constraint_ids <= std::min(kMaxLogitBias, kMaxBadWords));
static_assert(RequestLimits().max_stop_token_ids <= kMaxStopIds);

// Like vLLM: a word is banned at the start of a text and after a space.
absl::Status RequestBuilder::ReadBadWords(const v1::GenerateRequest& request, GenerateRequest* out,
                                          FieldViolations* violations) const {
  size_t num_ids = 0;
  for (const std::string& word : request.constraints().bad_words()) {
    const absl::string_view letters = absl::StripLeadingAsciiWhitespace(word);
    const std::string spellings[] = {letters.empty() ? word : std::string(letters),
                                     letters.empty() ? word : absl::StrCat(" ", letters)};
    for (const std::string& spelling : spellings) {
      ASSIGN_OR_RETURN(std::vector<int32_t> ids, model_->encoder->EncodeText(spelling, false));
      const bool is_known =
          std::find(out->sampling.bad_words.begin(), out->sampling.bad_words.end(), ids) !=
          out->sampling.bad_words.end();
      // What the model has no token for it cannot write.
      const bool is_writable =
          std::all_of(ids.begin(), ids.end(), [&](int32_t id) { return id < model_->vocab_size; });
      if (ids.empty() || is_known || !is_writable) continue;
      num_ids += ids.size();
      out->sampling.bad_words.push_back(std::move(ids));
    }
    if (num_ids > static_cast<size_t>(limits_.max_constraint_ids)) {
      violations->Add("constraints.bad_words",
                      absl::StrCat("together more than ", limits_.max_constraint_ids, " tokens"));
      break;
    }
  }
  return absl::OkStatus();
}

std::string RequestBuilder::ContextLimit() const {
  if (model_->max_model_len >= model_->full_model_len) {
    return absl::StrCat("the context of ", model_->max_model_len, " tokens");
  }
  return absl::StrCat("the context of ", model_->max_model_len,
                      " tokens (all that this server's KV cache holds; the model has ",
                      model_->full_model_len, ")");
}

void RequestBuilder::FitContext(const v1::GenerateRequest& request, GenerateRequest* out,
                                FieldViolations* violations) const {
  const int64_t limit = model_->max_model_len;
  const auto prompt = static_cast<int64_t>(out->prompt_ids.size());
  if (prompt == 0) {
    violations->Add("prompt", "must have at least one token");
    return;
  }
  if (prompt >= limit) {
    violations->Add("prompt", absl::StrCat("has ", prompt, " tokens; ", ContextLimit(),
                                           " must hold the prompt and one token of output"));
    return;
  }
  const int64_t room = limit - prompt;
  if (request.stopping().has_max_tokens()) {
    if (request.stopping().max_tokens() > room) {
      violations->Add(
          "stopping.max_tokens",
          absl::StrCat("prompt (", prompt, ") and max_tokens (", request.stopping().max_tokens(),
                       ") exceed ", ContextLimit(), "; at most ", room, " fit"));
    }
  } else {
    const int64_t wanted =
        model_->generation.max_new_tokens.value_or(std::numeric_limits<int32_t>::max());
    out->stopping.max_tokens = static_cast<int32_t>(std::min(wanted, room));
    violations->CheckInt("stopping.min_tokens", out->stopping.min_tokens,
                         {0, *out->stopping.max_tokens});
  }
  const int64_t answer = request.reasoning().min_answer_tokens();
  if (answer > out->stopping.max_tokens.value_or(0)) {
    violations->Add("reasoning.min_answer_tokens", "must not exceed max_tokens");
  }
}

absl::StatusOr<RequestBuilder::ChatThinking> RequestBuilder::ThinkingOf(
    const v1::GenerateRequest& request) const {
  const v1::ReasoningOptions& in = request.reasoning();
  const std::optional<bool> enable = EnableThinking(in.mode(), request.chat());
  if (enable == false || !model_->supports_reasoning()) return ChatThinking{.enable = enable};
  bool is_cut = in.has_max_thinking_tokens() && in.max_thinking_tokens() == 0;
  if (!is_cut && in.min_answer_tokens() > 0 && request.stopping().has_max_tokens()) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> tag, model_->encoder->EncodeText(kCloseTag, true));
    is_cut = request.stopping().max_tokens() - in.min_answer_tokens() - kOpenTag <=
             static_cast<int64_t>(tag.size());
  }
  if (is_cut) return ChatThinking{.enable = false, .is_cut = true};
  return ChatThinking{.enable = enable};
}

absl::Status RequestBuilder::ReadReasoning(const v1::GenerateRequest& request,
                                           GenerateRequest* out) const {
  if (!model_->supports_reasoning()) return absl::OkStatus();
  const v1::ReasoningOptions& in = request.reasoning();
  ReasoningParams& reasoning = out->reasoning;
  reasoning.parse = in.has_separate() ? in.separate() : request.has_chat();
  reasoning.starts_closed =
      request.chat().continue_final_message() || EndsWithClosedThinkBlock(out->prompt_ids);
  const bool has_budget = in.has_max_thinking_tokens() || in.min_answer_tokens() > 0;
  if (!has_budget) return absl::OkStatus();
  if (!reasoning.starts_closed) return ReadBudget(in, out);
  // What is continued is an answer: nothing was cut there.
  if (!request.has_chat() || request.chat().continue_final_message()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ChatThinking thinking, ThinkingOf(request));
  reasoning.cut_before_start = thinking.is_cut;
  return absl::OkStatus();
}

// The last words of the thinking are left out where they would take what is meant for thinking, or
// would not be heard to their end.
absl::Status RequestBuilder::ReadBudget(const v1::ReasoningOptions& in,
                                        GenerateRequest* out) const {
  ReasoningParams& reasoning = out->reasoning;
  ASSIGN_OR_RETURN(const std::vector<int32_t> tag, model_->encoder->EncodeText(kCloseTag, true));
  std::vector<int32_t> message;
  if (in.has_close_message()) {
    ASSIGN_OR_RETURN(message, model_->encoder->EncodeText(in.close_message(), false));
    message.insert(message.end(), tag.begin(), tag.end());
  } else {
    ASSIGN_OR_RETURN(message, model_->encoder->EncodeText(kDefaultClose, true));
  }
  const int64_t room = *out->stopping.max_tokens - in.min_answer_tokens() - kOpenTag;
  int64_t budget =
      in.has_max_thinking_tokens() ? in.max_thinking_tokens() : std::numeric_limits<int32_t>::max();
  const auto length = static_cast<int64_t>(message.size());
  const bool fits = budget + length <= room || (in.min_answer_tokens() > 0 && 2 * length <= room);
  reasoning.close_token_ids = fits ? message : tag;
  if (in.min_answer_tokens() > 0) {
    budget = std::min(budget, room - static_cast<int64_t>(reasoning.close_token_ids.size()));
  }
  reasoning.max_thinking_tokens = static_cast<int32_t>(std::max<int64_t>(0, budget));
  return absl::OkStatus();
}

bool RequestBuilder::EndsWithClosedThinkBlock(const std::vector<int32_t>& ids) const {
  const auto close = std::find(ids.rbegin(), ids.rend(), *model_->think_close_id);
  if (close == ids.rend()) return false;
  const auto open = std::find(close, ids.rend(), *model_->think_open_id);
  if (open == ids.rend()) return false;
  const auto is_blank = [&](auto begin, auto end) {
    return IsBlank(model_->encoder->Decode(std::span<const int32_t>(begin, end), false));
  };
  // The base of a reverse iterator is the element after it.
  return is_blank(close.base(), ids.end()) && is_blank(open.base(), close.base() - 1);
}

absl::StatusOr<std::vector<int32_t>> RequestBuilder::Tokenize(
    const v1::TokenizeRequest& request) const {
  RETURN_IF_ERROR(CheckModelName(request.model()));
  if (!request.has_chat()) {
    if (request.input_case() != v1::TokenizeRequest::kText) {
      return FieldError("input", "one of text and chat must be set");
    }
    if (!model_->has_tokenizer) return FieldError("text", kNoTokenizer);
    return model_->encoder->EncodeText(request.text(), request.parse_special_tokens());
  }
  FieldViolations violations;
  CheckChat(request.chat(), limits_, &violations);
  if (!v1::ReasoningOptions::Mode_IsValid(request.reasoning_mode())) {
    violations.Add("reasoning_mode", "unknown value");
  }
  RETURN_IF_ERROR(violations.ToStatus());
  return EncodeChat(request.chat(), EnableThinking(request.reasoning_mode(), request.chat()));
}

absl::StatusOr<std::string> RequestBuilder::Detokenize(const v1::DetokenizeRequest& request) const {
  RETURN_IF_ERROR(CheckModelName(request.model()));
  std::vector<int32_t> ids;
  FieldViolations violations;
  ReadTokenIds(request.token_ids(), "token_ids", model_->vocab_size, &ids, &violations);
  RETURN_IF_ERROR(violations.ToStatus());
  return model_->encoder->Decode(
      ids, !request.has_skip_special_tokens() || request.skip_special_tokens());
}

}  // namespace tessera
