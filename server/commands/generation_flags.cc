#include "server/commands/generation_flags.h"

#include <limits>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "server/chat_json.h"
#include "server/field_violations.h"
#include "server/request_builder.h"
#include "server/request_fields.h"
#include "server/served_model.h"
#include "tessera/v1/error_details.pb.h"

namespace tessera {
namespace {

constexpr int64_t kMaxFileBytes = 64 << 20;

absl::Status CheckUtf8(const GenerationFlags& flags) {
  const auto check = [](const char* option, const std::string& text) {
    if (IsValidUtf8(text)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--", option, ": must be UTF-8 text"));
  };
  RETURN_IF_ERROR(check("prompt", flags.prompt));
  RETURN_IF_ERROR(check("chat", flags.chat));
  RETURN_IF_ERROR(check("system", flags.system));
  RETURN_IF_ERROR(check("model", flags.model));
  RETURN_IF_ERROR(check("cache-salt", flags.cache_salt));
  for (const std::string& stop : flags.stop) RETURN_IF_ERROR(check("stop", stop));
  for (const std::string& word : flags.bad_words) RETURN_IF_ERROR(check("bad-words", word));
  return absl::OkStatus();
}

void AddMessage(const std::string& role, const std::string& content, v1::ChatPrompt* chat) {
  v1::ChatMessage* message = chat->add_messages();
  message->set_role(role);
  message->set_content(content);
}

absl::StatusOr<v1::ChatPrompt> ReadMessages(const GenerationFlags& flags) {
  ASSIGN_OR_RETURN(const ChatFiles files, ReadChatFiles(flags.messages_path, flags.tools_path));
  auto chat = ParseChatPrompt(files.messages, files.tools);
  if (chat.ok()) return chat;
  const bool of_tools = absl::StartsWith(chat.status().message(), "tools");
  return absl::InvalidArgumentError(absl::StrCat(of_tools ? flags.tools_path : flags.messages_path,
                                                 ": ", chat.status().message()));
}

absl::Status SetPrompt(const GenerationFlags& flags, v1::GenerateRequest* request) {
  if (!flags.prompt.empty()) request->set_text(flags.prompt);
  if (!flags.token_ids.empty()) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> ids, ParseIds("--token-ids", flags.token_ids));
    request->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  }
  if (!flags.chat.empty()) {
    v1::ChatPrompt* chat = request->mutable_chat();
    if (!flags.system.empty()) AddMessage("system", flags.system, chat);
    AddMessage("user", flags.chat, chat);
  }
  if (!flags.messages_path.empty()) {
    absl::StatusOr<v1::ChatPrompt> chat = ReadMessages(flags);
    if (!chat.ok()) return absl::FailedPreconditionError(chat.status().message());
    *request->mutable_chat() = *std::move(chat);
  }
  return absl::OkStatus();
}

void SetReasoning(const GenerationFlags& flags, v1::GenerateRequest* request) {
  v1::ReasoningOptions* reasoning = request->mutable_reasoning();
  if (flags.enable_thinking) {
    reasoning->set_mode(*flags.enable_thinking ? v1::ReasoningOptions::MODE_THINK
                                               : v1::ReasoningOptions::MODE_NO_THINK);
  }
  if (flags.max_thinking_tokens) {
    reasoning->set_max_thinking_tokens(*flags.max_thinking_tokens);
  }
}

}  // namespace

void AddPromptOptions(OptionTable* table, GenerationFlags* flags) {
  table->Section("Prompt (exactly one of --prompt, --chat, --token-ids, --messages)");
  table->Text("prompt", &flags->prompt, "Raw text.");
  table->Flag("parse-special-tokens", &flags->parse_special_tokens,
              "Control tokens spelled in --prompt become control tokens.");
  table->Text("chat", &flags->chat, "One user message, put through the chat template.");
  table->Text("system", &flags->system, "System message for --chat.");
  table->Text("token-ids", &flags->token_ids, "Token ids: 1,2,3.");
  table->Text("messages", &flags->messages_path, "JSON file with an array of chat messages.");
  table->Text("tools", &flags->tools_path, "JSON file with an array of tools, for --messages.");
}

