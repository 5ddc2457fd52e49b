// Requests of Anthropic's Messages API.
#include <string>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/value.h"
#include "kernels/core/status_macros.h"
#include "server/http/openai/api_request.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Value;

// The text of a string, or of text blocks, which are joined with line ends.
std::string ReadBlocksText(const ApiFields& fields, std::string_view name) {
  const Value* content = fields.Find(name);
  if (content == nullptr) return "";
  if (content->is_string()) return content->str();
  if (!content->is_list()) {
    fields.Fail(name, "must be a text or a list of blocks");
    return "";
  }
  std::string text;
  for (size_t i = 0; i < content->list().items.size() && fields.ok(); ++i) {
    const std::string path = Concat(name, "[", i, "]");
    const Value& item = content->list().items[i];
    if (!item.is_dict()) {
      fields.Fail(path, "must be an object");
      break;
    }
    const ApiFields block(item, Concat(fields.path(), path, "."), fields.error());
    const std::string type = block.Text("type").value_or("");
    if (type != "text") {
      block.Fail("type",
                 Concat("this server reads blocks of type \"text\" here, not \"", type, "\""));
      break;
    }
    if (i > 0) text += "\n";
    text += block.Text("text").value_or("");
  }
  return text;
}

// One message becomes several: every result of a tool is one of its own.
class MessageReader {
 public:
  MessageReader(const ApiFields& message, v1::ChatPrompt* chat) : message_(message), chat_(chat) {}

  void Read() {
    const std::string role = message_.Text("role").value_or("");
    if (role != "user" && role != "assistant") {
      return message_.Fail("role", "must be \"user\" or \"assistant\"");
    }
    is_assistant_ = role == "assistant";
    const Value* content = message_.Find("content");
    if (content == nullptr) return message_.Fail("content", "must be set");
    if (content->is_string()) {
      AddText(content->str());
    } else if (!content->is_list()) {
      return message_.Fail("content", "must be a text or a list of blocks");
    } else {
      ReadBlocks(*content);
    }
    if (current_ == nullptr && chat_->messages_size() == num_before_) Current();
  }

 private:
  void ReadBlocks(const Value& content) {
    for (size_t i = 0; i < content.list().items.size() && message_.ok(); ++i) {
      const std::string path = Concat("content[", i, "]");
      const Value& item = content.list().items[i];
      if (!item.is_dict()) return message_.Fail(path, "must be an object");
      ReadBlock(ApiFields(item, Concat(message_.path(), path, "."), message_.error()));
    }
  }

  void ReadBlock(const ApiFields& block) {
    const std::string type = block.Text("type").value_or("");
    if (type == "text") return AddText(block.Text("text").value_or(""));
    if (type == "tool_result" && !is_assistant_) return AddResult(block);
    if (type == "tool_use" && is_assistant_) return AddCall(block);
    if (type == "thinking" && is_assistant_) {
      v1::ChatMessage* message = Current();
      message->set_reasoning_content(message->reasoning_content() +
                                     block.Text("thinking").value_or(""));
      return;
    }
    if (type == "redacted_thinking" && is_assistant_) return;
    block.Fail("type", Concat("this server does not read blocks of type \"", type.substr(0, 60),
                              "\" of the ", is_assistant_ ? "assistant" : "user"));
  }

  v1::ChatMessage* Current() {
    if (current_ == nullptr) {
      current_ = chat_->add_messages();
      current_->set_role(is_assistant_ ? "assistant" : "user");
    }
    return current_;
  }

  void AddText(const std::string& text) {
    v1::ChatMessage* message = Current();
    message->set_content(message->content().empty() ? text
                                                    : Concat(message->content(), "\n", text));
  }

  void AddResult(const ApiFields& block) {
    current_ = nullptr;
    v1::ChatMessage* result = chat_->add_messages();
    result->set_role("tool");
    result->set_tool_call_id(block.Text("tool_use_id").value_or(""));
    result->set_content(ReadBlocksText(block, "content"));
  }

  void AddCall(const ApiFields& block) {
    v1::ToolCall* call = Current()->add_tool_calls();
    call->set_id(block.Text("id").value_or(""));
    call->set_name(block.Text("name").value_or(""));
    if (call->name().empty()) block.Fail("name", "must be set");
    const Value* input = block.Object("input");
    call->set_arguments(input == nullptr ? "{}" : CompactJson(*input).value_or("{}"));
  }

  const ApiFields& message_;
  v1::ChatPrompt* const chat_;
  const int num_before_ = chat_->messages_size();
  bool is_assistant_ = false;
  v1::ChatMessage* current_ = nullptr;  // takes further text
};

