// Chat messages to the prompt text of a model, through the checkpoint's own Jinja template.
//
//   ASSIGN_OR_RETURN(ChatTemplate chat, ChatTemplate::Load(model_dir));
//   RETURN_IF_ERROR(ValidateMessages(input.messages));                    // chat_messages.h
//   ASSIGN_OR_RETURN(input.messages, NormalizeMessages(input.messages));
//   ASSIGN_OR_RETURN(std::vector<PromptSegment> prompt, chat.Render(input));
#ifndef TESSERA_ENGINE_TEXT_CHAT_TEMPLATE_H_
#define TESSERA_ENGINE_TEXT_CHAT_TEMPLATE_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/jinja/template.h"
#include "engine/text/jinja/value.h"
#include "engine/types.h"

namespace tessera {

// A stretch of the prompt. The tokenizer may parse control tokens such as <|im_end|> only inside of
// one trusted segment; otherwise the segments are one text (ordinary merges cross the borders).
struct PromptSegment {
  std::string text;
  bool trusted = true;
  bool operator==(const PromptSegment&) const = default;
};

// JSON values come from jinja::ParseJson, which marks their strings as untrusted.
struct ChatInput {
  jinja::Value messages;                          // list of dicts with role and content
  jinja::Value tools = jinja::Value::MakeNone();  // list of tool definitions, or none
  bool add_generation_prompt = true;
  // The prompt ends with the content of the last message, which must be a text, as the template
  // shows it: trimmed if the template trims, without what it writes behind it.
  bool continue_final_message = false;
  std::optional<bool> enable_thinking;  // unset: the template's default
  jinja::Value extra;                   // dict of further template variables, or unset
};

// Immutable and thread-safe.
class ChatTemplate {
 public:
  // Finds the model's templates as transformers does: chat_template.jinja is "default", the files
  // of additional_chat_templates/ have their own names ("tool_use.jinja"); without any of these,
  // chat_template of tokenizer_config.json, a text or a list of named ones. Of several, "tool_use"
  // serves requests with tools and "default" all others.
  // `choice` takes one for all requests: by its name ("rag"), or from a file of any place.
  // NOT_FOUND if the model has none; INVALID_ARGUMENT names the file and the line of what is wrong,
  // or the names to choose from. Templates that no request can reach are not read.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_dir,
                                           const std::string& choice = "");

  // From template text, without special tokens.
  static absl::StatusOr<ChatTemplate> FromSource(std::string_view source);

  // The prompt in order; neighbours differ in `trusted`. The messages are used as they are, see
  // NormalizeMessages. INVALID_ARGUMENT if the template refuses them, or does not show the message
  // to continue; RESOURCE_EXHAUSTED if rendering costs too much.
  absl::StatusOr<std::vector<PromptSegment>> Render(const ChatInput& input) const;

  // How the model writes tool calls, detected from the template.
  ToolCallFormat tool_call_format() const { return tool_call_format_; }

 private:
  ChatTemplate() = default;

  std::optional<jinja::Template> default_;  // set, once the object is made
  std::optional<jinja::Template> tool_use_;
  std::vector<std::pair<std::string, std::string>> special_tokens_;  // bos_token, eos_token, ...
  ToolCallFormat tool_call_format_ = ToolCallFormat::kHermes;
};

// The concatenated text of the segments.
std::string ConcatenateSegments(const std::vector<PromptSegment>& segments);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_CHAT_TEMPLATE_H_