void AddSamplingOptions(OptionTable* table, GenerationFlags* flags) {
  table->Section("Generation (unset: what the model recommends)");
  table->Integer("max-tokens", &flags->max_tokens, "Most tokens; unset: up to the context.");
  table->Integer("min-tokens", &flags->min_tokens, "Fewest tokens.");
  table->Real("temperature", &flags->temperature, "0: always the most likely token.");
  table->Integer("top-k", &flags->top_k, "Only the K most likely tokens; 0: all.");
  table->Real("top-p", &flags->top_p, "Only the most likely tokens of this total probability.");
  table->Real("min-p", &flags->min_p, "Only tokens this likely relative to the likeliest.");
  table->Real("repetition-penalty", &flags->repetition_penalty, "1: off.");
  table->Real("presence-penalty", &flags->presence_penalty, "0: off.");
  table->Real("frequency-penalty", &flags->frequency_penalty, "0: off.");
  table->Integer("seed", &flags->seed, "Equal seeds repeat the same answer.");
  table->Integer("n", &flags->n, "Answers to the prompt.");
  table->List("stop", &flags->stop, "Text that ends the answer.");
  table->List("bad-words", &flags->bad_words, "Words never written in their usual tokens.");
  table->Text("stop-token-ids", &flags->stop_token_ids, "Token ids that end the answer: 1,2,3.");
  table->Flag("include-stop", &flags->include_stop, "Keep the stop text in the answer.");
  table->Flag("stop-in-reasoning", &flags->stop_in_reasoning,
              "Let --stop and --min-tokens count the thinking, too, not the answer alone.");
  table->Flag("ignore-eos", &flags->ignore_eos, "Go on after the end of the text.");
  table->Integer("logprobs", &flags->logprobs, "Log probabilities with so many alternatives.");
  table->Integer("prompt-logprobs", &flags->prompt_logprobs, "The same for the prompt.");
  table->Flag("skip-special-tokens", &flags->skip_special_tokens,
              "Leave control tokens out of the text.");
  table->Flag("enable-thinking", &flags->enable_thinking,
              "Sets the chat template's switch; unset: the template's default.");
  table->Integer("max-thinking-tokens", &flags->max_thinking_tokens,
                 "Tokens of thinking before the model has to answer.");
  table->Text("cache-salt", &flags->cache_salt, "Keeps the prefix cache apart from other salts.");
  table->Integer("priority", &flags->priority, "Lower runs first.");
  table->Text("model", &flags->model, "Name of the served model; empty: whatever is served.");
}

namespace {

// Everything but the prompt.
absl::StatusOr<v1::GenerateRequest> SamplingRequest(const GenerationFlags& flags) {
  RETURN_IF_ERROR(CheckUtf8(flags));
  v1::GenerateRequest request;
  request.set_model(flags.model);
  request.set_parse_special_tokens(flags.parse_special_tokens);
  if (flags.n) request.set_n(*flags.n);
  if (flags.priority) request.set_priority(*flags.priority);
  v1::SamplingOptions* sampling = request.mutable_sampling();
  if (flags.temperature) sampling->set_temperature(*flags.temperature);
  if (flags.top_k) sampling->set_top_k(*flags.top_k);
  if (flags.top_p) sampling->set_top_p(*flags.top_p);
  if (flags.min_p) sampling->set_min_p(*flags.min_p);
  if (flags.repetition_penalty) sampling->set_repetition_penalty(*flags.repetition_penalty);
  if (flags.presence_penalty) sampling->set_presence_penalty(*flags.presence_penalty);
  if (flags.frequency_penalty) sampling->set_frequency_penalty(*flags.frequency_penalty);
  if (flags.seed) sampling->set_seed(*flags.seed);
  v1::StoppingOptions* stopping = request.mutable_stopping();
  if (flags.max_tokens) stopping->set_max_tokens(*flags.max_tokens);
  if (flags.min_tokens) stopping->set_min_tokens(*flags.min_tokens);
  for (const std::string& stop : flags.stop) stopping->add_stop(stop);
  ASSIGN_OR_RETURN(const std::vector<int64_t> stop_ids,
                   ParseIds("--stop-token-ids", flags.stop_token_ids));
  stopping->mutable_stop_token_ids()->Add(stop_ids.begin(), stop_ids.end());
  stopping->set_include_stop(flags.include_stop);
  stopping->set_ignore_eos(flags.ignore_eos);
  stopping->set_stop_in_reasoning(flags.stop_in_reasoning);
  for (const std::string& word : flags.bad_words) {
    request.mutable_constraints()->add_bad_words(word);
  }
  v1::ResponseOptions* response = request.mutable_response();
  if (flags.logprobs) response->set_logprobs(*flags.logprobs);
  if (flags.prompt_logprobs) response->set_prompt_logprobs(*flags.prompt_logprobs);
  if (flags.skip_special_tokens) response->set_skip_special_tokens(*flags.skip_special_tokens);
  SetReasoning(flags, &request);
  request.mutable_cache()->set_salt(flags.cache_salt);
  return request;
}

// "stopping.stop[0].length" → "--stop". The options have the names of the fields, but for two.
std::string OptionOf(absl::string_view field) {
  if (field == "cache.salt") return "--cache-salt";
  if (field == "reasoning.mode") return "--enable-thinking";
  absl::string_view name = field.substr(0, field.find('['));
  name.remove_prefix(name.rfind('.') + 1);  // npos + 1 is 0
  return absl::StrCat("--", absl::StrReplaceAll(name, {{"_", "-"}}));
}

// The server's own checks, before a model is loaded or a server asked.
absl::Status CheckFields(const v1::GenerateRequest& request) {
  ServedModel able_model{.vocab_size = std::numeric_limits<int32_t>::max()};
  able_model.think_open_id = able_model.think_close_id = 0;
  FieldViolations violations;
  GenerateRequest unused;
  ReadPlainFields(request, able_model, RequestLimits{}, &unused, &violations);
  const auto details = violations.ToStatus().GetPayload(kBadRequestTypeUrl);
  if (!details.has_value()) return absl::OkStatus();
  v1::BadRequest bad;
  bad.ParseFromString(std::string(*details));
  std::string message;
  for (const auto& violation : bad.field_violations()) {
    absl::StrAppend(&message, message.empty() ? "" : "; ", OptionOf(violation.field()), ": ",
                    absl::EndsWith(violation.field(), ".length") ? "its length " : "",
                    violation.description());
  }
  return absl::InvalidArgumentError(message);
}

}  // namespace

