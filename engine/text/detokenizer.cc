#include "engine/text/detokenizer.h"

#include <utility>

namespace tessera {

IncrementalDetokenizer::IncrementalDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                                               DetokenizeOptions options)
    : tokenizer_(std::move(tokenizer)), options_(options) {}

void IncrementalDetokenizer::Push(int32_t id, std::string* text) {
  if (options_.skip_special && tokenizer_->IsSpecial(id)) return;
  stream_.Push(tokenizer_->TokenBytes(id), text);
}

void IncrementalDetokenizer::Finish(std::string* text) { stream_.Finish(text); }

}  // namespace tessera
