#include "server/model_prompt_encoder.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/chat_messages.h"
#include "engine/text/chat_template.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/tokenizer.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

class ModelPromptEncoder final : public PromptEncoder {
 public:
  ModelPromptEncoder(std::shared_ptr<const Tokenizer> tokenizer,
                     std::optional<ChatTemplate> chat_template)
      : tokenizer_(std::move(tokenizer)), template_(std::move(chat_template)) {}

  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                  bool parse_special) const override {
    return tokenizer_->Encode(text, {.parse_added_tokens = parse_special});
  }

  absl::StatusOr<std::vector<int32_t>> EncodeChat(const Conversation& input) const override {
    ASSIGN_OR_RETURN(const std::vector<PromptSegment> prompt, Render(input));
    std::vector<TextSegment> segments;
    segments.reserve(prompt.size());
    for (const PromptSegment& segment : prompt) segments.push_back({segment.text, segment.trusted});
    return tokenizer_->EncodeSegments(segments);
  }

  absl::StatusOr<std::string> RenderChat(const Conversation& input) const override {
    ASSIGN_OR_RETURN(const std::vector<PromptSegment> prompt, Render(input));
    return ConcatenateSegments(prompt);
  }

  std::string TokenBytes(int32_t id) const override {
    return std::string(tokenizer_->TokenBytes(id));
  }

  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override {
    return tokenizer_->Decode(ids, skip_special);
  }

 private:
  absl::StatusOr<std::vector<PromptSegment>> Render(const Conversation& input) const {
    if (!template_) return absl::FailedPreconditionError("the model has no chat template");
    ChatInput chat;
    ASSIGN_OR_RETURN(chat.messages, jinja::ParseJson(input.messages_json));
    if (!input.tools_json.empty()) {
      ASSIGN_OR_RETURN(chat.tools, jinja::ParseJson(input.tools_json));
    }
    if (input.normalize) {
      RETURN_IF_ERROR(ValidateMessages(chat.messages));
      RETURN_IF_ERROR(ValidateTools(chat.tools));
      ASSIGN_OR_RETURN(chat.messages, NormalizeMessages(chat.messages));
    }
    if (!input.variables_json.empty()) {
      ASSIGN_OR_RETURN(chat.extra, jinja::ParseJson(input.variables_json));
    }
    chat.add_generation_prompt = input.add_generation_prompt;
    chat.continue_final_message = input.continue_final_message;
    chat.enable_thinking = input.enable_thinking;
    return template_->Render(chat);
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
};

}  // namespace

std::string ForeignTokenizerWarning(int32_t tokenizer_size, int32_t vocab_size) {
  return absl::StrCat("tokenizer.json has token ids up to ", tokenizer_size - 1,
                      ", the model only ", vocab_size,
                      " tokens: it may be another model's; prompts with the others are refused");
}

absl::StatusOr<ModelText> LoadModelText(const std::string& model_dir,
                                        const ModelTextOptions& options) {
  ModelText text;
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(model_dir);
  if (options.token_ids_suffice && absl::IsNotFound(tokenizer.status())) {
    tokenizer = Tokenizer::WithoutText();
  }
  RETURN_IF_ERROR(tokenizer.status());
  text.tokenizer = *std::move(tokenizer);
  absl::StatusOr<ChatTemplate> loaded = ChatTemplate::Load(model_dir, options.chat_template);
  std::optional<ChatTemplate> chat_template;
  if (loaded.ok()) {
    text.has_chat_template = true;
    text.writes_coder_xml = loaded->tool_call_format() == ToolCallFormat::kCoderXml;
    chat_template = *std::move(loaded);
  } else if (!absl::IsNotFound(loaded.status())) {
    return loaded.status();
  }
  text.encoder = std::make_shared<ModelPromptEncoder>(text.tokenizer, std::move(chat_template));
  return text;
}

}  // namespace tessera
