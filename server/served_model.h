// What the front end knows about the model it serves: names, limits, defaults, text in and out.
#ifndef TESSERA_SERVER_SERVED_MODEL_H_
#define TESSERA_SERVER_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "engine/grammar/structure_cache.h"
#include "engine/model/generation_config.h"
#include "engine/types.h"
#include "server/prompt_encoder.h"

namespace tessera {

struct ServedModel {
  std::string name;          // requests may use it
  std::string architecture;  // "Qwen3MoeForCausalLM"
  std::string dtype;         // of the computation
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;   // tokens of prompt and output together
  int32_t full_model_len = 0;  // what it would be if the KV cache had the memory for it
  int64_t num_parameters = 0;
  int64_t num_active_parameters = 0;
  GenerationConfig generation;  // defaults of sampling fields, end tokens
  bool has_tokenizer = true;    // without one only token ids come in and go out
  bool has_chat_template = false;
  // Ids of <think> and </think>; unset: the model does not reason.
  std::optional<int32_t> think_open_id;
  std::optional<int32_t> think_close_id;
  // How the model writes tool calls.
  ToolCallFormat tool_call_format = ToolCallFormat::kHermes;
  std::shared_ptr<const PromptEncoder> encoder;
  std::shared_ptr<StructureCache> structures;  // null: outputs cannot be held to a structure

  bool supports_reasoning() const { return think_open_id && think_close_id; }
};

}  // namespace tessera

#endif  // TESSERA_SERVER_SERVED_MODEL_H_
