#include <string>
#include <utility>

#include "engine/text/chat_messages.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/value.h"
#include "kernels/core/status_macros.h"
#include "server/http/openai/api_request.h"
#include "server/json_text.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Value;

// Turns the items of `input` into messages.
class InputReader {
 public:
  InputReader(absl::Status* error, v1::ChatPrompt* chat) : error_(error), chat_(chat) {}

  void Read(const Value& item, const std::string& path) {
    const ApiFields fields(item, path + ".", error_);
    const std::string type = fields.Text("type").value_or("message");
    if (type == "message") return ReadMessageItem(fields);
    if (type == "function_call") return ReadCallItem(fields);
    if (type == "function_call_output") return ReadResultItem(fields);
    if (type == "reasoning") return ReadReasoningItem(fields);
    fields.Fail("type", Concat("this server has no items of type \"", type, "\""));
  }

 private:
  void ReadMessageItem(const ApiFields& fields) {
    const std::string role = fields.Text("role").value_or("");
    v1::ChatMessage* message = role == "assistant" ? Assistant() : chat_->add_messages();
    message->set_role(role);
    message->set_content(ReadContentText(fields, "content"));
    is_open_ = role == "assistant";
  }

  void ReadCallItem(const ApiFields& fields) {
    // Calls belong to the text that came before them, if any.
    v1::ChatMessage* message = is_open_ ? &*chat_->mutable_messages()->rbegin() : Assistant();
    is_open_ = true;
    v1::ToolCall* call = message->add_tool_calls();
    call->set_id(fields.Text("call_id").value_or(""));
    call->set_name(fields.Text("name").value_or(""));
    if (call->name().empty()) fields.Fail("name", "must be set");
    const std::string arguments = fields.Text("arguments").value_or("");
    call->set_arguments(AreEmptyArguments(arguments) ? "{}" : arguments);
    if (!ParseApiBody(call->arguments()).ok()) {
      fields.Fail("arguments", "must be the text of a JSON object");
    }
  }

  void ReadResultItem(const ApiFields& fields) {
    is_open_ = false;
    v1::ChatMessage* message = chat_->add_messages();
    message->set_role("tool");
    message->set_tool_call_id(fields.Text("call_id").value_or(""));
    message->set_content(ReadContentText(fields, "output"));
  }

  void ReadReasoningItem(const ApiFields& fields) {
    const Value* parts = fields.Array("content");
    if (parts == nullptr) return;
    is_open_ = false;
    for (const Value& part : parts->list().items) {
      const Value text = part.Get("text");
      if (text.is_string()) reasoning_ += text.str();
    }
  }

  v1::ChatMessage* Assistant() {
    v1::ChatMessage* message = chat_->add_messages();
    message->set_role("assistant");
    if (!reasoning_.empty()) message->set_reasoning_content(std::exchange(reasoning_, {}));
    return message;
  }

  absl::Status* const error_;
  v1::ChatPrompt* const chat_;
  std::string reasoning_;  // of the assistant's message that follows
  bool is_open_ = false;   // the last message is the assistant's and takes calls
};

void ReadInput(const ApiFields& fields, v1::ChatPrompt* chat) {
  if (const auto instructions = fields.Text("instructions")) {
    v1::ChatMessage* message = chat->add_messages();
    message->set_role("system");
    message->set_content(*instructions);
  }
  const Value* input = fields.Find("input");
  if (input == nullptr) return fields.Fail("input", "must be set");
  if (input->is_string()) {
    v1::ChatMessage* message = chat->add_messages();
    message->set_role("user");
    message->set_content(input->str());
    return;
  }
  if (!input->is_list()) return fields.Fail("input", "must be a text or a list of items");
  InputReader reader(fields.error(), chat);
  for (size_t i = 0; i < input->list().items.size() && fields.ok(); ++i) {
    const std::string path = Concat("input[", i, "]");
    const Value& item = input->list().items[i];
    if (!item.is_dict()) return fields.Fail(path, "must be an object");
    reader.Read(item, path);
  }
}

