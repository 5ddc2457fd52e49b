#include <optional>
#include <string>
#include <utility>

#include "engine/text/chat_messages.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/value.h"
#include "kernels/core/status_macros.h"
#include "server/http/openai/api_request.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Value;

void ReadCall(const ApiFields& call, v1::ToolCall* out) {
  out->set_id(call.Text("id").value_or(""));
  const Value* function = call.Object("function");
  if (function == nullptr) return call.Fail("function", "must be set");
  const ApiFields members(*function, call.path() + "function.", call.error());
  out->set_name(members.Text("name").value_or(""));
  if (out->name().empty()) members.Fail("name", "must be set");
  const Value* arguments = members.Find("arguments");
  std::string text = "{}";
  if (arguments != nullptr && arguments->is_string()) {
    if (!AreEmptyArguments(arguments->str())) text = arguments->str();
    const absl::StatusOr<Value> parsed = ParseApiBody(text);
    if (!parsed.ok()) members.Fail("arguments", "must be the text of a JSON object");
  } else if (arguments != nullptr && arguments->is_dict()) {
    text = CompactJson(*arguments).value_or("{}");
  } else if (arguments != nullptr) {
    members.Fail("arguments", "must be the text of a JSON object");
  }
  out->set_arguments(text);
}

void ReadMessage(const Value& value, std::string_view path, absl::Status* error,
                 v1::ChatMessage* out) {
  const ApiFields message(value, std::string(path), error);
  out->set_role(message.Text("role").value_or(""));
  out->set_content(ReadContentText(message, "content"));
  out->set_tool_call_id(message.Text("tool_call_id").value_or(""));
  out->set_name(message.Text("name").value_or(""));
  if (out->role() != "assistant") return;
  for (const char* name : {"reasoning_content", "reasoning"}) {
    const auto reasoning = message.Text(name);
    if (reasoning && !reasoning->empty()) out->set_reasoning_content(*reasoning);
  }
  const Value* calls = message.Array("tool_calls");
  if (calls == nullptr) return;
  for (size_t i = 0; i < calls->list().items.size(); ++i) {
    const std::string name = Concat("tool_calls[", i, "]");
    const Value& call = calls->list().items[i];
    if (!call.is_dict()) return message.Fail(name, "must be an object");
    ReadCall(ApiFields(call, Concat(path, name, "."), error), out->add_tool_calls());
  }
}

void ReadTools(const ApiFields& fields, v1::ChatPrompt* chat) {
  const Value* tools = fields.Array("tools");
  if (tools == nullptr) return;
  for (size_t i = 0; i < tools->list().items.size(); ++i) {
    const std::string path = Concat("tools[", i, "]");
    const Value& tool = tools->list().items[i];
    if (!tool.is_dict()) return fields.Fail(path, "must be an object");
    const ApiFields members(tool, path + ".", fields.error());
    if (members.Text("type").value_or("function") != "function") {
      return members.Fail("type", "this server has tools of type \"function\" only");
    }
    const Value* function = members.Object("function");
    if (function == nullptr) return members.Fail("function", "must be set");
    const ApiFields inner(*function, path + ".function.", fields.error());
    if (inner.Text("name").value_or("").empty()) inner.Fail("name", "must be set");
    static_cast<void>(inner.Object("parameters"));
    absl::StatusOr<std::string> json = CompactJson(tool);
    if (!json.ok()) return fields.Fail(path, "cannot be written as JSON");
    *chat->add_tools() = *std::move(json);
  }
}

// The budget and the switch, by all the names that servers have for them.
void ReadReasoning(const ApiFields& fields, ApiRequest* request, v1::ReasoningOptions* out) {
  ReadReasoningEffort(fields, "reasoning_effort", out);
  const auto thinks = ReadTemplateVariables(fields, request->prompts.front().mutable_chat());
  if (thinks) {
    out->set_mode(*thinks ? v1::ReasoningOptions::MODE_THINK : v1::ReasoningOptions::MODE_NO_THINK);
  }
  for (const char* name :
       {"thinking_token_budget", "reasoning_budget_tokens", "thinking_budget_tokens"}) {
    const auto budget = fields.Integer(name);
    if (!budget || out->has_max_thinking_tokens()) continue;
    request->budget_name = name;
    if (*budget != -1) out->set_max_thinking_tokens(*budget);
  }
  if (const auto count = fields.Integer("min_answer_tokens")) out->set_min_answer_tokens(*count);
  if (const auto text = fields.Text("reasoning_budget_message")) out->set_close_message(*text);
  request->include_reasoning = fields.Bool("include_reasoning").value_or(true);
}

void ReadLogprobs(const ApiFields& fields, v1::ResponseOptions* out) {
  const bool wanted = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Integer("top_logprobs");
  if (top && *top != 0 && !wanted) {
    return fields.Fail("top_logprobs", "only with logprobs: true");
  }
  if (wanted) out->set_logprobs(top.value_or(0));
}

void RefuseChatFeatures(const ApiFields& fields) {
  for (const char* name : {"functions", "function_call", "audio", "web_search_options"}) {
    fields.Refuse(name, "not supported; use tools");
  }
  fields.Refuse("chat_template", "the template is the model's own; leave the field out");
  const Value* modalities = fields.Array("modalities");
  if (modalities == nullptr) return;
  for (const Value& modality : modalities->list().items) {
    if (!modality.is_string() || modality.str() != "text") {
      fields.Fail("modalities", "must be [\"text\"]");
    }
  }
}

}  // namespace

