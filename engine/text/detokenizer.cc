#include "engine/text/detokenizer.h"

#include <algorithm>
#include <utility>

namespace tessera {

IncrementalDetokenizer::IncrementalDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                                               DetokenizeOptions options)
    : tokenizer_(std::move(tokenizer)), options_(std::move(options)) {}

void IncrementalDetokenizer::Push(int32_t id, std::string* text) {
  if (options_.skip_special && tokenizer_->IsSpecial(id) &&
      std::find(options_.keep.begin(), options_.keep.end(), id) == options_.keep.end()) {
    return;
  }
  stream_.Push(tokenizer_->TokenBytes(id), text);
}

void IncrementalDetokenizer::Finish(std::string* text) { stream_.Finish(text); }

}  // namespace tessera