// {"type":"function","name":…} becomes the nested form that templates know.
void ReadFlatTools(const ApiFields& fields, v1::ChatPrompt* chat) {
  const Value* tools = fields.Array("tools");
  if (tools == nullptr) return;
  for (size_t i = 0; i < tools->list().items.size() && fields.ok(); ++i) {
    const std::string path = Concat("tools[", i, "]");
    const Value& tool = tools->list().items[i];
    if (!tool.is_dict()) return fields.Fail(path, "must be an object");
    const ApiFields members(tool, path + ".", fields.error());
    if (members.Text("type").value_or("") != "function") {
      return members.Fail("type", "this server has tools of type \"function\" only");
    }
    AddFlatTool(members, "parameters", chat);
  }
}

void ReadResponsesChoices(const ApiFields& fields, ApiRequest* request,
                          v1::GenerateRequest* prompt) {
  ReadToolChoice(fields, /*nested=*/false, request, prompt->mutable_chat());
  if (const Value* text = fields.Object("text")) {
    ReadTextFormat(ApiFields(*text, "text.", fields.error()), request,
                   prompt->mutable_constraints());
  }
  if (const Value* reasoning = fields.Object("reasoning")) {
    const ApiFields members(*reasoning, "reasoning.", fields.error());
    ReadReasoningEffort(members, "effort", prompt->mutable_reasoning());
  }
}

void ReadResponsesLogprobs(const ApiFields& fields, v1::ResponseOptions* out) {
  const auto top = fields.Integer("top_logprobs");
  const Value* include = fields.Array("include");
  if (include == nullptr) return;
  for (const Value& item : include->list().items) {
    if (item.is_string() && item.str() == "message.output_text.logprobs") {
      out->set_logprobs(top.value_or(0));
    }
  }
}

// What the response repeats of its request.
std::string EchoedMembers(const ApiFields& fields) {
  std::string json;
  const auto append = [&](std::string_view name, std::string_view fallback) {
    const Value* value = fields.Find(name);
    const std::string text =
        value == nullptr ? std::string(fallback) : CompactJson(*value).value_or("null");
    json += Concat(",\"", name, "\":", text);
  };
  append("instructions", "null");
  append("max_output_tokens", "null");
  append("metadata", "{}");
  append("parallel_tool_calls", "true");
  append("reasoning", "{\"effort\":null,\"summary\":null}");
  append("temperature", "null");
  append("text", "{\"format\":{\"type\":\"text\"}}");
  append("tool_choice", "\"auto\"");
  append("tools", "[]");
  append("top_p", "null");
  append("truncation", "\"disabled\"");
  append("user", "null");
  return json + ",\"background\":false,\"previous_response_id\":null,\"store\":false";
}

}  // namespace

absl::StatusOr<ApiRequest> ReadResponsesRequest(std::string_view body) {
  ASSIGN_OR_RETURN(const Value object, ParseApiBody(body));
  absl::Status error;
  const ApiFields fields(object, "", &error);
  ApiRequest request{.kind = ApiKind::kResponses};
  v1::GenerateRequest& prompt = request.prompts.emplace_back();
  ReadCommonFields(fields, &request, &prompt);
  if (prompt.has_n() && prompt.n() != 1) fields.Fail("n", "must be 1");
  if (const auto most = fields.Integer("max_output_tokens")) {
    prompt.mutable_stopping()->set_max_tokens(*most);
    request.max_tokens_name = "max_output_tokens";
  }
  ReadInput(fields, prompt.mutable_chat());
  ReadFlatTools(fields, prompt.mutable_chat());
  ReadResponsesChoices(fields, &request, &prompt);
  ReadResponsesLogprobs(fields, prompt.mutable_response());
  for (const char* name : {"previous_response_id", "conversation", "prompt"}) {
    fields.Refuse(name, "this server keeps no responses; send the whole input");
  }
  if (fields.Bool("background").value_or(false)) {
    fields.Fail("background", "this server answers in the foreground only");
  }
  RETURN_IF_ERROR(error);
  request.echoed = EchoedMembers(fields);
  return request;
}

}  // namespace tessera
