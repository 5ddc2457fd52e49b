#include "engine/text/tokenizer.h"

#include <utility>

#include "engine/text/nfc.h"
#include "engine/text/utf8.h"
#include "engine/text/utf8_stream.h"
#include "kernels/core/status_macros.h"

namespace tessera {

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
      pretokenizer_(std::move(pretokenizer)) {
  for (const AddedToken& token : definition.added_tokens) {
    matcher_.Add(token.content, token.id);
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

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeSegments(
    std::span<const TextSegment> segments) const {
  std::vector<int32_t> ids;
  std::string joined;        // text since the last added token that crosses segment borders
  std::string_view stretch;  // text since the last added token: a view of a segment or of joined
  const auto extend = [&](std::string_view text) {
    if (text.empty()) return;
    if (stretch.empty()) {
      stretch = text;
      return;
    }
    if (stretch.data() != joined.data()) joined.assign(stretch);
    joined.append(text);
    stretch = joined;
  };
  for (const TextSegment& segment : segments) {
    size_t position = 0;
    while (segment.trusted) {
      const auto match = matcher_.Find(segment.text, position);
      if (!match) break;
      extend(segment.text.substr(position, match->begin - position));
      RETURN_IF_ERROR(EncodeStretch(stretch, &ids));
      stretch = {};
      ids.push_back(match->id);
      position = match->end;
    }
    extend(segment.text.substr(position));
  }
  RETURN_IF_ERROR(EncodeStretch(stretch, &ids));
  return ids;
}

absl::Status Tokenizer::EncodeStretch(std::string_view raw, std::vector<int32_t>* ids) const {
  std::string repaired;
  std::string normalized;
  std::string_view text = raw;
  if (AsciiPrefixLength(text) < text.size()) {
    if (!IsValidUtf8(text)) {
      AppendRepairedUtf8(text, &repaired);
      text = repaired;
    }
    text = NormalizeNfc(text, &normalized);
  }
  Pretokenizer::Splitter splitter(*pretokenizer_, text);
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
