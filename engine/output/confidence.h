// How sure the model was of an answer.
#ifndef TESSERA_ENGINE_OUTPUT_CONFIDENCE_H_
#define TESSERA_ENGINE_OUTPUT_CONFIDENCE_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "engine/types.h"

namespace tessera {

// Mean and lowest of p(token), the softmax over the vocabulary before sampling options, over the
// tokens of the answer: without reasoning, the think tags and the blanks between them and the
// answer, and without the token that ends it. One token in doubt shows in the lowest, a text of
// many in the mean.
class ConfidenceMeter {
 public:
  struct Token {
    float logprob = 0.0F;
    std::string_view text;
    bool is_answer = true;  // no reasoning, tag or end
  };
  void Add(const Token& token);
  // nullopt before the first token of the answer.
  std::optional<Confidence> result() const;

 private:
  double sum_ = 0;
  double lowest_ = 1;
  int32_t count_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_OUTPUT_CONFIDENCE_H_