void ReadMessages(const ApiFields& fields, v1::ChatPrompt* chat) {
  const std::string system = ReadBlocksText(fields, "system");
  if (!system.empty()) {
    v1::ChatMessage* message = chat->add_messages();
    message->set_role("system");
    message->set_content(system);
  }
  const Value* messages = fields.Array("messages");
  if (messages == nullptr || messages->list().items.empty()) {
    return fields.Fail("messages", "must have at least one message");
  }
  for (size_t i = 0; i < messages->list().items.size() && fields.ok(); ++i) {
    const std::string path = Concat("messages[", i, "]");
    const Value& item = messages->list().items[i];
    if (!item.is_dict()) return fields.Fail(path, "must be an object");
    MessageReader(ApiFields(item, path + ".", fields.error()), chat).Read();
  }
}

// {name, description, input_schema} becomes the form that templates know.
void ReadMessageTools(const ApiFields& fields, v1::ChatPrompt* chat) {
  const Value* tools = fields.Array("tools");
  if (tools == nullptr) return;
  for (size_t i = 0; i < tools->list().items.size() && fields.ok(); ++i) {
    const std::string path = Concat("tools[", i, "]");
    const Value& tool = tools->list().items[i];
    if (!tool.is_dict()) return fields.Fail(path, "must be an object");
    const ApiFields members(tool, path + ".", fields.error());
    if (members.Text("type").value_or("custom") != "custom") {
      return members.Fail("type", "this server has no tools of its own");
    }
    AddFlatTool(members, "input_schema", chat);
  }
}

void ReadMessageToolChoice(const ApiFields& fields, ApiRequest* request, v1::ChatPrompt* chat) {
  const Value* choice = fields.Object("tool_choice");
  if (choice == nullptr) return;
  const ApiFields members(*choice, "tool_choice.", fields.error());
  const std::string type = members.Text("type").value_or("");
  if (type == "none") {
    chat->set_tool_choice(v1::TOOL_CHOICE_NONE);
  } else if (type == "any") {
    chat->set_tool_choice(v1::TOOL_CHOICE_REQUIRED);
  } else if (type == "tool") {
    chat->set_tool_choice(v1::TOOL_CHOICE_NAMED);
    chat->set_tool_name(members.Text("name").value_or(""));
    if (chat->tool_name().empty()) members.Fail("name", "must be set");
  } else if (type != "auto") {
    members.Fail("type", "must be \"auto\", \"any\", \"tool\" or \"none\"");
  }
  if (members.Bool("disable_parallel_tool_use").value_or(false)) {
    request->parallel_tool_calls = false;
    chat->set_parallel_tool_calls(false);
  }
}

void ReadThinking(const ApiFields& fields, ApiRequest* request, v1::ReasoningOptions* out) {
  const Value* thinking = fields.Object("thinking");
  if (thinking == nullptr) return;
  const ApiFields members(*thinking, "thinking.", fields.error());
  const std::string type = members.Text("type").value_or("");
  if (type == "disabled") return out->set_mode(v1::ReasoningOptions::MODE_NO_THINK);
  if (type != "enabled" && type != "adaptive") {
    return members.Fail("type", "must be \"enabled\", \"adaptive\" or \"disabled\"");
  }
  out->set_mode(v1::ReasoningOptions::MODE_THINK);
  const auto budget = members.Integer("budget_tokens");
  if (!budget) return;
  request->budget_name = "thinking.budget_tokens";
  out->set_max_thinking_tokens(*budget);
}

void ReadStopSequences(const ApiFields& fields, v1::StoppingOptions* out) {
  const Value* stops = fields.Array("stop_sequences");
  if (stops == nullptr) return;
  for (size_t i = 0; i < stops->list().items.size() && fields.ok(); ++i) {
    const Value& stop = stops->list().items[i];
    if (!stop.is_string()) {
      return fields.Fail(Concat("stop_sequences[", i, "]"), "must be a string");
    }
    out->add_stop(stop.str());
  }
}

// A last message of the assistant is the beginning of the answer.
void ContinueLastMessage(v1::ChatPrompt* chat) {
  if (chat->messages_size() == 0) return;
  const v1::ChatMessage& last = *chat->messages().rbegin();
  chat->set_continue_final_message(last.role() == "assistant" && !last.content().empty() &&
                                   last.tool_calls_size() == 0);
}

}  // namespace

absl::StatusOr<ApiRequest> ReadMessagesRequest(std::string_view body) {
  ASSIGN_OR_RETURN(const Value object, ParseApiBody(body));
  absl::Status error;
  const ApiFields fields(object, "", &error);
  ApiRequest request{.kind = ApiKind::kMessages};
  v1::GenerateRequest& prompt = request.prompts.emplace_back();
  ReadCommonFields(fields, &request, &prompt);
  if (prompt.has_n() && prompt.n() != 1) fields.Fail("n", "must be 1");
  ReadStopSequences(fields, prompt.mutable_stopping());
  ReadMessages(fields, prompt.mutable_chat());
  ContinueLastMessage(prompt.mutable_chat());
  ReadMessageTools(fields, prompt.mutable_chat());
  ReadMessageToolChoice(fields, &request, prompt.mutable_chat());
  ReadThinking(fields, &request, prompt.mutable_reasoning());
  RETURN_IF_ERROR(error);
  return request;
}

}  // namespace tessera
