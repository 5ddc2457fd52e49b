#include "server/ask/passage_index.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/text/utf8.h"

namespace tessera {
namespace {

constexpr double kK1 = 1.2;
constexpr double kB = 0.75;
constexpr size_t kShortestPlural = 4;

// Scripts that write no blanks between words.
bool IsIdeograph(char32_t c) {
  return (c >= 0x3040 && c <= 0x30FF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7AF) ||
         (c >= 0x20000 && c <= 0x2FFFF);
}

// Punctuation beyond ASCII: general, CJK, full width; and the no-break space.
bool IsPunctuation(char32_t c) {
  return (c >= 0x2000 && c <= 0x206F) || (c >= 0x3000 && c <= 0x303F) ||
         (c >= 0xFF00 && c <= 0xFF0F) || (c >= 0xFF1A && c <= 0xFF20) || (c >= 0xA0 && c <= 0xBF);
}

// Lower case of ASCII, Latin-1, Greek and Cyrillic letters.
char32_t LowerCase(char32_t c) {
  if (c >= 'A' && c <= 'Z') return c + 32;
  const bool is_latin = c >= 0xC0 && c <= 0xDE && c != 0xD7;
  const bool is_greek_or_cyrillic = (c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F);
  if (is_latin || is_greek_or_cyrillic) return c + 32;
  return c >= 0x400 && c <= 0x40F ? c + 80 : c;
}

class WordReader {
 public:
  std::vector<std::string> Read(std::string_view text) {
    while (!text.empty()) {
      const Utf8Unit unit = NextUtf8Unit(text);
      const char32_t c = unit.kind == Utf8Unit::Kind::kCharacter
                             ? DecodeUtf8Character(text.substr(0, unit.length))
                             : U' ';
      Push(c);
      text.remove_prefix(unit.length);
    }
    EndWord();
    return std::move(words_);
  }

 private:
  void Push(char32_t c) {
    if (IsIdeograph(c)) {
      EndWord();
      std::string one;
      AppendUtf8(c, &one);
      if (!before_.empty()) words_.push_back(before_ + one);
      words_.push_back(one);
      before_ = std::move(one);
      return;
    }
    before_.clear();
    const bool is_letter =
        c < 0x80 ? absl::ascii_isalnum(static_cast<unsigned char>(c)) : !IsPunctuation(c);
    if (!is_letter) return EndWord();
    AppendUtf8(LowerCase(c), &word_);
  }

  void EndWord() {
    if (word_.empty()) return;
    const bool is_plural =
        word_.size() >= kShortestPlural && word_.ends_with('s') && !word_.ends_with("ss");
    if (is_plural) word_.pop_back();
    words_.push_back(std::move(word_));
    word_.clear();
  }

  std::vector<std::string> words_;
  std::string word_;
  std::string before_;  // the ideograph that stands directly before
};

}  // namespace

std::vector<std::string> WordsOf(std::string_view text) { return WordReader().Read(text); }

PassageIndex::PassageIndex(const std::vector<Passage>& passages) {
  double total = 0;
  for (size_t i = 0; i < passages.size(); ++i) {
    const std::vector<std::string> words = WordsOf(passages[i].text);
    const auto passage = static_cast<int32_t>(i);
    for (const std::string& word : words) {
      std::vector<Posting>& list = postings_[word];
      if (list.empty() || list.back().passage != passage) list.push_back({passage, 0});
      ++list.back().count;
    }
    lengths_.push_back(static_cast<int32_t>(words.size()));
    total += static_cast<double>(words.size());
  }
  if (!passages.empty()) mean_length_ = std::max(1.0, total / static_cast<double>(passages.size()));
}

std::vector<PassageIndex::Hit> PassageIndex::Find(std::string_view question, size_t count) const {
  std::vector<double> scores(lengths_.size(), 0);
  std::vector<std::string> words = WordsOf(question);
  std::sort(words.begin(), words.end());  // sums have one order, and so the same last bits
  words.erase(std::unique(words.begin(), words.end()), words.end());
  const auto num_passages = static_cast<double>(lengths_.size());
  for (const std::string& word : words) {
    const auto found = postings_.find(word);
    if (found == postings_.end()) continue;
    const auto containing = static_cast<double>(found->second.size());
    const double idf = std::log(1 + (num_passages - containing + 0.5) / (containing + 0.5));
    for (const Posting& posting : found->second) {
      const double frequency = posting.count;
      const double length = lengths_[static_cast<size_t>(posting.passage)] / mean_length_;
      scores[static_cast<size_t>(posting.passage)] +=
          idf * frequency * (kK1 + 1) / (frequency + kK1 * (1 - kB + kB * length));
    }
  }
  std::vector<Hit> hits;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] > 0) hits.push_back({static_cast<int32_t>(i), scores[i]});
  }
  std::stable_sort(hits.begin(), hits.end(),
                   [](const Hit& a, const Hit& b) { return a.score > b.score; });
  if (hits.size() > count) hits.resize(count);
  return hits;
}

}  // namespace tessera
