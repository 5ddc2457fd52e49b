// A regular expression of PCRE2, with its failures as statuses.
#ifndef TESSERA_ENGINE_TEXT_PCRE2_REGEX_H_
#define TESSERA_ENGINE_TEXT_PCRE2_REGEX_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// Of one match; beyond them it fails.
struct RegexLimits {
  uint32_t steps = UINT32_MAX;  // of backtracking
  uint32_t heap_kib = 0;        // memory for backtracking
};

// Immutable; any number of threads, one Workspace per thread.
class Pcre2Regex {
 public:
  // Matches at the given position only, UTF-8, classes by Unicode. INTERNAL when PCRE2 cannot
  // compile it, for want of Unicode support for example.
  static absl::StatusOr<std::unique_ptr<const Pcre2Regex>> Compile(std::string_view pattern,
                                                                   RegexLimits limits);
  ~Pcre2Regex();

  // What a match needs; made once, used for many.
  class Workspace {
   public:
    Workspace();
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

   private:
    friend class Pcre2Regex;
    struct Data;
    std::unique_ptr<Data> data_;
  };

  // Where the match ends that begins at `position` of `text`, valid UTF-8. NOT_FOUND when nothing
  // matches there, otherwise a failure as below.
  absl::StatusOr<size_t> MatchEnd(std::string_view text, size_t position,
                                  Workspace& workspace) const;

 private:
  struct Compiled;
  explicit Pcre2Regex(std::unique_ptr<const Compiled> compiled);

  std::unique_ptr<const Compiled> compiled_;
};

// An error code of pcre2_match: RESOURCE_EXHAUSTED out of memory, INVALID_ARGUMENT when the text
// takes more steps than allowed (the next attempt would, too), NOT_FOUND without a match, INTERNAL
// with PCRE2's words for invalid UTF-8 and all else.
absl::Status Pcre2Failure(int error);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_PCRE2_REGEX_H_