absl::StatusOr<v1::GenerateRequest> PromptRequest(const GenerationFlags& flags) {
  int num_prompts = 0;
  for (const std::string* text :
       {&flags.prompt, &flags.chat, &flags.token_ids, &flags.messages_path}) {
    num_prompts += text->empty() ? 0 : 1;
  }
  if (num_prompts != 1) {
    return absl::InvalidArgumentError(
        "give exactly one of --prompt, --chat, --token-ids and --messages, and not an empty one");
  }
  if (!flags.tools_path.empty() && flags.messages_path.empty()) {
    return absl::InvalidArgumentError("--tools needs --messages");
  }
  ASSIGN_OR_RETURN(v1::GenerateRequest request, SamplingRequest(flags));
  RETURN_IF_ERROR(SetPrompt(flags, &request));
  RETURN_IF_ERROR(CheckFields(request));
  return request;
}

absl::StatusOr<v1::GenerateRequest> ChatRequest(const GenerationFlags& flags) {
  ASSIGN_OR_RETURN(v1::GenerateRequest request, SamplingRequest(flags));
  v1::ChatPrompt* chat = request.mutable_chat();
  if (!flags.system.empty()) AddMessage("system", flags.system, chat);
  RETURN_IF_ERROR(CheckFields(request));
  return request;
}

absl::StatusOr<ChatFiles> ReadChatFiles(const std::string& messages_path,
                                        const std::string& tools_path) {
  ChatFiles files;
  ASSIGN_OR_RETURN(files.messages, ReadTextFile(messages_path, kMaxFileBytes));
  if (tools_path.empty()) return files;
  ASSIGN_OR_RETURN(files.tools, ReadTextFile(tools_path, kMaxFileBytes));
  return files;
}

absl::StatusOr<std::vector<int64_t>> ParseIds(const std::string& option, const std::string& text) {
  std::vector<int64_t> ids;
  if (text.empty()) return ids;
  for (const absl::string_view piece : absl::StrSplit(text, ',')) {
    const absl::string_view part = absl::StripAsciiWhitespace(piece);
    const bool is_number = !part.empty() && absl::c_all_of(part, absl::ascii_isdigit);
    int64_t id = 0;
    if (!is_number || !absl::SimpleAtoi(part, &id) || id > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError(absl::StrCat(
          option, ": must be token ids, from 0, separated by commas, got \"", part, "\""));
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace tessera
