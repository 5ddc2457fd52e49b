#include "engine/output/stop_matcher.h"

#include <algorithm>

namespace tessera {

StopMatcher::StopMatcher(const std::vector<std::string>& stops, bool include_stop)
    : include_stop_(include_stop) {
  for (const std::string& stop : stops) {
    Automaton automaton{.stop = stop, .fallback = std::vector<size_t>(stop.size() + 1, 0)};
    for (size_t i = 1, border = 0; i < stop.size(); ++i) {
      while (border > 0 && stop[i] != stop[border]) border = automaton.fallback[border];
      if (stop[i] == stop[border]) ++border;
      automaton.fallback[i + 1] = border;
    }
    automata_.push_back(std::move(automaton));
  }
}

void StopMatcher::Automaton::Step(char byte) {
  if (stop.empty()) return;
  while (matched > 0 && stop[matched] != byte) matched = fallback[matched];
  if (stop[matched] == byte) ++matched;
}

int32_t StopMatcher::StepAll(char byte, bool may_stop) {
  int32_t found = kNoMatch;
  for (size_t i = 0; i < automata_.size(); ++i) {
    Automaton& automaton = automata_[i];
    automaton.Step(byte);
    if (automaton.stop.empty() || automaton.matched < automaton.stop.size()) continue;
    if (!may_stop) {
      automaton.matched = automaton.fallback[automaton.matched];
    } else if (found == kNoMatch || automaton.stop.size() > automata_[found].stop.size()) {
      found = static_cast<int32_t>(i);
    }
  }
  return found;
}

int32_t StopMatcher::Push(std::string_view text, bool may_stop, std::string* shown) {
  if (done_) return kNoMatch;
  if (automata_.empty()) {
    shown->append(text);
    return kNoMatch;
  }
  for (char byte : text) {
    held_.push_back(byte);
    const int32_t found = StepAll(byte, may_stop);
    if (found == kNoMatch) continue;
    const size_t hidden = include_stop_ ? 0 : automata_[found].stop.size();
    shown->append(held_, 0, held_.size() - hidden);
    held_.clear();
    done_ = true;
    return found;
  }
  size_t keep = 0;
  for (const Automaton& automaton : automata_) keep = std::max(keep, automaton.matched);
  shown->append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return kNoMatch;
}

void StopMatcher::Finish(std::string* shown) {
  if (!done_) shown->append(held_);
  held_.clear();
  done_ = true;
}

}  // namespace tessera
