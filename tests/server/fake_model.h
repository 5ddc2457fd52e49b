// A served model without weights: every byte of a text is its own token.
#ifndef TESSERA_TESTS_SERVER_FAKE_MODEL_H_
#define TESSERA_TESTS_SERVER_FAKE_MODEL_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/served_model.h"

namespace tessera {

inline constexpr int32_t kFakeVocab = 300;
inline constexpr int32_t kFakeThinkOpen = 256;
inline constexpr int32_t kFakeThinkClose = 257;
inline constexpr int32_t kFakeEos = 258;

class FakeEncoder : public PromptEncoder {
 public:
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                  bool parse_special) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      if (parse_special && Take("<think>", kFakeThinkOpen, &text, &ids)) continue;
      if (parse_special && Take("</think>", kFakeThinkClose, &text, &ids)) continue;
      ids.push_back(static_cast<uint8_t>(text.front()));
      text.remove_prefix(1);
    }
    return ids;
  }

  absl::StatusOr<std::vector<int32_t>> EncodeChat(const Conversation& input) const override {
    auto text = RenderChat(input);
    if (!text.ok()) return text.status();
    std::vector<int32_t> ids = *EncodeText(*text, false);
    if (input.enable_thinking == false) {
      const std::vector<int32_t> closed = *EncodeText("<think>\n\n</think>\n\n", true);
      ids.insert(ids.end(), closed.begin(), closed.end());
    }
    return ids;
  }

  absl::StatusOr<std::string> RenderChat(const Conversation& input) const override {
    if (input.messages_json.find("refuse me") != std::string::npos) {
      return absl::InvalidArgumentError("the template refuses");
    }
    return input.messages_json + input.tools_json;
  }

  std::string TokenBytes(int32_t id) const override {
    return id < 256 ? std::string(1, static_cast<char>(id)) : "";
  }

  std::string Decode(std::span<const int32_t> ids, bool) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 256) text.push_back(static_cast<char>(id));
    }
    return text;
  }

 private:
  static bool Take(std::string_view spelling, int32_t id, std::string_view* text,
                   std::vector<int32_t>* ids) {
    if (text->substr(0, spelling.size()) != spelling) return false;
    text->remove_prefix(spelling.size());
    ids->push_back(id);
    return true;
  }
};

inline ServedModel FakeServedModel(int32_t max_model_len = 4096) {
  ServedModel model;
  model.name = "fake";
  model.architecture = "Qwen3ForCausalLM";
  model.dtype = "float32";
  model.vocab_size = kFakeVocab;
  model.max_model_len = max_model_len;
  model.generation.eos_token_ids = {kFakeEos};
  model.has_chat_template = true;
  model.think_open_id = kFakeThinkOpen;
  model.think_close_id = kFakeThinkClose;
  model.encoder = std::make_shared<FakeEncoder>();
  return model;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_SERVER_FAKE_MODEL_H_
