// Text in and out of the model's vocabulary, as the front end needs it.
#ifndef TESSERA_SERVER_PROMPT_ENCODER_H_
#define TESSERA_SERVER_PROMPT_ENCODER_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

// A conversation as the template sees it.
struct Conversation {
  std::string messages_json;   // JSON array of messages; all text in it is untrusted
  std::string tools_json;      // JSON array; empty: no tools
  std::string variables_json;  // object of further variables of the template; empty: none
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the prompt ends inside of the last message
  std::optional<bool> enable_thinking;  // unset: undefined in the template
  // Adapt OpenAI-style messages first (arguments of calls become objects, role developer becomes
  // system, …). False: the template sees exactly what is there.
  bool normalize = true;
};

// Text to token ids and back. Immutable; any number of threads.
class PromptEncoder {
 public:
  virtual ~PromptEncoder() = default;

  // parse_special: "<|im_end|>" and the like become control tokens. An error is never the text's
  // fault: out of memory, or a fault in a library.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                          bool parse_special) const = 0;
  // Renders the template; only what the template itself writes can become control tokens.
  // InvalidArgument when the template refuses the messages, FailedPrecondition without a template.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(const Conversation& input) const = 0;
  // The text of the prompt that EncodeChat encodes.
  virtual absl::StatusOr<std::string> RenderChat(const Conversation& input) const = 0;
  // What one token stands for, not necessarily whole characters.
  virtual std::string TokenBytes(int32_t id) const = 0;
  virtual std::string Decode(std::span<const int32_t> ids, bool skip_special) const = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_PROMPT_ENCODER_H_
