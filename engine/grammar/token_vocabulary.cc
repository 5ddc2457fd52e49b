#include "engine/grammar/token_vocabulary.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "engine/grammar/automaton.h"
#include "engine/grammar/regex.h"
#include "kernels/core/bit_mask.h"

namespace tessera::grammar {
namespace {

constexpr size_t kMaxTokenBytes = 1024;  // longer tokens are never drawn

// Code points of a token that is plain, 0 for others.
int32_t PlainCodePoints(std::string_view text) {
  int32_t count = 0;
  while (!text.empty()) {
    uint32_t c = 0;
    if (!TakeCodePoint(&text, &c)) return 0;
    if (c < 0x20 || c == '"' || c == '\\' || c == 0x7F) return 0;
    ++count;
  }
  return count;
}

}  // namespace

TokenTrie::TokenTrie(std::vector<Entry> entries) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.bytes < b.bytes; });
  std::vector<int32_t> path;  // nodes from the root to the last one
  std::string_view last;
  const auto close = [&](size_t depth) {
    while (path.size() > depth) {
      const int32_t node = path.back();
      path.pop_back();
      nodes_[node].end = static_cast<int32_t>(nodes_.size());
      if (!path.empty()) {
        Node& parent = nodes_[path.back()];
        parent.max_code_points = std::max(parent.max_code_points, nodes_[node].max_code_points);
      }
    }
  };
  for (const Entry& entry : entries) {
    const auto same =
        std::mismatch(last.begin(), last.end(), entry.bytes.begin(), entry.bytes.end());
    const auto shared = static_cast<size_t>(same.first - last.begin());
    last = entry.bytes;
    if (shared == entry.bytes.size()) continue;
    close(shared);
    for (size_t i = shared; i < entry.bytes.size(); ++i) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back(
          {.byte = static_cast<uint8_t>(entry.bytes[i]), .depth = static_cast<uint16_t>(i + 1)});
    }
    nodes_.back().token = entry.token;
    nodes_.back().max_code_points = entry.code_points;
  }
  close(0);
}

int32_t TokenTrie::LongestMatch(absl::Span<const uint16_t> symbols, int32_t* token) const {
  int32_t best = 0;
  size_t depth = 0;
  int32_t i = 0;
  int32_t end = static_cast<int32_t>(nodes_.size());
  while (i < end && depth < symbols.size()) {
    const Node& node = nodes_[i];
    if (node.byte != symbols[depth]) {
      i = node.end;
      continue;
    }
    ++depth;
    if (node.token >= 0) {
      best = static_cast<int32_t>(depth);
      *token = node.token;
    }
    end = node.end;
    ++i;
  }
  return best;
}

TokenVocabulary::TokenVocabulary(const Options& options)
    : vocab_size_(options.vocab_size), end_token_ids_(options.end_token_ids) {
  offsets_.push_back(0);
  for (int32_t id = 0; id < vocab_size_; ++id) {
    const std::string_view bytes = options.bytes(id);
    if (bytes.size() <= kMaxTokenBytes) text_.append(bytes);
    offsets_.push_back(static_cast<uint32_t>(text_.size()));
  }
  std::vector<TokenTrie::Entry> plain;
  std::vector<TokenTrie::Entry> other;
  slices_.assign(kMaxSlice, std::vector<int32_t>(MaskWords(vocab_size_)));
  std::array<bool, kByteSymbols> known{};
  std::vector<int32_t> texts(MaskWords(vocab_size_));
  for (int32_t id = 0; id < vocab_size_; ++id) {
    const std::string_view text = bytes(id);
    if (text.empty()) continue;
    AddToMask(texts.data(), id);
    longest_token_ = std::max(longest_token_, static_cast<int32_t>(text.size()));
    if (text.size() == 1) known[static_cast<uint8_t>(text[0])] = true;
    const int32_t count = std::min(PlainCodePoints(text), kMaxSlice);
    (count > 0 ? plain : other).push_back({text, id, static_cast<uint8_t>(count)});
    for (int32_t n = count; n > 0 && n <= kMaxSlice; ++n) AddToMask(slices_[n - 1].data(), id);
  }
  has_all_bytes_ = std::find(known.begin(), known.end(), false) == known.end();
  texts_ = std::make_shared<const TokenMask>(std::move(texts));
  plain_ = TokenTrie(std::move(plain));
  other_ = TokenTrie(std::move(other));
}

std::string_view TokenVocabulary::bytes(int32_t token) const {
  if (token < 0 || token >= vocab_size_) return {};
  return std::string_view(text_).substr(offsets_[token], offsets_[token + 1] - offsets_[token]);
}

int32_t TokenVocabulary::FirstToken(absl::Span<const uint16_t> symbols, int32_t* length) const {
  constexpr int32_t kTerminal = -2;
  *length = 1;
  if (symbols[0] >= kByteSymbols) return kTerminal;
  int32_t token = -1;
  int32_t other_token = -1;
  const int32_t plain = plain_.LongestMatch(symbols, &token);
  const int32_t other = other_.LongestMatch(symbols, &other_token);
  *length = std::max({plain, other, 1});
  return other > plain ? other_token : token;
}

int32_t TokenVocabulary::CountTokens(absl::Span<const uint16_t> symbols) const {
  int32_t count = 0;
  while (!symbols.empty()) {
    int32_t length = 0;
    if (FirstToken(symbols, &length) == -1) return -1;
    symbols.remove_prefix(length);
    ++count;
  }
  return count;
}

}  // namespace tessera::grammar
