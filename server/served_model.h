// What the front end knows about the model it serves: names, limits, defaults, text in and out.
#ifndef TESSERA_SERVER_SERVED_MODEL_H_
#define TESSERA_SERVER_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/generation_config.h"
#include "engine/types.h"

namespace tessera {

// A conversation as the template sees it.
struct Conversation {
  std::string messages_json;  // JSON array of messages, all text in it untrusted
  std::string tools_json;     // JSON array; empty: no tools
  bool add_generation_prompt = true;
  std::optional<bool> enable_thinking;  // unset: undefined in the template
};

// Text to token ids and back. Immutable; any number of threads.
class PromptEncoder {
 public:
  virtual ~PromptEncoder() = default;

  // parse_special: "<|im_end|>" and the like become control tokens.
  virtual std::vector<int32_t> EncodeText(std::string_view text, bool parse_special) const = 0;
  // Renders the template; only what the template itself writes can become control tokens.
  // InvalidArgument when the template refuses the messages, FailedPrecondition without a template.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(const Conversation& input) const = 0;
  // The text of the prompt that EncodeChat encodes.
  virtual absl::StatusOr<std::string> RenderChat(const Conversation& input) const = 0;
  virtual std::string Decode(std::span<const int32_t> ids, bool skip_special) const = 0;
};

struct ServedModel {
  std::string name;          // requests may use it
  std::string architecture;  // "Qwen3MoeForCausalLM"
  std::string dtype;         // of the computation
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;  // tokens of prompt and output together
  int64_t num_parameters = 0;
  int64_t num_active_parameters = 0;
  GenerationConfig generation;  // defaults of sampling fields, end tokens
  bool has_chat_template = false;
  // Ids of <think> and </think>; unset: the model does not reason.
  std::optional<int32_t> think_open_id;
  std::optional<int32_t> think_close_id;
  // How the model writes tool calls.
  ToolCallFormat tool_call_format = ToolCallFormat::kHermes;
  std::shared_ptr<const PromptEncoder> encoder;

  bool supports_reasoning() const { return think_open_id && think_close_id; }
};

}  // namespace tessera

#endif  // TESSERA_SERVER_SERVED_MODEL_H_
