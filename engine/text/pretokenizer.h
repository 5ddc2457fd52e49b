// Cuts text into the pieces that byte-pair encoding works on, by the pattern of the Qwen tokenizer.
#ifndef TESSERA_ENGINE_TEXT_PRETOKENIZER_H_
#define TESSERA_ENGINE_TEXT_PRETOKENIZER_H_

#include <cstddef>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/pcre2_regex.h"

namespace tessera {

// The pattern as tokenizer.json spells it (JSON escapes removed). Alternatives in order; the pieces
// cover every text without gaps.
inline constexpr std::string_view kQwenSplitPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Immutable; usable from any number of threads at once, one Splitter per thread and text.
class Pretokenizer {
 public:
  // Compiles the pattern; Internal when PCRE2 lacks Unicode support.
  static absl::StatusOr<std::unique_ptr<const Pretokenizer>> Create();

  // Walks over the pieces of one text.
  class Splitter {
   public:
    // `text` must be valid UTF-8 and, like `pretokenizer`, outlive the splitter.
    Splitter(const Pretokenizer& pretokenizer, std::string_view text);
    Splitter(const Splitter&) = delete;
    Splitter& operator=(const Splitter&) = delete;

    bool done() const { return position_ == text_.size(); }

    // The next piece, never empty. Requires !done(). When PCRE2 fails all the rest is one piece,
    // and status() tells why.
    std::string_view Next();
    const absl::Status& status() const { return status_; }

    // The same piece found by the regular expression alone, without the ASCII short cut.
    std::string_view NextByRegex();

   private:
    size_t PieceEndByRegex();
    std::string_view TakeUntil(size_t end);

    const Pretokenizer& pretokenizer_;
    std::string_view text_;
    size_t position_ = 0;
    std::unique_ptr<Pcre2Regex::Workspace> workspace_;  // made when a piece needs the expression
    absl::Status status_;
  };

 private:
  explicit Pretokenizer(std::unique_ptr<const Pcre2Regex> regex);

  std::unique_ptr<const Pcre2Regex> regex_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_PRETOKENIZER_H_
