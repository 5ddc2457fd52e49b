// Finds stop strings in streamed text and never shows a part of one too early.
#ifndef TESSERA_ENGINE_OUTPUT_STOP_MATCHER_H_
#define TESSERA_ENGINE_OUTPUT_STOP_MATCHER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// The match that ends first wins; of several that end there the longest. So the result does not
// depend on how the text is cut into pieces. Text that could be the beginning of a stop string is
// held back until it is clear. Whole characters in, whole characters out (stop strings are UTF-8).
// One Knuth-Morris-Pratt automaton per stop string: O(text * stops), no rescans. Not thread-safe.
class StopMatcher {
 public:
  static constexpr int32_t kNoMatch = -1;

  // Empty strings are ignored. The stop itself is shown when `include_stop`.
  StopMatcher(const std::vector<std::string>& stops, bool include_stop);

  // Appends what may be shown to `*shown` and returns the index of the stop string that was found,
  // after which nothing more is shown. While !may_stop complete matches are ignored, but one may
  // begin in such text.
  int32_t Push(std::string_view text, bool may_stop, std::string* shown);

  // The text has ended without a stop: what was held back is shown.
  void Finish(std::string* shown);

  // There is nothing to find.
  bool empty() const { return automata_.empty(); }
  size_t held_bytes() const { return held_.size(); }

 private:
  struct Automaton {
    std::string stop;
    std::vector<size_t> fallback;  // [i]: longest proper border of the first i bytes
    size_t matched = 0;            // leading bytes of `stop` that the text ends with
    void Step(char byte);
  };

  // Index of the longest complete stop, kNoMatch when there is none.
  int32_t StepAll(char byte, bool may_stop);

  std::vector<Automaton> automata_;
  const bool include_stop_;
  bool done_ = false;
  std::string held_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_OUTPUT_STOP_MATCHER_H_
