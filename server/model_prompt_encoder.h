// PromptEncoder over a checkpoint's own tokenizer and chat template.
#ifndef TESSERA_SERVER_MODEL_PROMPT_ENCODER_H_
#define TESSERA_SERVER_MODEL_PROMPT_ENCODER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/prompt_encoder.h"

namespace tessera {

class Tokenizer;

struct ModelText {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const PromptEncoder> encoder;
  bool has_chat_template = false;
  bool writes_coder_xml = false;  // tool calls as XML instead of JSON
};

// Reads tokenizer and chat template of a model folder; a folder without a template is fine. Errors
// name the file.
struct ModelTextOptions {
  std::string chat_template;       // as ChatTemplate::Load's choice; empty: the model's own
  bool token_ids_suffice = false;  // no tokenizer.json gives a model without text, not an error
};
absl::StatusOr<ModelText> LoadModelText(const std::string& model_dir,
                                        const ModelTextOptions& options = {});

// Of a tokenizer with more tokens than the model: requests that meet one are refused.
std::string ForeignTokenizerWarning(int32_t tokenizer_size, int32_t vocab_size);

}  // namespace tessera

#endif  // TESSERA_SERVER_MODEL_PROMPT_ENCODER_H_
