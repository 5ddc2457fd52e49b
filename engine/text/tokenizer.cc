#include "engine/text/tokenizer.h"

#include <deque>
#include <utility>

#include "engine/text/nfc.h"
#include "engine/text/utf8.h"
#include "engine/text/utf8_stream.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// NFC of any bytes: `text` itself when nothing changes, otherwise a view of `*storage`.
std::string_view Normalize(std::string_view text, std::string* storage) {
  if (AsciiPrefixLength(text) == text.size()) return text;
  if (IsValidUtf8(text)) return NormalizeNfc(text, storage);
  std::string repaired;
  AppendRepairedUtf8(text, &repaired);
  const std::string_view normal = NormalizeNfc(repaired, storage);
  if (normal.data() == repaired.data()) *storage = std::move(repaired);
  return *storage;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  ASSIGN_OR_RETURN(TokenizerDefinition definition, LoadTokenizerDefinition(model_dir));
  return Create(std::move(definition));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Parse(const TokenizerSources& sources) {
  ASSIGN_OR_RETURN(TokenizerDefinition definition, ParseTokenizerDefinition(sources));
  return Create(std::move(definition));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::WithoutText() {
  TokenizerDefinition nothing;
  nothing.token_offsets = {0};
  return Create(std::move(nothing));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Create(TokenizerDefinition definition) {
  ASSIGN_OR_RETURN(std::unique_ptr<const Pretokenizer> pretokenizer, Pretokenizer::Create());
  return std::shared_ptr<const Tokenizer>(
      new Tokenizer(std::move(definition), std::move(pretokenizer)));
}

Tokenizer::Tokenizer(TokenizerDefinition definition,
                     std::unique_ptr<const Pretokenizer> pretokenizer)
    : token_bytes_(std::move(definition.token_bytes)),
      token_offsets_(std::move(definition.token_offsets)),
      encoder_(definition.byte_ids, definition.merges),
      pretokenizer_(std::move(pretokenizer)),
      eos_token_id_(definition.eos_token_id) {
  for (const AddedToken& token : definition.added_tokens) {
    if (token.normalized) {
      if (!normalized_matcher_) normalized_matcher_.emplace();
      std::string storage;
      normalized_matcher_->Add(Normalize(token.content, &storage), token.id);
    } else {
      matcher_.Add(token.content, token.id);
    }
    added_ids_.emplace(token.content, token.id);
    added_token_ids_.insert(token.id);
    if (token.special) special_ids_.insert(token.id);
  }
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       EncodeOptions options) const {
  const TextSegment document{text, options.parse_added_tokens};
  return EncodeSegments({&document, 1});
}

// Collects text until an added token ends it.
class Tokenizer::Cutter {
 public:
  explicit Cutter(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // `matcher` finds the tokens of this text; null: it holds none.
  absl::Status Add(std::string_view text, const AddedTokenMatcher* matcher) {
    size_t position = 0;
    while (matcher != nullptr) {
      const auto match = matcher->Find(text, position);
      if (!match) break;
      RETURN_IF_ERROR(AddBetween(text.substr(position, match->begin - position), matcher));
      RETURN_IF_ERROR(EndStretch());
      ids_.push_back(match->id);
      position = match->end;
    }
    return AddBetween(text.substr(position), matcher);
  }

  absl::StatusOr<std::vector<int32_t>> Finish() {
    RETURN_IF_ERROR(EndStretch());
    return std::move(ids_);
  }

 private:
  // What is left between the tokens of `matcher`.
  absl::Status AddBetween(std::string_view text, const AddedTokenMatcher* matcher) {
    if (matcher != &tokenizer_.matcher_ || !tokenizer_.normalized_matcher_) {
      Extend(text);
      return absl::OkStatus();
    }
    normalized_.emplace_back();
    return Add(Normalize(text, &normalized_.back()), &*tokenizer_.normalized_matcher_);
  }

  void Extend(std::string_view text) {
    if (text.empty()) return;
    if (stretch_.empty()) {
      stretch_ = text;
      return;
    }
    if (stretch_.data() != joined_.data()) joined_.assign(stretch_);
    joined_.append(text);
    stretch_ = joined_;
  }

  absl::Status EndStretch() {
    RETURN_IF_ERROR(tokenizer_.EncodeStretch(stretch_, &ids_));
    stretch_ = {};
    return absl::OkStatus();
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  std::string joined_;                  // text since the last token that crosses segment borders
  std::deque<std::string> normalized_;  // what views in stretch_ may point into
  std::string_view stretch_;  // text since the last token: a view of a segment, of joined_
                              // or of normalized_
};

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeSegments(
    std::span<const TextSegment> segments) const {
  Cutter cutter(*this);
  for (const TextSegment& segment : segments) {
    RETURN_IF_ERROR(cutter.Add(segment.text, segment.trusted ? &matcher_ : nullptr));
  }
  return cutter.Finish();
}

absl::Status Tokenizer::EncodeStretch(std::string_view raw, std::vector<int32_t>* ids) const {
  std::string storage;
  Pretokenizer::Splitter splitter(*pretokenizer_, Normalize(raw, &storage));
  while (!splitter.done()) encoder_.Encode(splitter.Next(), ids);
  return splitter.status();
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const auto index = static_cast<size_t>(id);
  const uint32_t begin = token_offsets_[index];
  return std::string_view(token_bytes_).substr(begin, token_offsets_[index + 1] - begin);
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string text;
  Utf8Stream stream;
  for (const int32_t id : ids) {
    if (!skip_special || !IsSpecial(id)) stream.Push(TokenBytes(id), &text);
  }
  stream.Finish(&text);
  return text;
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view added_token_text) const {
  const auto entry = added_ids_.find(std::string(added_token_text));
  if (entry == added_ids_.end()) return std::nullopt;
  return entry->second;
}

}  // namespace tessera