std::string ReadContentText(const ApiFields& message, std::string_view key) {
  const Value* content = message.Find(key);
  if (content == nullptr) return "";
  if (content->is_string()) return content->str();
  if (!content->is_list()) {
    message.Fail(key, "must be a string or a list of parts");
    return "";
  }
  std::string text;
  for (size_t i = 0; i < content->list().items.size(); ++i) {
    const Value& part = content->list().items[i];
    const std::string name = Concat(key, "[", i, "]");
    if (!part.is_dict()) {
      message.Fail(name, "must be an object with type and text");
      return "";
    }
    const ApiFields members(part, Concat(message.path(), name, "."), message.error());
    const std::string type = members.Text("type").value_or("text");
    const bool is_text = type == "text" || type == "input_text" || type == "output_text";
    const std::string_view member = type == "refusal" ? "refusal" : "text";
    if (!is_text && type != "refusal") {
      members.Fail("type", Concat("this model reads text only, not \"", type, "\""));
    } else if (!members.Has(member)) {
      members.Fail(member, "must be set");
    }
    if (i > 0) text += "\n";
    text += members.Text(member).value_or("");
  }
  return text;
}

void ReadReasoningEffort(const ApiFields& fields, std::string_view name,
                         v1::ReasoningOptions* out) {
  const auto effort = fields.Text(name);
  if (!effort) return;
  const bool is_known = *effort == "none" || *effort == "minimal" || *effort == "low" ||
                        *effort == "medium" || *effort == "high" || *effort == "xhigh" ||
                        *effort == "auto";
  if (!is_known) fields.Fail(name, "must be none, minimal, low, medium, high, xhigh or auto");
  if (*effort == "auto") return out->set_mode(v1::ReasoningOptions::MODE_AUTO);
  out->set_mode(*effort == "none" ? v1::ReasoningOptions::MODE_NO_THINK
                                  : v1::ReasoningOptions::MODE_THINK);
}

void ReadChatPrompt(const ApiFields& fields, v1::ChatPrompt* chat) {
  const Value* messages = fields.Array("messages");
  if (messages == nullptr) return fields.Fail("messages", "must be set");
  for (size_t i = 0; i < messages->list().items.size() && fields.ok(); ++i) {
    const Value& message = messages->list().items[i];
    const std::string path = Concat("messages[", i, "]");
    if (!message.is_dict()) return fields.Fail(path, "must be an object");
    ReadMessage(message, path + ".", fields.error(), chat->add_messages());
  }
  ReadTools(fields, chat);
  if (const auto wanted = fields.Bool("add_generation_prompt")) {
    chat->set_add_generation_prompt(*wanted);
  }
  chat->set_continue_final_message(fields.Bool("continue_final_message").value_or(false));
}

std::optional<bool> ReadTemplateVariables(const ApiFields& fields, v1::ChatPrompt* chat) {
  const Value* kwargs = fields.Object("chat_template_kwargs");
  if (kwargs == nullptr) return std::nullopt;
  const ApiFields members(*kwargs, "chat_template_kwargs.", fields.error());
  const std::optional<bool> thinks = members.Bool("enable_thinking");
  jinja::Dict others;
  for (const auto& [key, value] : kwargs->dict().entries()) {
    if (key.str() != "enable_thinking") others.Set(key, value);
  }
  if (others.size() == 0) return thinks;
  absl::StatusOr<std::string> json = CompactJson(Value::MakeDict(std::move(others)));
  if (json.ok()) {
    chat->set_template_variables(*std::move(json));
  } else {
    fields.Fail("chat_template_kwargs", "cannot be written as JSON");
  }
  return thinks;
}

absl::StatusOr<ApiRequest> ReadChatRequest(std::string_view body) {
  ASSIGN_OR_RETURN(const Value object, ParseApiBody(body));
  absl::Status error;
  const ApiFields fields(object, "", &error);
  ApiRequest request{.kind = ApiKind::kChat};
  v1::GenerateRequest& prompt = request.prompts.emplace_back();
  ReadCommonFields(fields, &request, &prompt);
  ReadChatPrompt(fields, prompt.mutable_chat());
  ReadToolChoice(fields, /*nested=*/true, &request, prompt.mutable_chat());
  ReadReasoning(fields, &request, prompt.mutable_reasoning());
  ReadLogprobs(fields, prompt.mutable_response());
  RefuseChatFeatures(fields);
  if (fields.Bool("echo").value_or(false) && prompt.chat().messages_size() > 0) {
    const v1::ChatMessage& last = *prompt.chat().messages().rbegin();
    if (last.role() == "assistant") request.echoed_text = last.content();
  }
  const bool shows_tokens = prompt.response().has_logprobs() || request.return_token_ids;
  if (!request.include_reasoning && shows_tokens) {
    fields.Fail("include_reasoning",
                "false does not go with logprobs and token ids, which show it");
  }
  RETURN_IF_ERROR(error);
  return request;
}

}  // namespace tessera
